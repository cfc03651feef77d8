"""What do the tests of the NAS adapter rank: a few digits, sets of them, candidates that go wrong?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ddkit.base.executor import InProcess
from ddkit.base.streams import Streams
from ddkit.data import RealData, load_pair
from ddkit.data.coresets import random_indices
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.integrations.nas import Entry, Ranking, SearchSpace


@functools.cache
def digits() -> tuple[RealData, RealData, RealData]:
    """Return 300 training, 150 validation and 450 test digits."""
    whole, test = load_pair("digits")
    rest, validation = whole.split_off(150 / len(whole), Streams(0)("validation"))
    return rest.split_off(300 / len(rest), Streams(0)("train"))[1], validation, test


def tiny_set(ipc: int = 1, **metadata: object) -> DistilledDataset:
    """Return real images of every class as a set, with a short recipe."""
    train = digits()[0]
    chosen = random_indices(train.class_index, ipc, Streams(0)("set"))
    recipe = {"name": "dc", "epochs": 12, "batch_size": 20, "schedule": "constant"}
    return DistilledDataset(
        train.images[chosen],
        train.labels[chosen],
        class_names=train.class_names,
        preprocessing=train.preprocessing,
        metadata={"recipe": recipe, **metadata},
    )


def grid() -> SearchSpace:
    """Return four small ConvNets."""
    return SearchSpace.convnet(width=[2, 8], norm=["none", "instance"], depth=[1])


def linear(bias: bool = True) -> nn.Module:
    """Build a linear network for digits."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=bias))


class Raises(nn.Module):
    """Raises what a broken network raises, when it is shown images of more than two rows."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 2:
            raise RuntimeError("no kernel for this\nsecond line")
        return self.inner(x)


class Explodes(nn.Module):
    """Diverges: its outputs overflow as soon as its weights are trained."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * 1e30 if self.training else self.inner(x)


def of_scores(*scores: float | tuple[float, ...], **fields: object) -> Ranking:
    """Return a ranking of candidates a, b, c, ... with the given scores."""
    entries = [
        Entry(name=chr(ord("a") + place), status="ok", scores=one if isinstance(one, tuple) else (one,))
        for place, one in enumerate(scores)
    ]
    return Ranking(tuple(entries), **fields)  # type: ignore[arg-type]


def generator(seed: int = 0) -> torch.Generator:
    """Return a CPU generator."""
    return torch.Generator().manual_seed(seed)


class Counting(InProcess):
    """Counts the tasks that really run."""

    def __init__(self) -> None:
        self.count = 0

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        todo = list(items)
        self.count += len(todo)
        return super().map(fn, todo)
