"""What a handful of accuracies says: mean, spread, confidence interval, paired difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from ddkit.errors import ConfigError


@dataclass(frozen=True)
class Summary:
    """Statistics of one sample.

    Args:
        count: number of values n.
        mean: their mean.
        std: population standard deviation (ddof 0), the one that published tables print.
        half_width95: half width of the 95 % t-interval of the mean, t(0.975, n - 1) s / sqrt(n) with s at
            ddof 1; None for a single value.
    """

    count: int
    mean: float
    std: float
    half_width95: float | None

    @property
    def interval95(self) -> tuple[float, float] | None:
        """Lower and upper end of the 95 % t-interval of the mean; None for a single value."""
        if self.half_width95 is None:
            return None
        return self.mean - self.half_width95, self.mean + self.half_width95

    def percent(self) -> str:
        """Return ``mean ± standard deviation`` of fractions, in percent."""
        return f"{100 * self.mean:.1f} ± {100 * self.std:.1f}"


@dataclass(frozen=True)
class TwoLevelSummary:
    """Statistics of several networks on each of several distilled sets.

    Args:
        mean: mean over all sets and networks.
        pooled_std: population standard deviation over all values; comparable with published tables.
        between_sets_std: population standard deviation of the set means.
        between_networks_std: root of the mean (over sets) population variance between the networks of a set.
        half_width95: half width of the 95 % t-interval of the mean; None when it cannot be formed.
        interval_over: what the interval is taken over: the set means when there are at least 3 sets,
            otherwise all networks, which leaves the spread between sets out.
    """

    mean: float
    pooled_std: float
    between_sets_std: float
    between_networks_std: float
    half_width95: float | None
    interval_over: Literal["sets", "networks"]

    @property
    def interval95(self) -> tuple[float, float] | None:
        """Lower and upper end of the 95 % t-interval of the mean; None when it cannot be formed."""
        if self.half_width95 is None:
            return None
        return self.mean - self.half_width95, self.mean + self.half_width95


@dataclass(frozen=True)
class PairedDifference:
    """Difference a - b of paired values (same initialisation seeds).

    Args:
        differences: the summary of the differences.
        p_value: two-sided p-value of the paired t-test; None for a single pair, or when all differences are
            equal.
    """

    differences: Summary
    p_value: float | None


def _checked(values: Sequence[float], what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ConfigError(f"{what} must be a non-empty list of finite numbers, got {list(values)!r}")
    return array


def summary(values: Sequence[float]) -> Summary:
    """Summarise the values of one sample.

    Raises:
        ConfigError: no values, or one that is not finite.
    """
    array = _checked(values, "the values to summarise")
    n = array.size
    half_width = None
    if n > 1:
        half_width = float(stats.t.ppf(0.975, n - 1) * array.std(ddof=1) / math.sqrt(n))
    return Summary(n, float(array.mean()), float(array.std()), half_width)


def two_level(values: Sequence[Sequence[float]]) -> TwoLevelSummary:
    """Summarise accuracies given as one list of networks per distilled set.

    Raises:
        ConfigError: no sets, an empty set, or a value that is not finite.
    """
    if len(values) == 0:
        raise ConfigError("two_level got no sets; give one list of accuracies per distilled set")
    sets = [_checked(one, "the accuracies of a set") for one in values]
    means = np.array([one.mean() for one in sets])
    pooled = np.concatenate(sets)
    over: Literal["sets", "networks"] = "sets" if len(sets) >= 3 else "networks"
    return TwoLevelSummary(
        mean=float(pooled.mean()),
        pooled_std=float(pooled.std()),
        between_sets_std=float(means.std()),
        between_networks_std=math.sqrt(float(np.mean([one.var() for one in sets]))),
        half_width95=summary((means if over == "sets" else pooled).tolist()).half_width95,
        interval_over=over,
    )


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Compare two sets evaluated with the same seeds: statistics of ``a[i] - b[i]``.

    Raises:
        ConfigError: the two lists are empty, not finite or not equally long.
    """
    first, second = _checked(a, "the first values"), _checked(b, "the second values")
    if first.size != second.size:
        raise ConfigError(f"paired values must be equally many, got {first.size} and {second.size}; use equal repeats")
    difference = first - second
    p_value = None
    if difference.size > 1 and difference.std() > 0:
        p_value = float(stats.ttest_rel(first, second).pvalue)
    return PairedDifference(summary(difference.tolist()), p_value)
