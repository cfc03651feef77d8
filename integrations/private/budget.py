"""How much privacy do all queries to one set of records cost together, and which query is one too many?"""

from __future__ import annotations

import math

from ddkit.errors import ConfigError, DDKitError
from ddkit.integrations.private.accounting import Accountant, calibrate, plan_epsilon, require_accountant
from ddkit.integrations.private.independent import Queries

#: Room for the rounding of a calibrated sigma.
_SLACK = 1e-6


class PrivacyBudgetError(DDKitError, RuntimeError):
    """A query that would cost more privacy than is left, or that was not planned."""

    exit_status = 1


class PrivacyBudget:
    """What may be spent on one set of records, over all fits, restarts, ablations and hyper-parameter trials.

    >>> budget = PrivacyBudget(epsilon=10, delta=1e-5)
    >>> PrivateDistiller(epsilon=4, budget=budget).fit(train)
    >>> PrivateDistiller(budget=budget).fit(train)  # with what is left

    Queries of different kinds compose in one accountant, which is tighter than adding up the epsilons of fits.

    Args:
        epsilon: of everything together, under adding or removing one record.
        delta: likewise.
        accountant: ``prv`` or ``rdp``.

    Raises:
        ConfigError: an epsilon that is not positive and finite, or a delta outside (0, 1).
    """

    def __init__(self, epsilon: float, delta: float, accountant: Accountant = "prv") -> None:
        if not 0 < epsilon < math.inf:
            raise ConfigError(f"epsilon={epsilon} must be a positive finite number, such as 1 or 10")
        if not 0 < delta < 1:
            raise ConfigError(f"delta={delta} must lie between 0 and 1, below one over the number of records")
        require_accountant(accountant)
        self.epsilon, self.delta, self.accountant = float(epsilon), float(delta), accountant
        self._ledger: list[Queries] = []

    @property
    def ledger(self) -> tuple[Queries, ...]:
        """Every query made so far, equal ones in a row counted together."""
        return tuple(self._ledger)

    def spent(self) -> float:
        """Return the epsilon of all queries so far; 0 before the first."""
        return plan_epsilon(self._ledger, self.delta, self.accountant) if self._ledger else 0.0

    def calibrate(self, rate: float, steps: int, epsilon: float | None = None) -> float:
        """Return the noise for ``steps`` more queries.

        Args:
            rate: sampling rate.
            steps: number of queries.
            epsilon: what these queries alone may cost; None for all that is left of the budget.

        Raises:
            ConfigError: no noise is enough.
        """
        if epsilon is None:
            return calibrate(self.epsilon, self.delta, rate, steps, self.accountant, self._ledger)
        return calibrate(epsilon, self.delta, rate, steps, self.accountant)

    def plan(self, queries: Queries) -> Plan:
        """Open a plan of queries.

        Raises:
            ConfigError: noise that is not positive, a rate outside (0, 1] or no queries.
            PrivacyBudgetError: with what was spent before it would exceed the budget; nothing was asked.
        """
        if not 0 < queries.sigma < math.inf:
            raise ConfigError(f"noise_multiplier={queries.sigma} must be positive and finite, such as 1")
        if not 0 < queries.rate <= 1 or queries.steps < 1:
            raise ConfigError(
                f"{queries.steps} queries at a sampling rate of {queries.rate:g}: there must be at least one, and a "
                f"Poisson sample needs an expected size above 0 and up to all records"
            )
        total = plan_epsilon([*self._ledger, queries], self.delta, self.accountant)
        if total > self.epsilon * (1 + _SLACK):
            raise PrivacyBudgetError(
                f"{queries.steps} queries with noise multiplier {queries.sigma:.4g} at rate {queries.rate:.4g} would "
                f"bring the total to epsilon={total:.3f}, above the budget of {self.epsilon:g} at delta={self.delta:g}:"
                f" use more noise, fewer queries or a larger budget"
            )
        return Plan(self, queries)

    def _charge(self, sigma: float, rate: float) -> None:
        last = self._ledger[-1] if self._ledger else None
        if last is not None and (last.sigma, last.rate) == (sigma, rate):
            self._ledger[-1] = Queries(sigma, rate, last.steps + 1)
        else:
            self._ledger.append(Queries(sigma, rate, 1))


class Plan:
    """The queries of one fit: fixed before the first one, charged one by one, compared afterwards."""

    def __init__(self, budget: PrivacyBudget, queries: Queries) -> None:
        self.budget, self.queries = budget, queries
        self.made = 0

    def charge(self, sigma: float, rate: float) -> None:
        """Enter one query into the ledger; called before its noise is drawn.

        Raises:
            PrivacyBudgetError: the query is not part of the plan, or all that were planned are made.
        """
        if (sigma, rate) != (self.queries.sigma, self.queries.rate):
            raise PrivacyBudgetError(
                f"a query with noise multiplier {sigma:g} at rate {rate:g} is not planned: the plan has "
                f"{self.queries.sigma:g} at {self.queries.rate:g}"
            )
        if self.made >= self.queries.steps:
            raise PrivacyBudgetError(
                f"query {self.made + 1} of {self.queries.steps} planned ones is refused: its noise is not paid for; "
                f"plan more queries, with more noise"
            )
        self.made += 1
        self.budget._charge(sigma, rate)

    def spent(self) -> tuple[Queries, ...]:
        """Return the queries that this plan has made."""
        return (Queries(self.queries.sigma, self.queries.rate, self.made),) if self.made else ()

    def close(self) -> None:
        """Compare what was asked with what was planned.

        Raises:
            PrivacyBudgetError: they differ, so the reported epsilon would not be the one of this run.
        """
        if self.made != self.queries.steps:
            raise PrivacyBudgetError(
                f"{self.made} queries were made where {self.queries.steps} were planned: the noise was chosen for "
                f"another number; set steps to what the method asks"
            )
