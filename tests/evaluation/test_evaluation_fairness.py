"""Are DD-Ranking's scores those of its formulas, and fed with the right evaluations?"""

from __future__ import annotations

import math

import pytest
import torch.nn.functional as F

from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.evaluation import augmentation_robust_score, baseline_sets, evaluate, label_robust_score, robust_scores
from ddkit.training import TrainingRecipe

from .conftest import TINY, random_set, with_labels

Pair = tuple[RealData, RealData]


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, 0.26894), (1.0, 1.0), (-1.0, 0.0)])
def test_label_robust_score_of_alpha(alpha: float, expected: float) -> None:
    assert label_robust_score(-alpha, alpha) == pytest.approx(expected, abs=1e-5)


def test_label_robust_score_weighs_both_parts() -> None:
    alpha = 0.25 * 0.3 - 0.75 * 0.1
    expected = (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
    assert label_robust_score(0.1, 0.3, weight=0.25) == pytest.approx(expected)


def test_augmentation_robust_score_of_beta() -> None:
    assert augmentation_robust_score(0.5, 0.5, 0.4, 0.4) == pytest.approx(0.26894, abs=1e-5)
    assert augmentation_robust_score(1, 0, 1, 0) == pytest.approx(1)
    beta = 0.2 * (0.6 - 0.5) + 0.8 * (0.5 - 0.2)
    expected = (math.exp(beta) - math.exp(-1)) / (math.e - math.exp(-1))
    assert augmentation_robust_score(0.6, 0.5, 0.5, 0.2, gamma=0.2) == pytest.approx(expected)


def test_percentages_and_weights_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="divide percentages by 100"):
        label_robust_score(12.0, 0.3)
    with pytest.raises(ConfigError, match="divide percentages by 100"):
        augmentation_robust_score(60, 50, 50, 20)
    with pytest.raises(ConfigError, match="weight=2"):
        label_robust_score(0.1, 0.3, weight=2)
    with pytest.raises(ConfigError, match="gamma=-1"):
        augmentation_robust_score(0.6, 0.5, 0.5, 0.2, gamma=-1)


def test_scores_come_from_the_evaluations_they_name(digits: Pair) -> None:
    train, test = digits
    hard = random_set(train, 2)
    distilled = with_labels(hard, F.one_hot(hard.labels, 10).float() * 0.9 + 0.01, "soft")
    recipe = TrainingRecipe(epochs=5, augmentation="crop_scale")
    scores = robust_scores(distilled, train, test, architecture=TINY, recipe=recipe, whole=0.97, repeats=2, seed=3)

    def mean(which: object, how: TrainingRecipe) -> float:
        return evaluate(which, test, [TINY], 2, how, seed=3).rows[0].mean  # type: ignore[arg-type]

    plain = recipe.replace(augmentation="none")
    control = baseline_sets(train, distilled, ("random-soft",), seed=3)["random-soft"][0]  # type: ignore[index]
    assert scores.accuracies == {
        "whole": 0.97,
        "distilled-hard": mean(hard, recipe),
        "distilled-augmented": mean(distilled, recipe),
        "random-augmented": mean(control, recipe),
        "distilled-plain": mean(distilled, plain),
        "random-plain": mean(control, plain),
    }
    found = scores.accuracies
    assert scores.hlr == 0.97 - found["distilled-hard"]
    assert scores.ior == found["distilled-augmented"] - found["random-augmented"]
    assert scores.lrs == label_robust_score(scores.hlr, scores.ior)
    assert scores.ars == augmentation_robust_score(
        found["distilled-augmented"],
        found["random-augmented"],
        found["distilled-plain"],
        found["random-plain"],
    )
    assert scores.as_dict()["alpha"] == pytest.approx((scores.ior - scores.hlr) / 2)


def test_cutmix_counts_as_augmentation_in_the_scores(digits: Pair) -> None:
    train, test = digits
    distilled, recipe = random_set(train, 2), TrainingRecipe(epochs=5, batch_size=8, cutmix=1)
    scores = robust_scores(distilled, train, test, architecture=TINY, recipe=recipe, whole=0.97, repeats=1, seed=3)
    own, plain = (
        evaluate(distilled, test, [TINY], 1, how, seed=3).rows[0].mean for how in (recipe, recipe.replace(cutmix=0))
    )
    assert scores.accuracies["distilled-augmented"] == scores.accuracies["distilled-hard"] == own
    assert scores.accuracies["distilled-plain"] == plain
    assert scores.ior == own - scores.accuracies["random-augmented"]


def test_whole_set_is_evaluated_when_its_accuracy_is_not_given(digits: Pair) -> None:
    train, test = digits
    recipe = TrainingRecipe(epochs=2)
    scores = robust_scores(
        random_set(train, 1), train, test, architecture=TINY, recipe=recipe, whole_recipe=recipe, repeats=1
    )
    assert 0.05 < scores.accuracies["whole"] <= 1
    assert scores.accuracies["distilled-hard"] == scores.accuracies["distilled-plain"]
    assert scores.ior == scores.accuracies["distilled-plain"] - scores.accuracies["random-plain"]
