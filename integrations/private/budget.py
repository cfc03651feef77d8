"""How much privacy do all queries to one set of records cost together, and which query is one too many?"""

from __future__ import annotations

import os
import secrets
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddkit.errors import ConfigError, DDKitError
from ddkit.integrations.private.accounting import Accountant, calibrate, plan_epsilon, require_accountant
from ddkit.integrations.private.arguments import require_delta, require_positive
from ddkit.integrations.private.independent import Queries
from ddkit.integrations.private.ledger_file import LedgerFile, Transaction
from ddkit.integrations.private.units import RECORD

_NO_COPIES = (
    "a privacy budget cannot be copied or sent to another process, as a copy would count for itself: keep it in a file "
    "(file='budget.json'), share the object, or give every process a part of epsilon and delta"
)
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
    same epsilon.

    With ``file`` the ledger is kept in a file: a script that runs three times spends three times, and processes that
    share the file cannot spend the same epsilon. A plan is paid for in the file when it is opened, and what it did not
    ask is given back when it is released, so that a process that dies in between has spent all of it. Without ``file``
    a budget counts in one process and is never copied: a copy would not know of what the other spends.

    >>> budget = PrivacyBudget(epsilon=10, delta=1e-5, file="records.budget.json")

    Args:
        epsilon: of everything together, under adding or removing one record (or one group of them).
        delta: likewise.
        accountant: ``prv`` or ``rdp``.
        file: of the ledger; made if it is not there. Who deletes it, and the lock beside it, forgets what was spent.

    Raises:
        ConfigError: an epsilon that is not positive and finite, a delta outside (0, 1), or a file that is damaged or of
            another budget.
    """

    def __init__(
        self, epsilon: float, delta: float, accountant: Accountant = "prv", *, file: str | Path | None = None
    ) -> None:
        require_positive(epsilon=epsilon)
        require_delta(delta)
        require_accountant(accountant)
        self.epsilon, self.delta, self.accountant = float(epsilon), float(delta), accountant
        #: By plan: what those of this object have asked, and what those of others (processes, or a loaded state) cost.
        self._asked: dict[str, Queries] = {}
        self._others: dict[str, Queries] = {}
        self._unit: str | None = None
        self._open: weakref.WeakSet[Plan] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._file = None if file is None else LedgerFile(file)
        with self._shared() as transaction:
            if transaction is not None and transaction.read() is None:
                transaction.write(self._state())

    def __reduce__(self) -> Any:
        """Let another process open the same file; refuse a copy of a budget without one."""
        if self._file is not None:
            return _reopened, (self.epsilon, self.delta, self.accountant, self._file.path.absolute())
        raise ConfigError(_NO_COPIES)

    @property
    def ledger(self) -> tuple[Queries, ...]:
        """Every query made so far, equal ones counted together: their order makes no difference.

        With a file also what other processes have made or may still make.
        """
        with self._shared():
            return tuple(self._made())

    @property
    def unit(self) -> str | None:
        """What the queries hide, such as ``one record``; None before the first plan."""
        with self._shared():
            return self._unit

    def state_dict(self) -> dict[str, Any]:
        """Return what was spent as JSON-able values; what open plans may still ask counts as spent."""
        with self._shared():
            return self._state()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned.

        Raises:
            ConfigError: a state that is damaged or of another budget, or a budget that has queries already.
        """
        with self._shared() as transaction:
            if self._asked or self._others or len(self._open):
                raise ConfigError(
                    "this privacy budget has queries already, which loading a state would forget: load it into a new "
                    "budget"
                )
            self._take(state, "the state of the privacy budget")
            if transaction is not None:
                transaction.write(self._state())

    def save(self, path: str | Path) -> Path:
        """Write :meth:`state_dict` to a file, which :meth:`load` reads; an earlier state of this budget is replaced.

        It does not follow what this object spends later; for that, make the budget with ``file``.

        Raises:
            ConfigError: the file has queries that this budget does not know and that would be forgotten.
        """
        if self._file is not None and self._file.path.resolve() == Path(path).resolve():
            return Path(path)  # kept there anyway
        state = self.state_dict()
        with LedgerFile(path).locked() as transaction:
            there = transaction.read()
            if there is not None and not _includes(state, there):
                raise ConfigError(
                    f"'{path}' holds a privacy budget with other queries, which would be forgotten: choose another file"
                )
            transaction.write(state)
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> PrivacyBudget:
        """Return the budget that is kept in a file, and go on keeping it there.

        Raises:
            ConfigError: no such file, or one that is damaged.
        """
        file = LedgerFile(path)
        state = None
        if file.known:
            with file.locked() as transaction:
                state = transaction.read()
        if state is None:
            raise ConfigError(f"there is no privacy budget in '{path}': check the path")
        try:
            terms = state["epsilon"], state["delta"], state["accountant"]
        except KeyError:
            raise _damaged(f"the privacy budget '{path}'") from None
        return cls(*terms, file=path)

    def spent(self) -> float:
        """Return the epsilon of all queries so far; 0 before the first."""
        ledger = self.ledger
        return plan_epsilon(ledger, self.delta, self.accountant) if ledger else 0.0

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
            with self._shared():
                taken = self._taken()
            return calibrate(self.epsilon, self.delta, rate, steps, self.accountant, taken)
        return calibrate(epsilon, self.delta, rate, steps, self.accountant)

    def plan(self, queries: Queries, unit: str = RECORD) -> Plan:
        """Open a plan of queries, and keep its share of the budget for it.

        Args:
            queries: to be made.
            unit: what they hide.

        Raises:
            PrivacyBudgetError: with what was spent, or is kept for other open plans, it would exceed the budget;
                nothing was asked.
            ConfigError: earlier queries hide another unit.
        """
        with self._shared() as transaction:
            if self._unit not in (None, unit):
                raise ConfigError(
                    f"this privacy budget counts queries that hide {self._unit}, and these hide {unit}: such costs do "
                    f"not add up, so give each a budget of its own"
                )
            total = plan_epsilon([*self._taken(), queries], self.delta, self.accountant)
            if total > self.epsilon * (1 + _SLACK):
                raise PrivacyBudgetError(
                    f"{queries.steps} queries with noise multiplier {queries.sigma:.4g} at rate {queries.rate:.4g} "
                    f"would bring the total to epsilon={total:.3f}, above the budget of {self.epsilon:g} at "
                    f"delta={self.delta:g}: use more noise, fewer queries or a larger budget"
                )
            plan = Plan(self, queries)
            self._open.add(plan)
            self._unit = unit
            if transaction is not None:
                transaction.write(self._state())
            return plan

    @contextmanager
    def _shared(self) -> Iterator[Transaction | None]:
        """Hold the lock of threads and that of processes, with the file read; None without a file."""
        with self._lock:
            self._require_own_process()
            if self._file is None:
                yield None
                return
            with self._file.locked() as transaction:
                state = transaction.read()
                if state is not None:
                    self._take(state, f"the privacy budget '{self._file.path}'")
                yield transaction

    def _require_own_process(self) -> None:
        """Notice that this is a copy in a forked process: what its parent has open is not open here."""
        if self._process == os.getpid():
            return
        if self._file is None:
            raise ConfigError(_NO_COPIES)
        self._process, self._asked, self._open = os.getpid(), {}, weakref.WeakSet()

    def _made(self) -> list[Queries]:
        """Return what was asked, equal queries counted together."""
        steps: dict[tuple[float, float], int] = {}
        for one in (*self._others.values(), *self._asked.values()):
            steps[one.sigma, one.rate] = steps.get((one.sigma, one.rate), 0) + one.steps
        return [Queries(sigma, rate, count) for (sigma, rate), count in steps.items()]

    def _taken(self) -> list[Queries]:
        """Return what was asked, and what open plans may still ask."""
        kept = [plan.left for plan in self._open]
        return [*self._made(), *sorted((one for one in kept if one), key=lambda one: (one.sigma, one.rate))]

    def _charge(self, plan: Plan, sigma: float, rate: float) -> None:
        before = self._asked.get(plan.key)
        self._asked[plan.key] = Queries(sigma, rate, 1 + (before.steps if before else 0))

    def _close(self, plan: Plan) -> None:
        """Forget what a plan did not ask."""
        with self._lock:
            if plan in self._open:
                with self._shared() as transaction:
                    self._open.discard(plan)
                    if transaction is not None:
                        transaction.write(self._state())

    def _state(self) -> dict[str, Any]:
        """Return terms and plans; one that is open is there with all that it may ask."""
        plans = {**self._others, **self._asked, **{plan.key: plan.queries for plan in self._open}}
        return {
            "epsilon": self.epsilon,
            "delta": self.delta,
            "accountant": self.accountant,
            "unit": self._unit,
            "plans": {key: [float(q.sigma), float(q.rate), int(q.steps)] for key, q in plans.items()},
        }

    def _take(self, state: Mapping[str, Any], name: str) -> None:
        """Learn of the plans in a state that are not of this object."""
        try:
            terms = state["epsilon"], state["delta"], state["accountant"]
            plans = {str(key): Queries(*entry) for key, entry in state["plans"].items()}
            unit = state["unit"]
        except (KeyError, TypeError, AttributeError, DDKitError):
            raise _damaged(name) from None
        if terms != (self.epsilon, self.delta, self.accountant):
            raise ConfigError(
                f"{name} has epsilon={terms[0]}, delta={terms[1]} and accountant '{terms[2]}', and this one "
                f"epsilon={self.epsilon:g}, delta={self.delta:g} and '{self.accountant}': give equal ones, or another "
                f"file"
            )
        mine = {*self._asked, *(plan.key for plan in self._open)}
        self._others = {key: one for key, one in plans.items() if key not in mine}
        self._unit = unit


def _includes(state: Mapping[str, Any], earlier: Mapping[str, Any]) -> bool:
    """Say whether a state has the terms of an earlier one and all its queries."""
    plans = state["plans"]
    kept = all(
        key in plans and plans[key][:2] == one[:2] and plans[key][2] >= one[2] for key, one in earlier["plans"].items()
    )
    return kept and all(state[key] == earlier[key] for key in ("epsilon", "delta", "accountant"))


def _reopened(epsilon: float, delta: float, accountant: Accountant, file: Path) -> PrivacyBudget:
    return PrivacyBudget(epsilon, delta, accountant, file=file)


def _damaged(name: str) -> ConfigError:
    return ConfigError(f"{name} is damaged or was changed by hand: restore it from a copy of its last state")


class Plan:
    """The queries of one fit: fixed before the first one, charged one by one, compared afterwards.

    It is opened by :meth:`PrivacyBudget.plan`, which compares it with the budget; another one can charge nothing.
    """

    def __init__(self, budget: PrivacyBudget, queries: Queries) -> None:
        self.budget, self.queries = budget, queries
        self.key = secrets.token_hex(8)
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
            self.budget._charge(self, sigma, rate)

    def require(self, sigma: float, rate: float) -> None:
        """Refuse a query that :meth:`charge` would refuse, without charging it."""
        if (sigma, rate) != (self.queries.sigma, self.queries.rate):
            raise PrivacyBudgetError(
                f"a query with noise multiplier {sigma:g} at rate {rate:g} is not planned: the plan has "
                f"{self.queries.sigma:g} at {self.queries.rate:g}"
            )
        with self.budget._lock:
            self.budget._require_own_process()
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
        self.budget._close(self)

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
