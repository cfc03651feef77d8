"""Is the unit of privacy what the statement says, and are records noticed that are there more than once?"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.private import PrivacyBudget, PrivateDistiller, Queries
from ddkit.integrations.private.noise import SeededNoise
from ddkit.integrations.private.units import copies, numbered
from tests.integrations.private_small import TINY, pixels, records, wall


def distiller(method: str = "dp-dm", epsilon: float | None = 2.0, **options: Any) -> PrivateDistiller:
    settings = {"ipc": 1, "accountant": "rdp", "method": method, **TINY[method], **options}
    return PrivateDistiller(epsilon, **settings)


def without(real: RealData, groups: Tensor, group: int) -> tuple[RealData, Tensor]:
    kept = (groups != group).nonzero().flatten()
    return real.subset(kept), numbered(groups[kept], len(kept))


GROUPS = torch.arange(36) % 5  # of seven or eight records in all three classes
UNEQUAL = torch.tensor([0] * 20 + list(range(1, 17)))


@pytest.mark.parametrize("groups", [GROUPS, UNEQUAL], ids=["mixed classes", "one of twenty records"])
@pytest.mark.parametrize("clip", [0.1, 2.0, 100.0])
@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_whole_group_changes_class_sums_and_counts_by_at_most_the_bound(
    groups: Tensor, clip: float, weight: float
) -> None:
    real = records()
    answers = []
    for part, own in ((real, groups), without(real, groups, 0)):
        private = wall(part, groups=own, records=5)
        sums, counts = private.noisy_class_sums(pixels, clip=clip, sigma=1.0, count_weight=weight)
        answers.append(torch.cat([sums.flatten(), weight * clip * counts] if counts is not None else [sums.flatten()]))
    moved = float((answers[0] - answers[1]).norm())
    assert 0 < moved <= clip * (1 + weight**2) ** 0.5 * (1 + 1e-12)


@pytest.mark.parametrize("groups", [GROUPS, UNEQUAL])
def test_a_whole_group_changes_one_sum_by_at_most_the_bound(groups: Tensor) -> None:
    real = records()
    answers = [
        wall(part, groups=own).noisy_sum(pixels, clip=1.5, sigma=1.0)
        for part, own in ((real, groups), without(real, groups, 0))
    ]
    assert 0 < float((answers[0] - answers[1]).norm()) <= 1.5 * (1 + 1e-12)


def test_without_groups_a_group_moves_the_sums_by_more() -> None:
    real = records()
    answers = [
        wall(part).noisy_class_sums(pixels, clip=1.0, sigma=1.0)[0] for part in (real, without(real, UNEQUAL, 0)[0])
    ]
    assert float((answers[0] - answers[1]).norm()) > 5


def test_groups_of_one_record_are_records() -> None:
    plain = wall().noisy_class_sums(pixels, clip=1.0, sigma=1.0)[0]
    grouped = wall(groups=torch.arange(36)).noisy_class_sums(pixels, clip=1.0, sigma=1.0)[0]
    assert torch.equal(plain, grouped)


def test_poisson_samples_take_whole_groups() -> None:
    seen: list[int] = []

    def rows(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(images))
        return images.flatten(1)

    private = wall(queries=Queries(1.0, 0.5, 20), noise=SeededNoise(0), groups=torch.arange(36) // 12)
    for _ in range(20):
        seen.append(-1)
        private.noisy_sum(rows, clip=1.0, sigma=1.0, rate=0.5)
    last = [seen[place - 1] for place, size in enumerate(seen) if size == -1 and place] + [seen[-1]]
    assert set(last) <= {1, 12, 24, 36} and len(set(last)) > 1  # a blank image stands for an empty sample


def test_class_sizes_are_of_groups() -> None:
    assert wall(groups=GROUPS).class_counts.tolist() == pytest.approx([5 / 3] * 3)
    assert wall(groups=GROUPS, counts=[12, 6, 18]).class_counts.tolist() == pytest.approx([5 / 3, 5 / 6, 5 / 2])


@pytest.mark.parametrize("method", sorted(TINY))
def test_the_statement_names_the_unit(method: str, tmp_path: Path) -> None:
    made = distiller(method, unit="patient", batch=None)
    names = [f"patient {number}" for number in GROUPS.tolist()]
    kept = made.fit(records(), out=tmp_path, groups=names)
    report = json.loads((tmp_path / "privacy.json").read_text())
    assert report["unit"] == "one patient with all its records"
    assert report["adjacency"] == "add or remove one patient with all its records"
    assert "adding or removing one patient with all its records" in report["quote"]
    assert "number of patients = 5" in report["public"] and "count" not in kept.metadata["source"]
    assert "one record (image and label)" not in (tmp_path / "privacy.txt").read_text()


def test_groups_can_be_given_to_the_constructor() -> None:
    made = distiller(groups=GROUPS.numpy())
    made.fit(records())
    assert made.report().unit == "one group with all its records"


def test_costs_of_different_units_do_not_share_a_budget() -> None:
    budget = PrivacyBudget(4, 1e-5, "rdp")
    distiller(epsilon=1.0, budget=budget).fit(records())
    with pytest.raises(ConfigError, match="do not add up"):
        distiller(epsilon=1.0, budget=budget, unit="patient").fit(records(), groups=GROUPS)
    assert budget.unit == "one record (image and label)" and len(budget.ledger) == 1


@pytest.mark.parametrize(
    "groups", [GROUPS[:35], [0] * 37, "a" * 36, 5, [[0]] * 36, [None] * 36, [float("nan")] * 36, iter(range(36))]
)
def test_groups_must_be_one_for_every_record(groups: Any) -> None:
    with pytest.raises(ConfigError, match="groups"):
        distiller().fit(records(), groups=groups)


@pytest.mark.parametrize("unit", ["", " ", 5, "a\nb"])
def test_a_unit_is_a_word(unit: Any) -> None:
    with pytest.raises(ConfigError, match="must name what a group of records is"):
        distiller(unit=unit)


def twice(real: RealData) -> RealData:
    return RealData.from_tensors(torch.cat([real.images, real.images]), torch.cat([real.labels, real.labels]))


def test_copies_of_a_record_are_noticed_and_groups_make_them_one_unit() -> None:
    real = twice(records())
    assert copies(real, torch.arange(72)) == 2
    with pytest.warns(UserWarning, match="same image is in 2 records.*epsilon is 2 times as large"):
        distiller().fit(real)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distiller().fit(records())
        distiller().fit(real, groups=torch.arange(72) % 36)


def test_how_often_an_image_occurs_is_no_part_of_the_release() -> None:
    with pytest.warns(UserWarning, match="same image"):
        kept = distiller().fit(twice(records()))
    assert "same image" not in json.dumps(kept.metadata)


@pytest.mark.parametrize(("epsilon", "remarked"), [(10.0, False), (50.0, True), (500.0, True)])
def test_a_huge_epsilon_draws_a_remark_that_travels(epsilon: float, remarked: bool) -> None:
    made = distiller(epsilon=epsilon)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        kept = made.fit(records())
    assert any("next to no privacy" in str(one.message) for one in found) == remarked
    assert ("next to no privacy" in kept.metadata["privacy"]["quote"]) == remarked
