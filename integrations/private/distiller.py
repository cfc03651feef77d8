"""How is a private set distilled: fix a plan, pay for it, query, compare the ledger, sign the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from ddkit.artifact import DistilledDataset
from ddkit.data import RealData
from ddkit.engine import Distiller
from ddkit.errors import ConfigError
from ddkit.files import write_text
from ddkit.integrations.private import methods
from ddkit.integrations.private.accounting import Accountant, plan_epsilon, require_accountant
from ddkit.integrations.private.budget import Plan, PrivacyBudget
from ddkit.integrations.private.data import PrivateData, public_preprocessing, stand_in
from ddkit.integrations.private.independent import Queries
from ddkit.integrations.private.noise import SeededNoise, SystemNoise
from ddkit.integrations.private.refusals import refuse
from ddkit.integrations.private.report import PrivacyReport, make_report

#: Weight of a record in the count of its class beside its features, for label_counts="private".
COUNT_WEIGHT = 0.3
_PRIVATE = "private"


class PrivateDistiller:
    r"""Distils a set whose every access to the records is a clipped, noised and counted query.

    >>> from ddkit.integrations.private import PrivateDistiller
    >>> distiller = PrivateDistiller(epsilon=1, ipc=10)
    >>> distilled = distiller.fit(train)
    >>> print(distiller.report().as_text())

    The objectives and the engine are ddkit's own: only the :class:`~ddkit.objectives.Signal` between them and the real
    data is another. Images start as noise, normalisation is a public constant, and the run sees blank images.

    Args:
        epsilon: of this fit, under adding or removing one record; None for all that ``budget`` has left, or with a
            ``noise_multiplier``.
        delta: None for min(1e-5, 1/(10 N)), or that of the budget; at least 1/N is refused.
        noise_multiplier: sigma over the sensitivity, instead of an epsilon from which it follows.
        max_grad_norm: largest norm of what one record adds; None for the method's (1 in units of public features, 0.1
            for gradients, 1e-6 for kernels).
        method: ``dp-dm``, ``dp-dm-iterated``, ``psg`` or ``dp-kip``.
        ipc: images per class.
        steps: outer steps; None for the method's. Under ``dp-dm`` they cost nothing.
        batch: expected records per Poisson sample; None for the method's, but at most a quarter of the records.
        networks: size of the pool of ``dp-dm``.
        accountant: ``prv`` or ``rdp`` of Opacus.
        label_counts: public numbers of records per class; None assumes equal classes; ``"private"`` has ``dp-dm``
            release noisy ones within the same query.
        normalisation: public constants (mean, std) on the [0, 1] scale.
        records: N as made public; None publishes the number of records.
        budget: shared by several fits on the same records.
        adjacency: ``add-remove``; the report has the bound for replacing a record beside it.
        seed: of what is public: networks and the starting noise. It never decides about privacy noise.
        debug_seed: repeats the privacy noise. The result is not private, and says so.
        overrides: options of :class:`~ddkit.Distiller`, for instance ``model`` or ``optimiser``.

    Raises:
        ConfigError: an unknown method, one without a private form, or options that contradict each other.
    """

    def __init__(
        self,
        epsilon: float | None = None,
        delta: float | None = None,
        *,
        noise_multiplier: float | None = None,
        max_grad_norm: float | None = None,
        method: str = "dp-dm",
        ipc: int = 10,
        steps: int | None = None,
        batch: int | None = None,
        networks: int = 24,
        accountant: Accountant = "prv",
        label_counts: Sequence[int] | Literal["private"] | None = None,
        normalisation: tuple[float, float] = (0.5, 0.5),
        records: int | None = None,
        budget: PrivacyBudget | None = None,
        adjacency: str = "add-remove",
        seed: int = 0,
        debug_seed: int | None = None,
        **overrides: Any,
    ) -> None:
        self.method, self._private_method = method, methods.get(method)
        require_accountant(accountant)
        if epsilon is None and noise_multiplier is None and budget is None:
            raise ConfigError("epsilon is missing: give epsilon, a noise_multiplier, or a budget to use up")
        if epsilon is not None and noise_multiplier is not None:
            raise ConfigError(
                f"epsilon={epsilon:g} and noise_multiplier={noise_multiplier:g} contradict each other: give one"
            )
        if budget is not None and (delta not in (None, budget.delta) or accountant != budget.accountant):
            raise ConfigError("delta and accountant belong to the budget: leave them out, or give equal ones")
        if adjacency != "add-remove":
            raise ConfigError(
                f"adjacency='{adjacency}': noise is chosen for adding or removing one record (add-remove); the report "
                f"states the bound for replacing one beside it"
            )
        if label_counts == _PRIVATE and self._private_method.batch is not None:
            raise ConfigError(f"label_counts='private' is part of the one release of dp-dm, which {method} has not")
        if max_grad_norm is not None and self._private_method.batch is None:
            raise ConfigError(
                "max_grad_norm has no meaning for dp-dm, whose features are scaled to norm 1: leave it out"
            )
        self.epsilon, self.delta, self.noise_multiplier = epsilon, delta, noise_multiplier
        self.max_grad_norm, self.ipc, self.steps, self.batch = max_grad_norm, ipc, steps, batch
        self.networks, self.accountant, self.label_counts = networks, accountant, label_counts
        self.normalisation, self.records, self.budget = normalisation, records, budget
        self.seed, self.debug_seed, self.overrides = seed, debug_seed, overrides
        self._report: PrivacyReport | None = None

    def fit(self, dataset: Any, *, out: str | Path | None = None) -> DistilledDataset:
        """Distil a private set.

        Args:
            dataset: a :class:`~ddkit.data.RealData`, or what :meth:`RealData.from_dataset` takes.
            out: folder for ``distilled.safetensors``, ``privacy.json`` and ``privacy.txt``; None to keep it in memory.

        Returns:
            the set, signed: ``metadata["privacy"]`` is the report.

        Raises:
            ConfigError: settings that would leak, or a budget that no noise reaches; nothing was asked.
            PrivacyBudgetError: the budget does not cover the plan.
        """
        real = dataset if isinstance(dataset, RealData) else RealData.from_dataset(dataset)
        records = len(real) if self.records is None else self.records
        budget = self._budget(records)
        rate = methods.rate_of(self._private_method, self.batch, records)
        steps = self._private_method.steps(self.ipc) if self.steps is None else self.steps
        public = stand_in(real, public_preprocessing(real.shape[0], self.normalisation))
        self._check(public, steps)
        queries = self._private_method.queries(steps)
        sigma = self.noise_multiplier or budget.calibrate(rate, queries, self.epsilon)
        plan = self._plan(budget, Queries(sigma, rate, queries))
        private = PrivateData(
            real,
            plan,
            normalisation=self.normalisation,
            records=records,
            counts=None if self.label_counts == _PRIVATE or self.label_counts is None else self._counts(),
            noise=SystemNoise() if self.debug_seed is None else SeededNoise(self.debug_seed),
        )
        weight = COUNT_WEIGHT if self.label_counts == _PRIVATE else 0.0
        signal = self._private_method.signal(private, sigma, self.max_grad_norm, rate, weight)
        distilled = self._distiller(public, steps, signal=signal).fit(private.public)
        plan.close()
        self._report = self._signed(plan, private, signal.mechanism, signal.clip or 1.0)
        return self._card(distilled, private, out)

    def report(self) -> PrivacyReport:
        """Return the report of the last fit.

        Raises:
            ConfigError: nothing was fitted, so there is nothing to claim.
        """
        if self._report is None:
            raise ConfigError("there is no privacy report before fit(): no query was made, and epsilon 0 is no claim")
        return self._report

    def _counts(self) -> list[int]:
        assert self.label_counts is not None and not isinstance(self.label_counts, str)
        return [int(count) for count in self.label_counts]

    def _budget(self, records: int) -> PrivacyBudget:
        """Return the budget of this fit, its delta checked against the number of records."""
        delta = self.budget.delta if self.budget is not None else self.delta
        if delta is None:
            delta = min(1e-5, 0.1 / records)
        if not 0 < delta < 1 / records:
            raise ConfigError(
                f"delta={delta:g} must be positive and below 1/N={1 / records:.3g}: a mechanism that publishes one of "
                f"the {records} records at random meets a larger one; leave it out for {min(1e-5, 0.1 / records):.3g}"
            )
        if self.budget is not None:
            return self.budget
        # With a given noise multiplier the fit costs what it costs; _plan fills it in.
        return PrivacyBudget(self.epsilon if self.epsilon is not None else 1e9, delta, self.accountant)

    def _plan(self, budget: PrivacyBudget, queries: Queries) -> Plan:
        plan = budget.plan(queries)
        if self.budget is None and self.epsilon is None:
            budget.epsilon = plan_epsilon([queries], budget.delta, budget.accountant)
        return plan

    def _distiller(self, public: RealData, steps: int, **objects: Any) -> Distiller:
        settings = {**self._private_method.settings(public, self.ipc, self.networks), **self.overrides}
        return Distiller(self._private_method.base, self.ipc, seed=self.seed, steps=steps, **settings, **objects)

    def _check(self, public: RealData, steps: int) -> None:
        """Refuse what would leak before noise is calibrated, which takes seconds."""
        if "seed" in self.overrides or "signal" in self.overrides:
            raise ConfigError("the signal of a private run is its mechanism: leave signal out")
        config = self._distiller(public, steps).configure(public)
        refuse(config, public, augments=self._private_method.batch is not None)

    def _signed(self, plan: Plan, private: PrivateData, mechanism: str, max_norm: float) -> PrivacyReport:
        counts = (
            [] if self.label_counts == _PRIVATE else [f"class sizes{'' if self.label_counts else ', assumed equal'}"]
        )
        public = [
            f"N = {private.records}",
            f"{private.public.num_classes} classes and their names",
            f"image shape {'x'.join(map(str, private.public.shape))}",
            f"normalisation {self.normalisation[0]:g}, {self.normalisation[1]:g}",
            *counts,
            "architecture, all settings and the public seed",
        ]
        budget = plan.budget
        return make_report(
            spent=plan.spent(),
            ledger=budget.ledger,
            delta=budget.delta,
            budget_epsilon=budget.epsilon,
            accountant=budget.accountant,
            private=private.noise.secret,
            method=self.method,
            mechanism=mechanism,
            max_norm=max_norm,
            public=tuple(public),
            post_processing=(
                "every outer step on the released answers",
                "training of matching networks on synthetic images",
            ),
            rng=private.noise.describe(),
        )

    def _card(self, distilled: DistilledDataset, private: PrivateData, out: str | Path | None) -> DistilledDataset:
        """Sign the result; the stand-in's fingerprint and count make way for what is public of the records."""
        report = self.report()
        source = {"name": private.public.name, "split": private.public.split, "count": private.records}
        distilled.metadata.update({"method": self.method, "source": source, "privacy": report.as_dict()})
        if out is not None:
            distilled.save(Path(out) / "distilled.safetensors")
            write_text(Path(out) / "privacy.json", report.as_json() + "\n")
            write_text(Path(out) / "privacy.txt", report.as_text() + "\n")
        return distilled
