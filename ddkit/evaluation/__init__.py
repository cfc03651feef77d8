"""How good is a distilled set: train on it, then compare with controls and published figures."""

from ddkit.evaluation.assess import assess, merge_draws, read_evaluation, write_evaluation
from ddkit.evaluation.baselines import baseline_sets, images_per_class_for_bytes
from ddkit.evaluation.choice import common_recipe, own_model, recipe_for_others, recipe_of, whole_recipe
from ddkit.evaluation.coded_reals import all_forms
from ddkit.evaluation.compatibility import check_compatible
from ddkit.evaluation.evaluate import evaluate, evaluate_real, network_seeds
from ddkit.evaluation.fairness import (
    RobustScores,
    augmentation_robust_score,
    label_robust_score,
    robust_scores,
)
from ddkit.evaluation.form_search import Tried, best_form
from ddkit.evaluation.kernel import evaluate_kernel, kernel_of
from ddkit.evaluation.published import PublishedFigure, published, published_table
from ddkit.evaluation.results import ArchitectureResult, EvaluationResult, KernelRecipe
from ddkit.evaluation.statistics import (
    PairedDifference,
    Summary,
    TwoLevelSummary,
    paired_difference,
    summary,
    two_level,
)

__all__ = [
    "ArchitectureResult",
    "EvaluationResult",
    "KernelRecipe",
    "PairedDifference",
    "PublishedFigure",
    "RobustScores",
    "Summary",
    "Tried",
    "TwoLevelSummary",
    "all_forms",
    "assess",
    "augmentation_robust_score",
    "baseline_sets",
    "best_form",
    "check_compatible",
    "common_recipe",
    "evaluate",
    "evaluate_kernel",
    "evaluate_real",
    "images_per_class_for_bytes",
    "kernel_of",
    "label_robust_score",
    "merge_draws",
    "network_seeds",
    "own_model",
    "paired_difference",
    "published",
    "published_table",
    "read_evaluation",
    "recipe_for_others",
    "recipe_of",
    "robust_scores",
    "summary",
    "two_level",
    "whole_recipe",
    "write_evaluation",
]
