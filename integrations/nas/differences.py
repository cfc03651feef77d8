"""Is one proxy better than another: their agreement with the truth on the same resamples, and its mean over repeats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ddkit.base.streams import Streams
from ddkit.errors import ConfigError
from ddkit.integrations.nas.correlation import (
    FEWEST,
    RESAMPLES,
    Array,
    Correlation,
    of_resamples,
    percentiles,
    resampled_indices,
)
from ddkit.integrations.nas.orders import Order, Truth, shared
from ddkit.integrations.nas.ranking import Ranking


@dataclass(frozen=True)
class Difference:
    """Difference of two rankings against one truth, on the same resamples of candidates and repeats.

    Args:
        value: Spearman's rho of the first minus that of the second; None when one is undefined.
        low: lower end of its 95 % interval.
        high: its upper end.
        count: candidates that all three have.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        ends = f" [{self.low:+.2f}, {self.high:+.2f}]" if self.low is not None else ""
        return f"{self.value:+.3f}{ends}"


def mean_spearman(
    rankings: Sequence[Ranking], truth: Truth, *, top: float = 1.0, resamples: int = RESAMPLES, seed: int = 0
) -> Correlation:
    """Return the mean of Spearman's rho over repeats of one ranking (several draws of a set), and its interval.

    Every resample draws candidates, the same ones from all repeats, and repeats. Few repeats say little about their
    spread: with two of them the interval leaves half of its variance out.

    Args:
        rankings: the repeats, each with a set and seeds of its own.
        truth: of the candidates.
        top: share of the candidates, the best ones by the truth, that counts.
        resamples: of the bootstrap.
        seed: of the resamples.

    Raises:
        ConfigError: no rankings, or no candidate in all of them.
    """
    names, y = _in_all(rankings, truth)
    chosen = np.argsort(-y, kind="stable")[: math.ceil(len(names) * top)]
    names, y = [names[index] for index in chosen], y[chosen]
    if len(names) < FEWEST or not all(ranking.separates for ranking in rankings):
        return Correlation(None, len(names))
    indices = resampled_indices(len(names), resamples, Streams(seed)("difference"))
    value, resampled = _mean_of(rankings, names, y, indices, seed)
    ends = percentiles(resampled) if math.isfinite(value) else None
    if ends is None:
        return Correlation(value if math.isfinite(value) else None, len(names))
    return Correlation(value, len(names), *ends, "candidates" if len(rankings) == 1 else "candidates and repeats")


def difference(
    first: Ranking | Sequence[Ranking],
    second: Ranking | Sequence[Ranking],
    truth: Truth,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Return how much better the first ranking agrees with the truth than the second, in Spearman's rho.

    Both are resampled over the same candidates, and over the same repeats where they have equally many, so that what
    makes a resample easy for both cancels.

    Args:
        first: a ranking, or its repeats, whose mean counts (:func:`mean_spearman`).
        second: the one to compare with.
        truth: of the candidates.
        resamples: of the bootstrap.
        seed: of the resamples.

    Raises:
        ConfigError: no candidate in all of them.
    """
    sides = [[one] if isinstance(one, Ranking) else list(one) for one in (first, second)]
    together = [*sides[0], *sides[1]]
    names, y = _in_all(together, truth)
    if len(names) < FEWEST or not all(ranking.separates for ranking in together):
        return Difference(None, None, None, len(names))
    indices = resampled_indices(len(names), resamples, Streams(seed)("difference"))
    (a, of_a), (b, of_b) = (_mean_of(side, names, y, indices, seed) for side in sides)
    if not math.isfinite(a - b):
        return Difference(None, None, None, len(names))
    low, high = percentiles(of_a - of_b) or (None, None)
    return Difference(a - b, low, high, len(names))


def _in_all(rankings: Sequence[Ranking], truth: Truth) -> tuple[list[str], Array]:
    """Return the candidates that all rankings and the truth have, and their order by the truth (n,)."""
    if not rankings:
        raise ConfigError("no rankings to compare: give at least one")
    known = [set(shared(ranking, truth)[0]) for ranking in rankings]
    names = [entry.name for entry in rankings[0].usable if all(entry.name in one for one in known)]
    if not names:
        raise ConfigError("no candidate is in all rankings and the truth: compare rankings of the same search space")
    return names, Order.of(truth, names).order


def _mean_of(
    rankings: Sequence[Ranking], names: Sequence[str], y: Array, indices: NDArray[np.int64], seed: int
) -> tuple[float, Array]:
    """Return the mean of rho over rankings, and that of every resample of candidates and rankings (B,)."""
    orders = [Order.of(ranking, names).order for ranking in rankings]
    everything = np.arange(len(names))[None]
    value = float(np.mean([of_resamples("spearman", x, y, everything)[0] for x in orders]))
    resampled = np.stack([of_resamples("spearman", x, y, indices) for x in orders], axis=1)
    drawn = resampled_indices(len(orders), len(indices), Streams(seed)("repeats"))  # (B, R)
    return value, np.take_along_axis(resampled, drawn, axis=1).mean(axis=1)
