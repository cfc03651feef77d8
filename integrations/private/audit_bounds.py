"""How large must epsilon at least be, given how well an attacker guesses?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ddkit.errors import ConfigError
from ddkit.integrations.private.independent import gaussian_epsilon

#: Fewer runs with, or without, a canary bound nothing.
LEAST_TRIALS = 20


@dataclass(frozen=True)
class Curve:
    """An attack on membership, as it should be reported (Carlini et al. 2022, arXiv 2112.03570).

    Args:
        auc: area under the ROC curve; 0.5 is guessing.
        tpr_at_001: true positive rate at 0.1 % false positives.
        tpr_at_01: the same at 1 %.
    """

    auc: float
    tpr_at_001: float
    tpr_at_01: float


def at_least(successes: int, trials: int, risk: float) -> float:
    """Return the lower Clopper-Pearson limit of a probability, wrong with probability ``risk``."""
    return 0.0 if successes == 0 else float(stats.beta.ppf(risk, successes, trials - successes + 1))


def at_most(successes: int, trials: int, risk: float) -> float:
    """Return the upper Clopper-Pearson limit, likewise."""
    return 1.0 if successes == trials else float(stats.beta.ppf(1 - risk, successes + 1, trials - successes))


def canary_bound(
    inside: Sequence[float],
    outside: Sequence[float],
    delta: float,
    confidence: float = 0.95,
    *,
    gaussian: bool = False,
) -> float:
    r"""Return a lower bound on epsilon from scores of runs with and without a canary.

    .. math:: \hat\epsilon = \log \frac{\underline{\mathrm{TPR}} - \delta}{\overline{\mathrm{FPR}}}

    (Jagielski, Ullman and Oprea 2020) or its mirror with true and false negatives; threshold and side are chosen on
    the first half of the runs, Clopper-Pearson limits come from the second.

    That bound cannot see what is rarer than the number of runs. Where scores are known to be Gaussian with one spread,
    they separate by

    .. math:: \hat\mu = \Phi^{-1}(\underline{\mathrm{TPR}}) - \Phi^{-1}(\overline{\mathrm{FPR}})

    which is a Gaussian mechanism with noise :math:`1/\hat\mu` and says an epsilon at any delta (Nasr et al. 2023).

    Args:
        inside: scores with the canary, at least 20.
        outside: as many without it.
        delta: of the claim.
        confidence: that the bound holds.
        gaussian: whether scores are Gaussian, as those of a one-shot release are.

    Raises:
        ConfigError: too few scores, or unequally many.
    """
    with_canary, without = np.asarray(inside, dtype=float), np.asarray(outside, dtype=float)
    if len(with_canary) != len(without) or len(without) < LEAST_TRIALS:
        raise ConfigError(
            f"an audit needs as many runs with as without a canary, at least {LEAST_TRIALS}: got {len(with_canary)}"
        )
    bound = _separation if gaussian else _ratio
    half, risk = len(without) // 2, (1 - confidence) / 2
    first = np.concatenate([with_canary[:half], without[:half]])
    candidates = np.unique(np.quantile(first, np.linspace(0, 1, 201)))
    if gaussian:  # the middle is near the best place, and choosing among many would only follow the noise
        candidates = np.array([0.5 * (with_canary[:half].mean() + without[:half].mean())])
    best, choice = -math.inf, (float(candidates[0]), 1)
    for threshold in candidates:
        for side in (1, -1):
            value = bound(with_canary[:half], without[:half], float(threshold), side, delta, risk)
            if value > best:
                best, choice = value, (float(threshold), side)
    return max(0.0, bound(with_canary[half:], without[half:], *choice, delta, risk))


def _rates(inside: np.ndarray, outside: np.ndarray, threshold: float, side: int, risk: float) -> tuple[float, float]:
    """Return limits of true and false positives: side 1 looks above the threshold for members, -1 below for others."""
    hits, false = (inside, outside) if side == 1 else (outside, inside)
    right = at_least(int((side * hits > side * threshold).sum()), len(hits), risk)
    return right, at_most(int((side * false > side * threshold).sum()), len(false), risk)


def _ratio(inside: np.ndarray, outside: np.ndarray, threshold: float, side: int, delta: float, risk: float) -> float:
    right, wrong = _rates(inside, outside, threshold, side, risk)
    return math.log((right - delta) / wrong) if right > delta else -math.inf


def _separation(
    inside: np.ndarray, outside: np.ndarray, threshold: float, side: int, delta: float, risk: float
) -> float:
    right, wrong = _rates(inside, outside, threshold, side, risk)
    if not 0 < right < 1 or not 0 < wrong < 1:
        return -math.inf
    distance = float(stats.norm.ppf(right) - stats.norm.ppf(wrong))
    return gaussian_epsilon(1 / distance, delta) if distance > 0 else -math.inf


def one_run_bound(correct: int, guesses: int, canaries: int, delta: float, confidence: float = 0.95) -> float:
    r"""Return a lower bound on epsilon from one run with coin-flipped records (Steinke, Nasr and Jagielski 2023).

    Under :math:`(\epsilon, \delta)`-DP the number of right guesses is at most binomial with
    :math:`p = e^\epsilon / (1 + e^\epsilon)`, up to a term in delta.

    Args:
        correct: right guesses.
        guesses: made; the attacker abstains on the other records.
        canaries: records whose membership was a coin flip.
        delta: of the claim.
        confidence: that the bound holds.

    Raises:
        ConfigError: numbers that contradict each other.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ConfigError(f"{correct} right of {guesses} guesses on {canaries} records is impossible")
    low, high = 0.0, 50.0
    if guesses == 0 or _chance(correct, guesses, canaries, 0.0, delta) >= 1 - confidence:
        return 0.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        refuted = _chance(correct, guesses, canaries, middle, delta) < 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def _chance(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """Return an upper bound on the probability of at least ``correct`` right guesses."""
    right = 1 / (1 + math.exp(-epsilon))
    tail = float(stats.binom.sf(correct - 1, guesses, right))
    steps = np.arange(1, correct + 1)
    excess = float((np.cumsum(stats.binom.pmf(correct - steps, guesses, right)) / steps).max()) if correct else 0.0
    return min(1.0, tail + 2 * canaries * delta * excess)


def curve(members: Sequence[float], others: Sequence[float]) -> Curve:
    """Return the ROC figures of scores that are larger for members."""
    inside, outside = np.asarray(members, dtype=float), np.sort(np.asarray(others, dtype=float))
    below = np.searchsorted(outside, inside, side="left") + np.searchsorted(outside, inside, side="right")
    auc = float(below.mean() / (2 * len(outside)))

    def rate(false: float) -> float:
        allowed = math.floor(false * len(outside))
        return float((inside > outside[len(outside) - 1 - allowed]).mean())

    return Curve(auc, rate(0.001), rate(0.01))
