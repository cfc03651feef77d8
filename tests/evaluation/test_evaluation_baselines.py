"""Are the controls equal to the distilled set in exactly what they claim to be equal in?"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.evaluation import baseline_sets, evaluate
from ddkit.training import TrainingRecipe

from .conftest import TINY, random_set, with_labels

Pair = tuple[RealData, RealData]


def soft_set(train: RealData, ipc: int) -> DistilledDataset:
    hard = random_set(train, ipc)
    confidence = 2.0 + 0.1 * torch.arange(len(hard))  # every row its own, to tell them apart
    rows = torch.softmax(confidence[:, None] * F.one_hot(hard.labels, 10), dim=1)
    return with_labels(hard, rows, "soft")


def only(built: list[DistilledDataset] | RealData) -> DistilledDataset:
    assert isinstance(built, list)
    (one,) = built
    return one


def test_random_herding_and_kmeans_hold_as_many_real_images_per_class(digits: Pair) -> None:
    train, _ = digits
    sets = baseline_sets(train, random_set(train, 3), ("random", "herding", "kmeans"))
    for kind in ("random", "herding", "kmeans"):
        one = only(sets[kind])
        index = torch.tensor(one.metadata["indices"])
        assert one.ipc == 3
        assert torch.equal(one.images, train.images[index])
        assert torch.equal(one.labels, train.labels[index])
        assert one.budget.bytes == 30 * (64 + 8)
        assert one.metadata["method"] == kind


def test_draws_differ_and_are_repeatable(digits: Pair) -> None:
    train, _ = digits
    distilled = random_set(train, 2)
    first, second = (baseline_sets(train, distilled, ("random",), seed=1, draws=2)["random"] for _ in range(2))
    assert isinstance(first, list) and isinstance(second, list)
    indices = [one.metadata["indices"] for one in first]
    assert indices == [one.metadata["indices"] for one in second]
    assert indices[0] != indices[1]


def test_unequal_classes_stay_unequal(digits: Pair) -> None:
    train, _ = digits
    distilled = random_set(train, 3)
    uneven = with_labels(distilled, torch.tensor([0] * 5 + [c for c in range(10) for _ in range(3)][5:]), "hard")
    counts = torch.bincount(uneven.labels, minlength=10)
    for kind in ("random", "herding", "kmeans"):
        one = only(baseline_sets(train, uneven, (kind,))[kind])
        assert torch.equal(torch.bincount(one.labels, minlength=10), counts)


def test_random_soft_carries_the_distilled_labels_class_by_class(digits: Pair) -> None:
    train, _ = digits
    distilled = soft_set(train, 2)
    one = only(baseline_sets(train, distilled, ("random-soft",))["random-soft"])
    assert one.label_kind == "soft"
    index = torch.tensor(one.metadata["indices"])
    assert torch.equal(train.labels[index], one.hard_labels())
    assert sorted(map(tuple, one.labels.tolist())) == sorted(map(tuple, distilled.labels.tolist()))


def test_random_soft_needs_soft_labels(digits: Pair) -> None:
    train, _ = digits
    hard = random_set(train, 1)
    with pytest.raises(ConfigError, match="random-soft"):
        baseline_sets(train, hard, ("random-soft",))
    search = {"forms": ["uniform:bits=2"], "passes": 1}
    assert "random-soft" not in baseline_sets(train, hard, **search)
    assert "random-soft" in baseline_sets(train, soft_set(train, 1), **search)


def test_class_means_are_the_means_of_preprocessed_images(digits: Pair) -> None:
    train, _ = digits
    one = only(baseline_sets(train, random_set(train, 1), ("class-mean",))["class-mean"])
    for label, index in enumerate(train.class_index):
        torch.testing.assert_close(one.images[label], train.batch(index).mean(dim=0))


def test_every_control_can_be_evaluated(digits: Pair) -> None:
    train, test = digits
    recipe = TrainingRecipe(epochs=1, batch_size=16)
    sets = baseline_sets(train, random_set(train, 1), forms=["uniform:bits=2"], passes=1)
    at_equal_bytes = ["random-bytes", "random-coded", "herding-coded", "random-best"]
    assert list(sets) == ["random", "herding", "kmeans", "class-mean", *at_equal_bytes, "whole"]
    assert isinstance(sets.pop("whole"), RealData)
    for built in sets.values():
        assert evaluate(only(built), test, [TINY], 1, recipe).rows[0].steps >= 2


def test_unusable_requests_are_refused(digits: Pair) -> None:
    train, _ = digits
    distilled = random_set(train, 1)
    with pytest.raises(UnknownNameError, match="herding"):
        baseline_sets(train, distilled, ("hearding",))
    with pytest.raises(ConfigError, match="0 draws"):
        baseline_sets(train, distilled, draws=0)
    other = RealData.from_tensors(train.images[:, :, :4], train.labels)
    with pytest.raises(DataError, match="the data that was distilled"):
        baseline_sets(other, distilled)
