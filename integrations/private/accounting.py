"""What does a plan of queries cost by Opacus's accountants, and which noise keeps it within a budget?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Literal, get_args

from ddkit.errors import ConfigError, unknown_name
from ddkit.integrations.private.arguments import require_delta, require_positive
from ddkit.integrations.private.host import create_accountant
from ddkit.integrations.private.independent import Queries, gaussian_epsilon, joint_sigma

Accountant = Literal["prv", "rdp"]

#: Above this the discretised PRV needs more memory than it is worth; the RDP figure is a valid bound as well.
_PRV_LIMIT = 60.0
#: Most noise that is tried.
_MOST_SIGMA = 1e5
#: Relative precision of a calibrated sigma.
_PRECISION = 1e-3


def require_accountant(name: str) -> None:
    """Refuse an accountant that does not exist."""
    if name not in get_args(Accountant):
        raise unknown_name("accountant", name, get_args(Accountant))


def plan_epsilon(plan: Sequence[Queries], delta: float, accountant: Accountant = "prv") -> float:
    """Return epsilon of a composition of queries at ``delta`` under adding or removing one record.

    Args:
        plan: all queries; they may differ in noise and rate.
        delta: in (0, 1).
        accountant: ``prv`` (Gopi et al. 2021, the upper end of its error) or ``rdp`` (Mironov et al. 2019).

    Raises:
        ConfigError: no queries, or a delta outside (0, 1). An accountant without a history says 0, which would be a
            claim about nothing.
        UnknownNameError: an unknown accountant.
    """
    require_accountant(accountant)
    require_delta(delta)
    if not plan:
        raise ConfigError("an empty ledger has no epsilon: no query was made, or none was recorded")
    rdp = _opacus("rdp", tuple(plan), delta)
    if accountant == "rdp" or not rdp < _PRV_LIMIT:
        return rdp
    return _opacus("prv", tuple(plan), delta)


@lru_cache(maxsize=1024)
def _opacus(mechanism: str, plan: tuple[Queries, ...], delta: float) -> float:
    """Return epsilon by an accountant of Opacus; PRV takes up to seconds, and fits ask for the same plans again."""
    counted = create_accountant(mechanism=mechanism)
    counted.history = [(queries.sigma, queries.rate, queries.steps) for queries in plan]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best Rényi order is the last one: the bound is valid, if loose
        return float(counted.get_epsilon(delta=delta))


def calibrate(
    epsilon: float,
    delta: float,
    rate: float,
    steps: int,
    accountant: Accountant = "prv",
    past: Sequence[Queries] = (),
) -> float:
    """Return the smallest noise multiplier with which ``steps`` more queries stay within a budget.

    Args:
        epsilon: of the past and the new queries together.
        delta: likewise.
        rate: sampling rate of the new queries.
        steps: their number.
        accountant: ``prv`` or ``rdp``.
        past: queries that were made on the same data before.

    Returns:
        sigma, rounded up by at most 0.1 %.

    Raises:
        ConfigError: no noise is enough, or numbers out of their range.
    """
    require_positive(epsilon=epsilon)
    require_delta(delta)

    def cost(sigma: float) -> float:
        return plan_epsilon([*past, Queries(sigma, rate, steps)], delta, accountant)

    if accountant == "prv":  # its figure is a few per cent below the one of RDP, which costs next to nothing
        with suppress(ConfigError):
            return _bisected(cost, epsilon, calibrate(epsilon, delta, rate, steps, "rdp", past))
    if cost(_MOST_SIGMA) > epsilon:
        before = f", as {plan_epsilon(past, delta, accountant):.3g} was spent before" if past else ""
        raise ConfigError(
            f"epsilon={epsilon:g} at delta={delta:g} cannot be reached by {steps} queries with the accountant "
            f"'{accountant}'{before}: raise epsilon or delta, or ask fewer queries"
        )
    return _bisected(cost, epsilon, 1.0)


def _bisected(cost: Callable[[float], float], epsilon: float, start: float) -> float:
    """Return the smallest sigma that costs at most ``epsilon``, looking around ``start`` first."""
    low = high = start
    while cost(high) > epsilon:
        low, high = high, 1.25 * high
    while low == high or cost(low) <= epsilon:
        high, low = low, low / 1.25
    while high - low > _PRECISION * high:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if cost(middle) > epsilon else (low, middle)
    return high


def replace_one_epsilon(plan: Sequence[Queries], delta: float) -> float:
    r"""Return an epsilon at ``delta`` under replacing one record, for a plan with noise for adding or removing one.

    A release to all records has twice the sensitivity, so it is a Gaussian mechanism with half the noise. For sampled
    queries it is the bound of two neighbours in a row, by the RDP accountant: :math:`(\epsilon', \delta')` becomes
    :math:`(2\epsilon', (1 + e^{\epsilon'})\delta')`.

    Returns:
        infinity where no bound was found.
    """
    sigma = joint_sigma(plan)
    if sigma is not None:
        return gaussian_epsilon(sigma / 2, delta)
    smaller = delta / 2
    for _ in range(6):
        single = plan_epsilon(plan, smaller, "rdp")
        if not single < 100:
            return math.inf
        if (1 + math.exp(single)) * smaller <= delta:
            return 2 * single
        smaller = delta / (1 + math.exp(single)) / 2
    return math.inf
