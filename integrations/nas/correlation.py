"""How strongly do two orders of the same candidates agree, and how sure is that?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
#: Draws resampled scores of two orders: ``() -> (x (B, n), y (B, n))``.
SeedResampler = Callable[[], tuple[Array, Array]]

#: Fewer candidates give no correlation: already for 5 the 95 % range of a sample is -0.5 to 1 where the truth is 0.58.
FEWEST = 5
RESAMPLES = 2000


@dataclass(frozen=True)
class Correlation:
    """A rank correlation of two orders.

    Args:
        value: in [-1, 1]; None when it is undefined: fewer than five candidates, or scores that are all equal.
        count: number n of candidates.
        low: lower end of the 95 % interval; None when there is none.
        high: its upper end.
        over: what the interval was resampled over: ``candidates`` or ``seeds``, whichever is wider, or ``candidates and
            repeats``.
    """

    value: float | None
    count: int
    low: float | None = None
    high: float | None = None
    over: str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return "undefined"
        ends = f" [{self.low:.2f}, {self.high:.2f}]" if self.low is not None else ""
        return f"{self.value:.3f}{ends}"


def spearman(x: Array, y: Array) -> Array:
    """Return Spearman's rank correlation of every row: Pearson's of the ranks, ties averaged.

    Args:
        x: (B, n).
        y: (B, n).

    Returns:
        (B,), NaN where a row of ``x`` or ``y`` is constant.
    """
    ranks = [stats.rankdata(one, axis=1) for one in (x, y)]
    a, b = (one - one.mean(axis=1, keepdims=True) for one in ranks)
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)


def kendall(x: Array, y: Array) -> Array:
    """Return Kendall's tau-b of every row.

        tau_b = sum_ij s(x_i - x_j) s(y_i - y_j) / sqrt(sum_ij s(x_i - x_j)^2 sum_ij s(y_i - y_j)^2),  s = sign

    Args:
        x: (B, n).
        y: (B, n).

    Returns:
        (B,), NaN where a row of ``x`` or ``y`` is constant.
    """
    values = np.empty(len(x))
    for row, (a, b) in enumerate(zip(x, y, strict=True)):
        p, q = np.sign(a[:, None] - a), np.sign(b[:, None] - b)
        scale = np.sqrt((p * p).sum() * (q * q).sum())
        values[row] = (p * q).sum() / scale if scale > 0 else np.nan
    return values


def kendall_of_resamples(x: Array, y: Array, counts: Array) -> Array:
    """Return tau-b of resamples of one pair of orders: how often each candidate was drawn says everything.

    Args:
        x: (n,).
        y: (n,).
        counts: (B, n), how often each candidate is in each resample.

    Returns:
        (B,), NaN where a resample is constant.
    """
    p, q = np.sign(x[:, None] - x), np.sign(y[:, None] - y)
    agree, own, other = (((counts @ matrix) * counts).sum(axis=1) for matrix in (p * q, p * p, q * q))
    scale = np.sqrt(own * other)
    return np.divide(agree, scale, out=np.full(len(counts), np.nan), where=scale > 0)


def resampled_indices(count: int, resamples: int, generator: torch.Generator) -> NDArray[np.int64]:
    """Draw ``count`` candidates, or repeats, with replacement: (B, n) indices from a CPU generator."""
    drawn: NDArray[np.int64] = torch.randint(count, (resamples, count), generator=generator).numpy()
    return drawn


def percentiles(values: Array) -> tuple[float, float] | None:
    """Return the 2.5 and 97.5 % percentile of the defined values; None when fewer than half are.

    ``scipy.stats.bootstrap`` has no interval as soon as one resample is constant, as among few candidates one is.
    """
    defined = values[np.isfinite(values)]
    if len(defined) < max(1, len(values) / 2):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def correlate(
    kind: str,
    x: Array,
    y: Array,
    indices: NDArray[np.int64],
    seeds: SeedResampler | None = None,
) -> Correlation:
    """Return a rank correlation with the wider of two 95 % percentile bootstrap intervals.

    Over candidates: how far it would move with other candidates of the same kind. Over seeds: how far with other
    initial weights. Resampled seeds add their noise to that of the scores, so that interval leans towards zero.

    Args:
        kind: ``spearman`` or ``kendall``.
        x: scores (n,).
        y: scores (n,).
        indices: (B, n) resampled candidates; the same for everything that is compared.
        seeds: draws scores of resampled seeds; None where there is only one.
    """
    count = len(x)
    if count < FEWEST:
        return Correlation(None, count)
    measure = {"spearman": spearman, "kendall": kendall}[kind]
    value = float(measure(x[None], y[None])[0])
    if not np.isfinite(value):
        return Correlation(None, count)
    over_candidates = percentiles(of_resamples(kind, x, y, indices))
    intervals = {"candidates": over_candidates, "seeds": percentiles(measure(*seeds())) if seeds else None}
    known = {over: ends for over, ends in intervals.items() if ends is not None}
    if not known:
        return Correlation(value, count)
    over = max(known, key=lambda name: known[name][1] - known[name][0])
    return Correlation(value, count, *known[over], over)


def of_resamples(kind: str, x: Array, y: Array, indices: NDArray[np.int64]) -> Array:
    """Return the correlation (B,) of every resample of candidates."""
    if kind == "spearman":
        return spearman(x[indices], y[indices])
    counts = np.zeros(indices.shape)
    np.add.at(counts, (np.arange(len(indices))[:, None], indices), 1)
    return kendall_of_resamples(x, y, counts)
