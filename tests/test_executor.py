"""Do executors keep order, share large arguments and pass errors on?"""

from __future__ import annotations

import builtins
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from ddkit.base.executor import Executor, InProcess, RayExecutor, executor
from ddkit.errors import ConfigError, DataError, MissingExtraError, RunError, UnknownNameError


@pytest.fixture(scope="module")
def ray_executor() -> Iterator[Executor]:
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    with RayExecutor(cpus_per_task=1) as running:
        yield running
    assert not ray.is_initialized()


def scaled(factor: torch.Tensor, item: int) -> float:
    return float(factor.sum() * item)


def fails(item: int) -> int:
    if item == 2:
        raise DataError("item 2 is unusable; leave it out")
    return item


def breaks(item: int) -> int:
    return 1 // item


def test_in_process_keeps_order_and_closes_twice() -> None:
    with InProcess() as local:
        assert local.map(str, [3, 1, 2]) == ["3", "1", "2"]
        assert local.map(str, iter([])) == []
    local.close()


def test_in_process_passes_errors_on() -> None:
    with pytest.raises(DataError, match="item 2 is unusable"):
        InProcess().map(fails, [1, 2])


def test_ray_keeps_order_and_shares_the_function(ray_executor: Executor) -> None:
    assert ray_executor.map(functools.partial(scaled, torch.ones(4)), range(5)) == [0.0, 4.0, 8.0, 12.0, 16.0]


def test_ray_passes_errors_on_with_their_text(ray_executor: Executor) -> None:
    with pytest.raises(DataError, match="item 2 is unusable"):
        ray_executor.map(fails, [1, 2])
    with pytest.raises(RunError, match="ZeroDivisionError"):
        ray_executor.map(breaks, [0])


def test_second_ray_executor_joins_and_does_not_stop_the_first(ray_executor: Executor) -> None:
    with RayExecutor() as second:
        assert second.map(str, [1]) == ["1"]
    assert ray_executor.map(str, [2]) == ["2"]


def test_missing_ray_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_ray(name: str, *rest: Any, **keywords: Any) -> Any:
        if name == "ray":
            raise ImportError(name)
        return original(name, *rest, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with pytest.raises(MissingExtraError, match=r"ddkit\[ray\]"):
        RayExecutor()


def test_executors_are_found_by_name() -> None:
    assert isinstance(executor("local"), InProcess)
    with pytest.raises(UnknownNameError, match="ray"):
        executor("rays")
    with pytest.raises(ConfigError, match="cpus_per_task"):
        executor("local", cpus_per_task=2)
    with pytest.raises(ConfigError, match="at least 1 CPU"):
        RayExecutor(cpus_per_task=0)
    with pytest.raises(ConfigError, match="gpus_per_task=-1"):
        RayExecutor(gpus_per_task=-1)
