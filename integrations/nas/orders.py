"""In which order does a ranking, or the truth, put the candidates that both know?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ddkit.base.streams import Streams
from ddkit.errors import ConfigError
from ddkit.integrations.nas.correlation import Array, SeedResampler, resampled_indices
from ddkit.integrations.nas.entries import Scores

Truth: TypeAlias = Scores | Mapping[str, float]
"""Scores (a ranking) by the ground truth, or the true value by candidate; larger is better."""

#: Resamples of seeds; each ranks all candidates anew.
_SEED_RESAMPLES = 500


def order_values(rungs: Any, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers that rise with the rung first and with the score within it, ties kept.

    Args:
        rungs: (n,).
        scores: (..., n).

    Returns:
        (..., n); the scores themselves where all have reached the same rung.
    """
    rungs = np.asarray(rungs)
    if not len(rungs) or (rungs == rungs[0]).all():
        return scores
    within = np.zeros_like(scores)
    for rung in np.unique(rungs):
        members = rungs == rung
        within[..., members] = stats.rankdata(scores[..., members], axis=-1)
    return rungs * (len(rungs) + 1.0) + within


@dataclass(frozen=True)
class Order:
    """One order of n candidates: their rungs (n,) and scores (n, S)."""

    rungs: NDArray[np.int64]
    scores: Array

    @classmethod
    def of(cls, source: Truth, names: Sequence[str]) -> Order:
        """Return the order in which a ranking or a truth puts the named candidates."""
        if isinstance(source, Scores):
            return cls(*source.values(names))
        scores = np.array([[source[name]] for name in names], dtype=np.float64)
        return cls(np.zeros(len(names), dtype=np.int64), scores)

    @property
    def order(self) -> Array:
        """Numbers (n,) that rise with rung and mean score."""
        return order_values(self.rungs, self.scores.mean(axis=1))

    def part(self, chosen: NDArray[np.int64]) -> Order:
        """Return the order of the candidates at the positions ``chosen``."""
        return Order(self.rungs[chosen], self.scores[chosen])

    def with_resampled_seeds(self, drawn: NDArray[np.int64]) -> Array:
        """Return orders (B, n) from seeds drawn for every candidate, indices (B, n, S)."""
        means = np.take_along_axis(self.scores[None], drawn, axis=2).mean(axis=2)
        return order_values(self.rungs, means)


def shared(ranking: Scores, truth: Truth) -> tuple[list[str], tuple[str, ...]]:
    """Return the candidates with a score and a true value, and those that lack one of them."""
    known = {entry.name for entry in truth.usable} if isinstance(truth, Scores) else set(truth)
    if not isinstance(truth, Scores):
        for name, value in truth.items():
            if not math.isfinite(value):
                raise ConfigError(f"the truth of candidate '{name}' is {value}: give finite numbers, or leave it out")
    scored = [entry.name for entry in ranking.usable]
    names = [name for name in scored if name in known]
    if not names:
        raise ConfigError("no candidate has both a score and a true value: compare rankings of the same search space")
    failed = {entry.name for entry in ranking.failed}
    lacking = [name for name in scored if name not in known] + sorted(known - set(scored) - failed)
    return names, tuple(lacking)


def seed_resampler(mine: Order, real: Order, streams: Streams, label: str) -> SeedResampler | None:
    """Return what draws seeds anew for every candidate on either side; None where both have a single one."""
    if mine.scores.shape[1] < 2 and real.scores.shape[1] < 2:
        return None

    def draw() -> tuple[Array, Array]:
        orders = []
        for name, side in (("ranking", mine), ("truth", real)):
            count, seeds = side.scores.shape
            flat = resampled_indices(seeds, _SEED_RESAMPLES * count, streams(f"seeds/{name}/{label}"))
            orders.append(side.with_resampled_seeds(flat.reshape(_SEED_RESAMPLES, count, seeds)))
        return orders[0], orders[1]

    return draw
