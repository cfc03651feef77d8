"""How much privacy do all queries to one set of records cost together, and which query is one too many?"""

from __future__ import annotations

import threading
import weakref
from typing import NoReturn

from ddkit.errors import ConfigError, DDKitError
from ddkit.integrations.private.accounting import Accountant, calibrate, plan_epsilon, require_accountant
from ddkit.integrations.private.arguments import require_delta, require_positive
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

    Queries of different kinds compose in one accountant, which is tighter than adding up the epsilons of fits. An open
    plan keeps its share until it has made its queries or is released, so that fits in several threads cannot spend the
    same epsilon. A budget counts in one process and is never copied: a copy would not know of what the other spends.

    Args:
        epsilon: of everything together, under adding or removing one record.
        delta: likewise.
        accountant: ``prv`` or ``rdp``.

    Raises:
        ConfigError: an epsilon that is not positive and finite, or a delta outside (0, 1).
    """

    def __init__(self, epsilon: float, delta: float, accountant: Accountant = "prv") -> None:
        require_positive(epsilon=epsilon)
        require_delta(delta)
        require_accountant(accountant)
        self.epsilon, self.delta, self.accountant = float(epsilon), float(delta), accountant
        self._ledger: list[Queries] = []
        self._open: weakref.WeakSet[Plan] = weakref.WeakSet()
        self._lock = threading.RLock()

    def __reduce__(self) -> NoReturn:
        """Refuse copies, also those that pickling makes for another process.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "a privacy budget cannot be copied or sent to another process, as a copy would count for itself: share the "
            "object, or give every process a part of epsilon and delta"
        )

    @property
    def ledger(self) -> tuple[Queries, ...]:
        """Every query made so far, equal ones counted together: their order makes no difference."""
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
            ConfigError: no noise is enough, or numbers out of their range.
        """
        if epsilon is None:
            return calibrate(self.epsilon, self.delta, rate, steps, self.accountant, self._taken())
        return calibrate(epsilon, self.delta, rate, steps, self.accountant)

    def plan(self, queries: Queries) -> Plan:
        """Open a plan of queries, and keep its share of the budget for it.

        Raises:
            PrivacyBudgetError: with what was spent, or is kept for other open plans, it would exceed the budget;
                nothing was asked.
        """
        with self._lock:
            total = plan_epsilon([*self._taken(), queries], self.delta, self.accountant)
            if total > self.epsilon * (1 + _SLACK):
                raise PrivacyBudgetError(
                    f"{queries.steps} queries with noise multiplier {queries.sigma:.4g} at rate {queries.rate:.4g} "
                    f"would bring the total to epsilon={total:.3f}, above the budget of {self.epsilon:g} at "
                    f"delta={self.delta:g}: use more noise, fewer queries or a larger budget"
                )
            plan = Plan(self, queries)
            self._open.add(plan)
            return plan

    def _taken(self) -> list[Queries]:
        """Return what was asked, and what open plans may still ask."""
        with self._lock:
            kept = [plan.left for plan in self._open]
            return [*self._ledger, *sorted((one for one in kept if one), key=lambda one: (one.sigma, one.rate))]

    def _charge(self, sigma: float, rate: float) -> None:
        for place, one in enumerate(self._ledger):
            if (one.sigma, one.rate) == (sigma, rate):
                self._ledger[place] = Queries(sigma, rate, one.steps + 1)
                return
        self._ledger.append(Queries(sigma, rate, 1))


class Plan:
    """The queries of one fit: fixed before the first one, charged one by one, compared afterwards.

    It is opened by :meth:`PrivacyBudget.plan`, which compares it with the budget; another one can charge nothing.
    """

    def __init__(self, budget: PrivacyBudget, queries: Queries) -> None:
        self.budget, self.queries = budget, queries
        self._made = 0

    @property
    def made(self) -> int:
        """Number of queries made so far."""
        return self._made

    @property
    def left(self) -> Queries | None:
        """The queries that may still be made; None where there are none."""
        count = self.queries.steps - self._made if self in self.budget._open else 0
        return Queries(self.queries.sigma, self.queries.rate, count) if count > 0 else None

    def charge(self, sigma: float, rate: float) -> None:
        """Enter one query into the ledger; called before its noise is drawn.

        Raises:
            PrivacyBudgetError: the query is not part of the plan, all that were planned are made, or the plan is not
                open.
        """
        with self.budget._lock:
            self.require(sigma, rate)
            self._made += 1
            self.budget._charge(sigma, rate)

    def require(self, sigma: float, rate: float) -> None:
        """Refuse a query that :meth:`charge` would refuse, without charging it.

        Raises:
            PrivacyBudgetError: as :meth:`charge`.
        """
        if (sigma, rate) != (self.queries.sigma, self.queries.rate):
            raise PrivacyBudgetError(
                f"a query with noise multiplier {sigma:g} at rate {rate:g} is not planned: the plan has "
                f"{self.queries.sigma:g} at {self.queries.rate:g}"
            )
        with self.budget._lock:
            if self not in self.budget._open:
                raise PrivacyBudgetError(
                    "the plan of this query is not open: get one from PrivacyBudget.plan(), which compares it with the "
                    "budget"
                )
            if self._made >= self.queries.steps:
                raise PrivacyBudgetError(
                    f"query {self._made + 1} of {self.queries.steps} planned ones is refused: its noise is not paid "
                    f"for; plan more queries, with more noise"
                )

    def spent(self) -> tuple[Queries, ...]:
        """Return the queries that this plan has made."""
        return (Queries(self.queries.sigma, self.queries.rate, self._made),) if self._made else ()

    def release(self) -> None:
        """Give queries that were not made back to the budget; none can be made any more."""
        with self.budget._lock:
            self.budget._open.discard(self)

    def close(self) -> None:
        """Compare what was asked with what was planned.

        Raises:
            PrivacyBudgetError: they differ, so the reported epsilon would not be the one of this run.
        """
        if self._made != self.queries.steps:
            raise PrivacyBudgetError(
                f"{self._made} queries were made where {self.queries.steps} were planned: the noise was chosen for "
                f"another number; set steps to what the method asks"
            )
