"""Does a killed ranking go on where it was, and does Ray give what one process gives?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ddkit.base.executor import Executor, RayExecutor
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.integrations.nas import ProxyRanker, SearchSpace
from tests.integrations.nas_cases import Counting, Raises, digits, grid, linear, tiny_set

SHORT = ProxyRanker(epochs=12, seeds=2)


class _Killed(Executor):
    """Stops after some tasks, as a killed process does."""

    def __init__(self, after: int) -> None:
        self.after = after

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        results = []
        for item in items:
            if self.after == 0:
                raise KeyboardInterrupt
            self.after -= 1
            results.append(fn(item))
        return results


def test_a_killed_ranking_goes_on_by_candidate_and_seed(tmp_path: Path) -> None:
    _, validation, _ = digits()
    whole = SHORT.rank(grid(), tiny_set(), validation)
    with pytest.raises(KeyboardInterrupt):
        SHORT.rank(grid(), tiny_set(), validation, executor=_Killed(after=5), cache=tmp_path)
    rest = Counting()
    resumed = SHORT.rank(grid(), tiny_set(), validation, executor=rest, cache=tmp_path)
    assert rest.count == 3
    assert [entry.scores for entry in resumed.entries] == [entry.scores for entry in whole.entries]


def test_stored_trainings_serve_only_the_same_set_recipe_and_network_and_damaged_ones_nobody(tmp_path: Path) -> None:
    _, validation, _ = digits()
    one = SearchSpace({"x": linear})

    def trained(space: SearchSpace, data: DistilledDataset, ranker: ProxyRanker = SHORT) -> int:
        counting = Counting()
        ranker.rank(space, data, validation, executor=counting, cache=tmp_path)
        return counting.count

    assert [trained(one, tiny_set()), trained(one, tiny_set())] == [2, 0]
    assert trained(one, tiny_set(2)) == 2
    assert trained(one, tiny_set(), ProxyRanker(epochs=13, seeds=2)) == 2
    assert trained(SearchSpace({"x": lambda: linear(bias=False)}), tiny_set()) == 2
    for path in tmp_path.iterdir():
        path.write_text('{"status": "ok", "accuracy": NaN}')
    assert trained(one, tiny_set()) == 2


def test_a_failed_training_is_tried_again(tmp_path: Path) -> None:
    _, validation, _ = digits()
    space = SearchSpace({"own": linear, "raises": Raises})
    ran = []
    for _ in range(2):
        counting = Counting()
        assert SHORT.rank(space, tiny_set(), validation, executor=counting, cache=tmp_path)["raises"].status == "failed"
        ran.append(counting.count)
    assert ran == [4, 2]


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[Executor]:
    pytest.importorskip("ray", reason="Ray is not installed")
    with RayExecutor(cpus_per_task=1) as running:
        yield running


@pytest.mark.slow
def test_ray_gives_the_same_ranking(ray_executor: Executor, tmp_path: Path) -> None:
    _, validation, _ = digits()
    space = SearchSpace({"own": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "net": "convnet:width=4"})
    local, remote = (
        SHORT.rank(space, tiny_set(), validation, executor=executor, cache=cache)
        for executor, cache in ((None, None), (ray_executor, tmp_path))
    )
    assert [entry.scores for entry in local.entries] == [entry.scores for entry in remote.entries]
    assert len(list(tmp_path.iterdir())) == 4
