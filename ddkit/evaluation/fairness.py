"""How much of an accuracy comes from the distilled images, and how much from soft labels and augmentation.

The scores are those of DD-Ranking (Li et al. 2025, "DD-Ranking: Rethinking the Evaluation of Dataset Distillation"),
computed from accuracies as fractions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.evaluation.baselines import baseline_sets
from ddkit.evaluation.choice import common_recipe, recipe_for_others, recipe_of
from ddkit.evaluation.evaluate import evaluate, evaluate_real
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe


def _check_fractions(**accuracies: float) -> None:
    for name, value in accuracies.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"accuracy {name}={value} is not a fraction in 0..1; divide percentages by 100")


def _check_weight(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}={value}: a weight lies between 0 and 1")


def score(value: float) -> float:
    """Map alpha or beta in [-1, 1] to a score in [0, 1]: (e^value - e^-1) / (e - e^-1)."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def hard_label_recovery(real_hard: float, distilled_hard: float) -> float:
    """Return HLR = acc(whole real, hard labels) - acc(distilled, hard labels); smaller is better."""
    _check_fractions(real_hard=real_hard, distilled_hard=distilled_hard)
    return real_hard - distilled_hard


def improvement_over_random(distilled: float, random: float) -> float:
    """Return IOR = acc(distilled, its labels) - acc(random real images labelled alike); larger is better."""
    _check_fractions(distilled=distilled, random=random)
    return distilled - random


def label_robust_score(hlr: float, ior: float, weight: float = 0.5) -> float:
    """Return LRS, the score of alpha = w IOR - (1 - w) HLR.

    Args:
        hlr: hard-label recovery, a difference of fractions.
        ior: improvement over random, a difference of fractions.
        weight: w in [0, 1].

    Raises:
        ConfigError: differences of percentages, or a weight out of range.
    """
    _check_weight("weight", weight)
    for name, value in (("hlr", hlr), ("ior", ior)):
        if not -1 <= value <= 1:
            raise ConfigError(f"{name}={value} is not a difference of fractions; divide percentages by 100")
    return score(weight * ior - (1 - weight) * hlr)


def augmentation_robust_score(
    distilled_augmented: float,
    random_augmented: float,
    distilled_plain: float,
    random_plain: float,
    gamma: float = 0.5,
) -> float:
    """Return ARS, the score of beta = g (S - random, augmented) + (1 - g) (S - random, plain).

    Args:
        distilled_augmented: accuracy of the distilled set with augmented training.
        random_augmented: accuracy of random real images with augmented training.
        distilled_plain: accuracy of the distilled set without augmentation.
        random_plain: accuracy of random real images without augmentation.
        gamma: g in [0, 1].

    Raises:
        ConfigError: accuracies that are not fractions, or a weight out of range.
    """
    _check_weight("gamma", gamma)
    augmented = improvement_over_random(distilled_augmented, random_augmented)
    plain = improvement_over_random(distilled_plain, random_plain)
    return score(gamma * augmented + (1 - gamma) * plain)


@dataclass(frozen=True)
class RobustScores:
    """The scores of one distilled set and the accuracies (fractions) behind them.

    Args:
        hlr: hard-label recovery.
        ior: improvement over random.
        alpha: weight * ior - (1 - weight) * hlr.
        lrs: label-robust score, the score of alpha.
        beta: gamma * augmented margin + (1 - gamma) * plain margin.
        ars: augmentation-robust score, the score of beta.
        accuracies: mean test accuracy by name: ``whole``, ``distilled-hard``, ``distilled-augmented``,
            ``random-augmented``, ``distilled-plain``, ``random-plain``.
    """

    hlr: float
    ior: float
    alpha: float
    lrs: float
    beta: float
    ars: float
    accuracies: Mapping[str, float]

    @classmethod
    def of(cls, accuracies: Mapping[str, float], own: str, weight: float, gamma: float) -> RobustScores:
        """Compute the scores of ``accuracies``; ``own`` is ``augmented`` or ``plain``, as the set's own recipe is."""
        hlr = hard_label_recovery(accuracies["whole"], accuracies["distilled-hard"])
        ior = improvement_over_random(accuracies[f"distilled-{own}"], accuracies[f"random-{own}"])
        pairs = [(accuracies[f"distilled-{how}"], accuracies[f"random-{how}"]) for how in ("augmented", "plain")]
        augmented, plain = (distilled - random for distilled, random in pairs)
        return cls(
            hlr=hlr,
            ior=ior,
            alpha=weight * ior - (1 - weight) * hlr,
            lrs=label_robust_score(hlr, ior, weight),
            beta=gamma * augmented + (1 - gamma) * plain,
            ars=augmentation_robust_score(*pairs[0], *pairs[1], gamma),
            accuracies=accuracies,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the fields by name, for JSON."""
        return asdict(self)


def _hardened(distilled: DistilledDataset) -> DistilledDataset:
    """Return the set with the most likely class of every label row as its hard label."""
    if distilled.label_kind == "hard":
        return distilled
    return DistilledDataset(
        images=distilled.images,
        labels=distilled.hard_labels(),
        label_kind="hard",
        class_names=distilled.class_names,
        preprocessing=distilled.preprocessing,
        metadata=distilled.metadata,
    )


def robust_scores(
    distilled: DistilledDataset,
    train: RealData,
    test: RealData,
    *,
    architecture: str | ModelSpec = "convnet",
    recipe: TrainingRecipe | None = None,
    whole_recipe: TrainingRecipe | None = None,
    whole: float | None = None,
    repeats: int = 5,
    draws: int = 1,
    seed: int = 0,
    weight: float = 0.5,
    gamma: float = 0.5,
    **options: Any,
) -> RobustScores:
    """Compute DD-Ranking's label-robust and augmentation-robust scores by running the evaluations they need.

    Random real images are as many per class as the distilled ones and carry the same kind of labels: the
    distilled set's own rows when these are soft. Hard labels of a soft set are its most likely classes. Only
    formulas are DD-Ranking's: accuracies are those of the last epoch and nothing is tuned on the test set.

    Args:
        distilled: the set.
        train: the real training set it was made from.
        test: the real test set.
        architecture: the network.
        recipe: how to train; None takes the set's own, or the common protocol where that is a list of steps.
            Its augmentation and CutMix, or the data's standard augmentation when it has neither, make the augmented
            half of ARS; HLR and IOR use the recipe as it is.
        whole_recipe: how to train on the whole training set; None as :func:`evaluate_real` does.
        whole: accuracy of the whole training set when it is known already; saves the longest evaluation.
        repeats: networks per evaluation.
        draws: random sets.
        seed: of all evaluations.
        weight: w of the label-robust score.
        gamma: g of the augmentation-robust score.
        options: ``device``, ``precision``, ``compile``, ``executor``, ``stacked`` of :func:`evaluate`.

    Raises:
        ConfigError: a weight out of range, or what :func:`evaluate` refuses.
        DataError: sets that do not fit each other.
    """
    _check_weight("weight", weight)
    _check_weight("gamma", gamma)
    recipe = recipe_of(distilled) if recipe is None else recipe
    if recipe.schedule == "given":  # steps that only this set has: others would have nothing to compare with
        recipe = common_recipe(distilled)
    augmented = recipe
    if not recipe.augments:
        augmented = recipe.replace(augmentation=TrainingRecipe.standard(train.name).augmentation)
    plain = recipe.replace(augmentation="none", cutmix=0)
    kind = "random" if distilled.label_kind == "hard" else "random-soft"
    controls = cast("list[DistilledDataset]", baseline_sets(train, distilled, (kind,), seed, draws)[kind])

    def mean(sets: list[DistilledDataset], how: TrainingRecipe) -> float:
        results = [evaluate(one, test, (architecture,), repeats, how, seed, **options) for one in sets]
        return sum(result.rows[0].mean for result in results) / len(results)

    accuracies = {
        "distilled-augmented": mean([distilled], augmented),
        "random-augmented": mean(controls, recipe_for_others(distilled, augmented)),
        "distilled-plain": mean([distilled], plain),
        "random-plain": mean(controls, recipe_for_others(distilled, plain)),
    }
    own = "augmented" if recipe.augments else "plain"
    hard = accuracies[f"distilled-{own}"]
    if distilled.label_kind != "hard":
        hard = mean([_hardened(distilled)], recipe.replace(loss="auto"))
    if whole is None:
        whole = evaluate_real(train, test, (architecture,), repeats, whole_recipe, seed, **options).rows[0].mean
    return RobustScores.of({"whole": whole, "distilled-hard": hard, **accuracies}, own, weight, gamma)
