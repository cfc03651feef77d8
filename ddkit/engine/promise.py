"""A set of few bytes is never worse than the coded real images at which it started, as far as held-out images tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ddkit.base.config import DistillConfig
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.models.spec import ModelSpec
from ddkit.training.judge import Judge

#: Share of the training images that are held out for the comparison, and the most of them.
HELD_OUT, MOST_HELD_OUT = 0.2, 5000
#: Networks for each of the two sets, the images that each sees; the fewest epochs, which are more images of large sets;
#: and the most images.
NETWORKS, PASSES, EPOCHS, MOST = 3, 20_000, 30, 200_000
#: Share of a run's minutes in which the two are compared.
COMPARING = 0.25
#: What the two are called.
DISTILLED, START = "distilled", "start"


def held_out(real: RealData, seed: int) -> tuple[RealData, RealData]:
    """Return the training images that are distilled, and those on which the result is compared with its start."""
    return real.split_off(min(HELD_OUT, MOST_HELD_OUT / len(real)), Streams(seed)("promise"))


def without_what_was_learned(start: DistilledDataset) -> DistilledDataset:
    """Return a start whose card says how real images are trained on, without rates learned for the result."""
    from ddkit.evaluation.choice import recipe_for_others, recipe_of

    recipe = recipe_for_others(start, recipe_of(start)).model_dump(mode="json")
    start.metadata = {key: value for key, value in start.metadata.items() if key != "learned"} | {"recipe": recipe}
    return start


def judge_of(sets: int, images: RealData, config: DistillConfig, share: float = 1.0) -> Judge:
    """Return what compares so many sets of a configuration; ``share`` as for :func:`better`."""
    count = config.ipc * images.num_classes * int(config.synthesis.options.get("factor", 1)) ** 2
    return _judge([count] * sets, images, config, share)


def share_in(seconds: float, sets: int, images: RealData, config: DistillConfig) -> float:
    """Return the share, as for :func:`better`, with which so many sets of a configuration are compared in this time."""
    share = 1.0
    for _ in range(4):  # for fewer images compiling may not pay
        share *= min(1.0, seconds / judge_of(sets, images, config, share).seconds)
    return share


def share_of(minutes: float | None, images: RealData, config: DistillConfig) -> float:
    """Return the share with which the result of a run of ``minutes`` is compared with its start; None for no limit."""
    return 1.0 if minutes is None else share_in(60 * COMPARING * minutes, 2, images, config)


def seconds(minutes: float | None, images: RealData, config: DistillConfig) -> float:
    """Estimate how long that comparison takes."""
    return judge_of(2, images, config, share_of(minutes, images, config)).seconds


def _judge(counts: Sequence[int], images: RealData, config: DistillConfig, share: float) -> Judge:
    passes = sum(_networks(count, share) * count * _epochs(count, share) for count in counts)
    return Judge(ModelSpec.parse(config.model), images, passes, config.device)


def _networks(count: int, share: float) -> int:
    """Return how many networks judge a set: one a large one where there is less time, which then sees it for longer."""
    return 1 if share < 1 and count * EPOCHS > PASSES else NETWORKS


def _epochs(count: int, share: float) -> int:
    share = min(1.0, share * NETWORKS / _networks(count, share))
    return max(1, min(max(round(EPOCHS * share), int(PASSES * share) // count), int(MOST * share) // count))


def better(
    sets: Mapping[str, DistilledDataset], images: RealData, config: DistillConfig, share: float = 1.0
) -> tuple[str, dict[str, Any]]:
    """Return which set trains networks better, and what to say of it.

    Both are trained on by networks with the same initial weights, in the way that each set asks for, but for
    :data:`PASSES` images each, large sets for more; the first of equal sets is returned. Where there is less time, one
    network judges a large set instead of three.

    Args:
        sets: by name.
        images: held out from what was distilled.
        config: of the run.
        share: of the images that networks see, where there is less time.

    Returns:
        the name, and for the card: the accuracies of every network, and the number of images.
    """
    from ddkit.evaluation.choice import recipe_of

    seed = derive_seed(config.seed, "promise")
    judge = _judge([len(one) for one in sets.values()], images, config, share)
    found: dict[str, list[float]] = {}
    for name, one in sets.items():
        recipe = recipe_of(one)
        epochs = min(recipe.epochs, _epochs(len(one), share))
        tensors, labels = one.tensors()
        how = recipe.replace(epochs=epochs, loss=recipe.loss_for(one.label_kind))
        seeds = [derive_seed(seed, f"network/{number}") for number in range(_networks(len(one), share))]
        found[name] = [round(value, 6) for value in judge.accuracies(tensors, labels, how, seeds)]
    means = _means(found)
    chosen = max(means, key=lambda name: means[name])
    return chosen, {"returned": chosen, "held_out": len(images), "accuracies": found}


def _means(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: sum(values) / len(values) for name, values in found.items()}


def means_in_words(found: Mapping[str, Sequence[float]]) -> str:
    """Return mean accuracies, highest first."""
    means = sorted(_means(found).items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * mean:.1f} %" for name, mean in means)


def in_words(card: Mapping[str, Any], whose: str, again: str = "") -> str:
    """Return what :func:`better` found, as a card says it.

    Args:
        card: of :func:`better`.
        whose: of which step the distilled set is, ``last step``.
        again: where a start that was better was picked a second time: from what.
    """
    means = {name: 100 * mean for name, mean in _means(card["accuracies"]).items()}
    gap = means[DISTILLED] - means[START]
    images = f"on {card['held_out']:,} held-out training images"
    if card["returned"] == DISTILLED:
        return f"{whose}, {gap:.1f} points better than its coded start ({means[START]:.1f} %) {images}"
    start = f"coded start, picked again from {again}; the first one was" if again else "coded start,"
    return f"{start} {-gap:.1f} points better than what was distilled from it ({means[DISTILLED]:.1f} %) {images}"
