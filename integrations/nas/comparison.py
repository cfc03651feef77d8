"""Does a cheap ranking choose what the ground truth would choose, and what did it cost?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from ddkit.base.streams import Streams
from ddkit.errors import ConfigError
from ddkit.integrations.nas.correlation import (
    FEWEST,
    RESAMPLES,
    Array,
    Correlation,
    correlate,
    resampled_indices,
)
from ddkit.integrations.nas.entries import Cost, Scores
from ddkit.integrations.nas.orders import Order, Truth, order_values, seed_resampler, shared

#: Shares of the candidates, the best ones by the truth, over which correlations are given beside that of all.
TOP = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Comparison:
    """How a ranking compares with the ground truth.

    Args:
        count: candidates in both.
        missing: candidates with a score for which there is no truth, or the other way round.
        failed: candidates without a score.
        spearman: Spearman's rho over ``all`` candidates and over ``top 5%``, ... of them by the truth. Choosing these
            by the truth restricts the range and depends on its noise.
        kendall: Kendall's tau-b over the same.
        selected: the candidates that share the best rank.
        selected_value: their mean true value.
        best: the candidate that is best by the truth, whether it has a score or not: a ranking that says nothing about
            it loses what it would have given.
        best_value: its true value.
        precision: share of the k best by the ranking that are among the k best by the truth, by k.
        ceiling: Spearman's rho of two independent halves of the seeds of the truth: what another run of it reaches, see
            :func:`noise_ceiling`. None with a single seed.
        cost: of the ranking.
    """

    count: int
    missing: tuple[str, ...]
    failed: tuple[str, ...]
    spearman: dict[str, Correlation]
    kendall: dict[str, Correlation]
    selected: tuple[str, ...]
    selected_value: float
    best: str
    best_value: float
    precision: dict[int, float]
    ceiling: Correlation | None
    cost: Cost

    @property
    def regret(self) -> float:
        """What choosing by the ranking loses against the best candidate, in units of the truth (>= 0)."""
        return self.best_value - self.selected_value

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-able values."""
        return {**dataclasses.asdict(self), "regret": self.regret}


def compare(
    ranking: Scores,
    truth: Truth,
    *,
    top: Sequence[float] = TOP,
    at: Sequence[int] = (1, 5, 10),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare a ranking with the ground truth.

    Where candidates have reached different rungs, ranks take the place of scores: by rung first, by score within it.

    Args:
        ranking: of the candidates; larger scores are better.
        truth: another ranking, or the true value by candidate, larger is better.
        top: shares of the candidates, the best by the truth, that get correlations of their own.
        at: numbers k of the precision at k; those above the number of candidates are left out.
        resamples: of the bootstrap over candidates.
        seed: of the resamples.

    Raises:
        ConfigError: no candidate in both, a share outside (0, 1], a k below 1, or a true value that is not finite.
    """
    _check_options(top, at, resamples)
    names, missing = shared(ranking, truth)
    mine, real = Order.of(ranking, names), Order.of(truth, names)
    x, y = mine.order, real.order
    streams = Streams(seed)
    by_truth = np.argsort(-y, kind="stable")
    spearman, kendall = {}, {}
    for share in (None, *top):
        label = "all" if share is None else f"top {100 * share:g}%"
        chosen = by_truth[: math.ceil(len(names) * (share or 1.0))]
        if len(chosen) < FEWEST or not ranking.separates:
            spearman[label] = kendall[label] = Correlation(None, len(chosen))
            continue
        indices = resampled_indices(len(chosen), resamples, streams(f"candidates/{label}"))
        redrawn = seed_resampler(mine.part(chosen), real.part(chosen), streams, label)
        spearman[label] = correlate("spearman", x[chosen], y[chosen], indices, redrawn)
        kendall[label] = correlate("kendall", x[chosen], y[chosen], indices, redrawn)
    selected = np.flatnonzero(x == x.max())
    values = _true_values(truth, names)
    known = [entry.name for entry in truth.usable] if isinstance(truth, Scores) else list(truth)
    all_values = _true_values(truth, known)
    best = int(np.argmax(all_values))
    return Comparison(
        count=len(names),
        missing=missing,
        failed=tuple(entry.name for entry in ranking.failed),
        spearman=spearman,
        kendall=kendall,
        selected=tuple(names[index] for index in selected),
        selected_value=float(values[selected].mean()),
        best=known[best],
        best_value=float(all_values[best]),
        precision={k: _precision(x, y, k) for k in at if k <= len(names)},
        ceiling=noise_ceiling(truth, resamples=resamples, seed=seed) if isinstance(truth, Scores) else None,
        cost=ranking.cost,
    )


def noise_ceiling(truth: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Correlation | None:
    """Return Spearman's rho r between two independent halves of the seeds of a truth; None with a single seed.

    A ranking at that level agrees with the truth as another run of the truth, of half the seeds, would. It is no strict
    bound: a ranking without noise of its own can come up to about sqrt(2 r / (1 + r)), the correlation of the whole
    truth with what it estimates (Spearman 1910, Brown 1910). Halves share the training images, whose choice it leaves
    out.
    """
    names = [entry.name for entry in truth.usable]
    rungs, scores = truth.values(names)
    half = scores.shape[1] // 2
    if half < 1:
        return None
    a, b = (order_values(rungs, part.mean(axis=1)) for part in (scores[:, :half], scores[:, half : 2 * half]))
    return correlate("spearman", a, b, resampled_indices(len(names), resamples, Streams(seed)("ceiling")))


def break_even(proxy: Cost, reference: Cost, candidates: int) -> float | None:
    """Return from how many candidates on preparing a set and ranking with it is cheaper than ranking by other means.

        n = (preparation - reference preparation) / (reference per candidate - proxy per candidate)

    Args:
        proxy: of ranking ``candidates`` candidates on the set.
        reference: of ranking as many by other means.
        candidates: how many both ranked.

    Returns:
        A number of candidates, 0 where the preparation costs no more than that of the reference; None where a candidate
        costs as much on the set or more, so that the preparation is never paid back.
    """
    saved = (reference.cpu_seconds - proxy.cpu_seconds) / candidates
    return max(0.0, proxy.preparation_seconds - reference.preparation_seconds) / saved if saved > 0 else None


def _check_options(top: Sequence[float], at: Sequence[int], resamples: int) -> None:
    for share in top:
        if not 0 < share <= 1:
            raise ConfigError(f"top={share}: give shares of the candidates between 0 and 1, such as 0.1")
    for k in at:
        if k < 1:
            raise ConfigError(f"at={k}: precision is taken at 1 candidate or more")
    if resamples < 100:
        raise ConfigError(f"resamples={resamples}: a 95 % interval needs at least 100")


def _true_values(truth: Truth, names: Sequence[str]) -> Array:
    """Return what choosing each candidate gives (n,): its mean score in the truth."""
    return Order.of(truth, names).scores.mean(axis=1)


def _precision(x: Array, y: Array, k: int) -> float:
    """Return |top k by x, top k by y| / k; candidates tied at the edge count with the share of them that fits."""
    return float((_membership(x, k) * _membership(y, k)).sum() / k)


def _membership(values: Array, k: int) -> Array:
    """Return for every candidate the share with which it is among the k largest (n,), sum k."""
    ranks = stats.rankdata(-values, method="min")
    tied = stats.rankdata(-values, method="max") - ranks + 1
    share: Array = np.clip((k + 1 - ranks) / tied, 0.0, 1.0)
    return share
