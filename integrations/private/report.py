"""What may be claimed of a private release: mechanism, cost, what is assumed, and a sentence to quote."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ddkit.integrations.private.accounting import Accountant, plan_epsilon, replace_one_epsilon
from ddkit.integrations.private.independent import Queries, independent_epsilon
from ddkit.integrations.private.units import RECORD

#: Above this a guarantee draws a remark: odds may change by a factor of e^20, half a billion.
LARGE_EPSILON = 20.0


@dataclass(frozen=True)
class PrivacyReport:
    """The privacy part of an artifact's card.

    How often clipping took place is left out: it is a statistic of the private records.

    Args:
        private: whether the noise was secret; False after a debug seed.
        epsilon: of the queries of this fit at ``delta``, by ``accountant``.
        delta: failure probability of the guarantee.
        adjacency: neighbouring sets of records: one unit more or less.
        accountant: ``prv`` or ``rdp``.
        independent_epsilon: the same without Opacus.
        independent_method: how that was computed.
        replace_one_epsilon: an upper bound at the same delta where one record is replaced; None where it is infinite.
        total_epsilon: of everything that the budget has seen, this fit included.
        budget_epsilon: what the budget allows.
        method: private method.
        mechanism: what a query is.
        noise_multiplier: sigma over the sensitivity.
        max_norm: largest norm of what one record adds.
        sampling_rate: of Poisson samples; 1 for all records.
        queries: made, as planned.
        ledger: (noise multiplier, sampling rate, queries) of the whole budget.
        public: what is assumed to be known to everybody.
        post_processing: what used answers only and costs nothing.
        rng: where noise and samples came from.
        audit: rows of :mod:`ddkit.integrations.private.audit`; empty where none was made.
        baseline: a classifier with DP-SGD at the same cost; None where none was trained.
        unit: what is hidden: one record, pixels and label, or one group with all its records.
    """

    private: bool
    epsilon: float
    delta: float
    adjacency: str
    accountant: str
    independent_epsilon: float
    independent_method: str
    replace_one_epsilon: float | None
    total_epsilon: float
    budget_epsilon: float
    method: str
    mechanism: str
    noise_multiplier: float
    max_norm: float
    sampling_rate: float
    queries: int
    ledger: tuple[tuple[float, float, int], ...]
    public: tuple[str, ...]
    post_processing: tuple[str, ...]
    rng: str
    audit: tuple[dict[str, Any], ...] = ()
    baseline: str | None = None
    unit: str = RECORD

    @property
    def remark(self) -> str | None:
        """What is to be said of an epsilon that promises next to nothing; None below :data:`LARGE_EPSILON`."""
        largest = max(self.epsilon, self.total_epsilon)
        if not self.private or largest <= LARGE_EPSILON:
            return None
        return (
            f"Remark: this is next to no privacy, as epsilon={largest:.4g} lets the odds that {self.unit} took part "
            f"change by a factor of e^{largest:.4g}; usual values lie between 0.1 and 10."
        )

    @property
    def quote(self) -> str:
        """The sentence to quote; nothing stronger follows."""
        if not self.private:
            return "This result is NOT private: its noise came from a recorded seed, so anyone can subtract it."
        sentence = (
            f"The released images are ({self.epsilon:.3g}, {self.delta:.3g})-differentially private under adding or "
            f"removing {self.unit}, by the {self.accountant.upper()} accountant of Opacus, with these quantities "
            f"assumed public: {'; '.join(self.public)}."
        )
        return sentence if self.remark is None else f"{sentence} {self.remark}"

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values, the sentence and the text included."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {**plain, "quote": self.quote, "text": self.as_text()}

    def as_json(self) -> str:
        """Return the report as a JSON document."""
        return json.dumps(self.as_dict(), indent=2)

    def as_text(self) -> str:
        """Return the report for people."""
        replaced = "not bounded" if self.replace_one_epsilon is None else f"at most {self.replace_one_epsilon:.3f}"
        lines = [
            self.quote,
            "",
            f"method              {self.method}: {self.mechanism}",
            f"epsilon             {self.epsilon:.4f} at delta {self.delta:.3g} ({self.accountant}; {self.adjacency})",
            f"independent         {self.independent_epsilon:.4f} ({self.independent_method})",
            f"unit of privacy     {self.unit}",
            f"replacing a record  {replaced} at the same delta"
            if self.unit == RECORD
            else f"replacing a unit    {replaced} at the same delta",
            f"budget              {self.total_epsilon:.4f} of {self.budget_epsilon:g} after this fit",
            f"queries             {self.queries} at sampling rate {self.sampling_rate:.6g}",
            f"noise multiplier    {self.noise_multiplier:.5g}, times the norm bound {self.max_norm:g}",
            f"randomness          {self.rng}",
            f"public              {'; '.join(self.public)}",
            f"post-processing     {'; '.join(self.post_processing)}",
            f"DP-SGD beside it    {self.baseline or 'not trained'}",
            "audit               " + ("; ".join(_audit_line(row) for row in self.audit) or "not made"),
            "",
            "An audit that finds nothing tests the program; it proves nothing about safety. The guarantee is the one "
            "of the first sentence.",
        ]
        return "\n".join(lines)


def make_report(
    *,
    spent: Sequence[Queries],
    ledger: Sequence[Queries],
    delta: float,
    budget_epsilon: float,
    accountant: Accountant,
    unit: str = RECORD,
    **fields: Any,
) -> PrivacyReport:
    """Compute what queries cost in every way and put the report together.

    Args:
        spent: queries of this fit.
        ledger: of the whole budget.
        delta: failure probability.
        budget_epsilon: what the budget allows.
        accountant: ``prv`` or ``rdp``.
        unit: what is hidden.
        fields: the remaining fields of :class:`PrivacyReport` that no query decides.

    Raises:
        ConfigError: no queries were made, so that there is nothing to claim.
    """
    epsilon = plan_epsilon(spent, delta, accountant)
    independent, how = independent_epsilon(spent, delta)
    replaced = replace_one_epsilon(spent, delta)
    return PrivacyReport(
        epsilon=epsilon,
        delta=delta,
        adjacency="add or remove one record" if unit == RECORD else f"add or remove {unit}",
        unit=unit,
        accountant=accountant,
        independent_epsilon=independent,
        independent_method=how,
        replace_one_epsilon=replaced if math.isfinite(replaced) else None,
        total_epsilon=plan_epsilon(ledger, delta, accountant) if tuple(ledger) != tuple(spent) else epsilon,
        budget_epsilon=budget_epsilon,
        noise_multiplier=spent[0].sigma,
        sampling_rate=spent[0].rate,
        queries=sum(queries.steps for queries in spent),
        ledger=tuple((queries.sigma, queries.rate, queries.steps) for queries in ledger),
        **fields,
    )


def _audit_line(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items())
