"""What does a release cost, computed without Opacus: analytic Gaussian, numerically integrated Rényi divergences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import log_ndtr, logsumexp

from ddkit.errors import ConfigError
from ddkit.integrations.private.arguments import require_positive

#: Rényi orders over which the conversion is minimised.
_ORDERS = np.unique(np.concatenate([np.linspace(1.05, 12, 110), np.geomspace(12, 1024, 60)]))
#: Standard deviations and points of the integration grid.
_TAIL, _POINTS = 14.0, 8001
#: Longer grids, of hardly any noise, are not worth their memory.
_MOST_POINTS = 200_000


@dataclass(frozen=True)
class Queries:
    """Equal queries to the private data.

    Args:
        sigma: standard deviation of the noise over the L2 sensitivity under adding or removing one record.
        rate: probability with which a record is in the Poisson sample of a query; 1 for all records.
        steps: number of queries.

    Raises:
        ConfigError: noise that is not positive and finite, a rate outside (0, 1] or no queries.
    """

    sigma: float
    rate: float
    steps: int

    def __post_init__(self) -> None:
        require_positive(noise_multiplier=self.sigma)
        if not 0 < self.rate <= 1 or self.steps < 1 or self.steps != int(self.steps):
            raise ConfigError(
                f"{self.steps} queries at a sampling rate of {self.rate:g}: there must be at least one, and a Poisson "
                f"sample needs an expected size above 0 and up to all records"
            )


def gaussian_delta(sigma: float, epsilon: float) -> float:
    r"""Return the smallest delta of the Gaussian mechanism with sensitivity 1 (Balle and Wang 2018, Theorem 8).

    .. math:: \delta = \Phi\big(\tfrac{1}{2\sigma} - \epsilon\sigma\big) - e^\epsilon \Phi\big(-\tfrac{1}{2\sigma} -
        \epsilon\sigma\big)
    """
    first = log_ndtr(0.5 / sigma - epsilon * sigma)
    second = epsilon + log_ndtr(-0.5 / sigma - epsilon * sigma)
    return float(math.exp(first) * -math.expm1(min(0.0, second - first)))


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Return the smallest epsilon of the Gaussian mechanism with sensitivity 1 at ``delta``, by bisection."""
    if gaussian_delta(sigma, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(sigma, high) > delta:
        low, high = high, 2 * high
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if gaussian_delta(sigma, middle) > delta else (low, middle)
    return high


def renyi_divergence(rate: float, sigma: float, order: float) -> float:
    r"""Return the Rényi divergence of one Poisson-subsampled Gaussian query, by the trapezoidal rule.

    .. math:: \frac{1}{\alpha - 1} \log \int p(x) \Big(1 - q + q\, e^{(2x - 1) / 2\sigma^2}\Big)^\alpha dx,
        \qquad p = \mathcal N(0, \sigma^2)

    the larger one of the two directions (Mironov, Talwar and Zhang 2019, arXiv 1908.10530). With so little noise that
    the grid would become too long it is the divergence without sampling, which is never smaller.
    """
    points = _POINTS + 40 * order / sigma
    if rate == 1.0 or points > _MOST_POINTS:
        return order / (2 * sigma**2)
    # The integrand is a mixture of Gaussians around 0 .. order.
    x = np.linspace(-_TAIL * sigma, order + _TAIL * sigma, int(points))
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * sigma**2))
    log_p = -(x**2) / (2 * sigma**2) - 0.5 * math.log(2 * math.pi * sigma**2)
    return float(logsumexp(log_p + order * ratio) + math.log(x[1] - x[0])) / (order - 1)


def renyi_epsilon(plan: Sequence[Queries], delta: float) -> float:
    r"""Return epsilon of a composition: the integrated divergences, converted at the best order.

    .. math:: \epsilon = \rho(\alpha) + \log\frac{\alpha - 1}{\alpha} - \frac{\log\delta + \log\alpha}{\alpha - 1}

    (Balle et al. 2020, arXiv 1905.09982, Theorem 21).
    """
    best = math.inf
    for order in _ORDERS:
        total = sum(queries.steps * renyi_divergence(queries.rate, queries.sigma, float(order)) for queries in plan)
        converted = math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        best = min(best, total + converted)
    return max(0.0, float(best))


def joint_sigma(plan: Sequence[Queries]) -> float | None:
    r"""Return the noise of the one Gaussian release that equals the plan, :math:`(\sum_i T_i / \sigma_i^2)^{-1/2}`.

    None where a query sees a sample of the records.
    """
    if not plan or any(queries.rate != 1.0 for queries in plan):
        return None
    return float(sum(queries.steps / queries.sigma**2 for queries in plan) ** -0.5)


def independent_epsilon(plan: Sequence[Queries], delta: float) -> tuple[float, str]:
    """Return epsilon of a plan without Opacus, and how it was computed."""
    sigma = joint_sigma(plan)
    if sigma is not None:
        return gaussian_epsilon(sigma, delta), "analytic Gaussian mechanism (Balle and Wang 2018)"
    return renyi_epsilon(plan, delta), "Rényi divergence of the subsampled Gaussian, integrated numerically"
