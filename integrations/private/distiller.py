"""How is a private set distilled: fix a plan, pay for it, query, compare the ledger, sign the result."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.privacy import STATEMENT_FILES
from ddkit.data.real import RealData
from ddkit.engine.distiller import Distiller
from ddkit.errors import ConfigError, DataError
from ddkit.integrations.private import methods
from ddkit.integrations.private.accounting import Accountant, plan_epsilon, require_accountant
from ddkit.integrations.private.arguments import (
    checked_label_counts,
    require_delta,
    require_positive,
    require_room,
    require_whole,
)
from ddkit.integrations.private.budget import Plan, PrivacyBudget
from ddkit.integrations.private.data import PrivateData, public_preprocessing, stand_in
from ddkit.integrations.private.independent import Queries
from ddkit.integrations.private.noise import SeededNoise, SystemNoise
from ddkit.integrations.private.refusals import refuse, refuse_options
from ddkit.integrations.private.report import PrivacyReport, make_report
from ddkit.integrations.private.signals import PrivateSignal
from ddkit.integrations.private.units import RECORD, numbered, unit_of, warn_about_copies

#: Weight of a record in the count of its class beside its features, for label_counts="private".
COUNT_WEIGHT = 0.3
_PRIVATE = "private"
#: What a release consists of: the set, and its report for machines and for people.
_FILES = ("distilled.safetensors", *STATEMENT_FILES)


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
        records: N as made public; None publishes the number of records. With groups, their number.
        budget: shared by several fits on the same records.
        groups: the group of every record, such as the patient: the guarantee then hides a group with all its records.
            :meth:`fit` takes them as well. One query then sees ``batch`` expected groups.
        unit: what a group is called in the statement, such as ``patient``.
        adjacency: ``add-remove``; the report has the bound for replacing a record beside it.
        seed: of what is public: networks and the starting noise. It never decides about privacy noise.
        debug_seed: repeats the privacy noise. The result is not private, and says so.
        overrides: options of :class:`~ddkit.Distiller`, for instance ``model`` or ``optimiser``. An object of one's own
            must hold nothing that was computed from the records: nobody can see that in it.

    Raises:
        ConfigError: an unknown method, one without a private form, numbers out of their range, or options that
            contradict each other or would read the records.
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
        groups: Any = None,
        unit: str = "group",
        adjacency: str = "add-remove",
        seed: int = 0,
        debug_seed: int | None = None,
        **overrides: Any,
    ) -> None:
        self.method, self._private_method = method, methods.get(method)
        require_accountant(accountant)
        require_positive(epsilon=epsilon, noise_multiplier=noise_multiplier, max_grad_norm=max_grad_norm)
        require_whole(ipc=ipc, steps=steps, batch=batch, networks=networks, records=records)
        require_whole(0, seed=seed, debug_seed=debug_seed)
        if delta is not None:
            require_delta(delta)
        refuse_options(overrides)
        self.epsilon, self.delta, self.noise_multiplier = epsilon, delta, noise_multiplier
        self.max_grad_norm, self.ipc, self.steps, self.batch = max_grad_norm, ipc, steps, batch
        self.networks, self.accountant = networks, accountant
        self.label_counts = checked_label_counts(label_counts)
        self.normalisation, self.records, self.budget = normalisation, records, budget
        self.seed, self.debug_seed, self.overrides = seed, debug_seed, overrides
        self.groups, self.unit = groups, unit
        self._report: PrivacyReport | None = None
        self._require_consistent(adjacency)

    def _require_consistent(self, adjacency: str) -> None:
        """Refuse options that contradict each other or the method."""
        one_shot = self._private_method.batch is None
        if self.epsilon is None and self.noise_multiplier is None and self.budget is None:
            raise ConfigError("epsilon is missing: give epsilon, a noise_multiplier, or a budget to use up")
        if self.epsilon is not None and self.noise_multiplier is not None:
            raise ConfigError(
                f"epsilon={self.epsilon:g} and noise_multiplier={self.noise_multiplier:g} contradict each other: give "
                f"one"
            )
        if self.budget is not None and not isinstance(self.budget, PrivacyBudget):
            raise ConfigError(f"budget={self.budget!r} must be a PrivacyBudget(epsilon, delta)")
        if self.budget is not None and (
            self.delta not in (None, self.budget.delta) or self.accountant != self.budget.accountant
        ):
            raise ConfigError("delta and accountant belong to the budget: leave them out, or give equal ones")
        if not isinstance(self.unit, str) or not self.unit.strip() or not self.unit.isprintable():
            raise ConfigError(f"unit={self.unit!r} must name what a group of records is, such as 'patient'")
        if adjacency != "add-remove":
            raise ConfigError(
                f"adjacency='{adjacency}': noise is chosen for adding or removing one record (add-remove); the report "
                f"states the bound for replacing one beside it"
            )
        if self.label_counts == _PRIVATE and not one_shot:
            raise ConfigError(
                f"label_counts='private' is part of the one release of dp-dm, which {self.method} has not"
            )
        if self.max_grad_norm is not None and one_shot:
            raise ConfigError(
                "max_grad_norm has no meaning for dp-dm, whose features are scaled to norm 1: leave it out"
            )

    def fit(self, dataset: Any, *, out: str | Path | None = None, groups: Any = None) -> DistilledDataset:
        """Distil a private set.

        Args:
            dataset: a :class:`~ddkit.data.RealData`, or what :meth:`RealData.from_dataset` takes.
            out: folder for ``distilled.safetensors``, ``privacy.json`` and ``privacy.txt``, without an earlier release;
                None to keep it in memory.
            groups: the group of every record, in their order; None for those of the constructor.

        Returns:
            the set, signed: ``metadata["privacy"]`` is the report.

        Raises:
            ConfigError: settings that would leak, a network that mixes records, a budget that no noise reaches, or a
                folder that cannot take the release; nothing was asked.
            DataError: no images with labels.
            PrivacyBudgetError: the budget does not cover the plan.
        """
        if out is not None:
            require_room(out, _FILES)
        real = _real_data(dataset)
        groups = self.groups if groups is None else groups
        units = torch.arange(len(real)) if groups is None else numbered(groups, len(real))
        unit, held = unit_of(None if groups is None else self.unit), len(units.unique())
        records = held if self.records is None else self.records
        budget = self._budget(records, held)
        warn_about_copies(real, units, unit)
        rate = methods.rate_of(self._private_method, self.batch, records)
        steps = self._private_method.steps(self.ipc) if self.steps is None else self.steps
        public = stand_in(real, public_preprocessing(real.shape[0], self.normalisation))
        self._check(public, steps)
        queries = self._private_method.queries(steps)
        sigma = self.noise_multiplier
        if sigma is None:
            sigma = budget.calibrate(rate, queries, self.epsilon)
        plan = self._plan(budget, Queries(sigma, rate, queries), unit)
        try:
            private = PrivateData(
                real,
                plan,
                normalisation=self.normalisation,
                records=records,
                counts=None if isinstance(self.label_counts, str) else self.label_counts,
                noise=SystemNoise() if self.debug_seed is None else SeededNoise(self.debug_seed),
                groups=None if groups is None else units,
            )
            weight = COUNT_WEIGHT if self.label_counts == _PRIVATE else 0.0
            signal = self._private_method.signal(private, sigma, self.max_grad_norm, rate, weight)
            distilled = self._distiller(public, steps, signal=signal).fit(private.public)
            plan.close()
        finally:
            plan.release()
        self._report = self._signed(plan, private, signal, unit)
        signed = self._card(distilled, private, out)
        if self._report.remark is not None:
            warnings.warn(self._report.remark, stacklevel=2)
        return signed

    def report(self) -> PrivacyReport:
        """Return the report of the last fit.

        Raises:
            ConfigError: nothing was fitted, so there is nothing to claim.
        """
        if self._report is None:
            raise ConfigError("there is no privacy report before fit(): no query was made, and epsilon 0 is no claim")
        return self._report

    def _budget(self, records: int, held: int) -> PrivacyBudget:
        """Return the budget of this fit, its delta checked against the public number of records and that of those held.

        A refusal tells whoever holds the records about their number; it is not part of what is released.
        """
        delta = self.budget.delta if self.budget is not None else self.delta
        if delta is None:
            delta = min(1e-5, 0.1 / records)
        if not delta < 1 / records:
            raise ConfigError(
                f"delta={delta:g} must be positive and below 1/N={1 / records:.3g}: a mechanism that publishes one of "
                f"the {records} records at random meets a larger one; leave it out for {min(1e-5, 0.1 / records):.3g}"
            )
        if not delta < 1 / held:
            raise ConfigError(
                f"delta={delta:g} is not below one over the number of records held, of which records={records} says "
                f"too few: give a public upper bound as records, and a smaller delta"
            )
        if self.budget is not None:
            return self.budget
        # With a given noise multiplier the fit costs what it costs; _plan fills it in.
        return PrivacyBudget(self.epsilon if self.epsilon is not None else 1e9, delta, self.accountant)

    def _plan(self, budget: PrivacyBudget, queries: Queries, unit: str) -> Plan:
        plan = budget.plan(queries, unit)
        if self.budget is None and self.epsilon is None:
            budget.epsilon = plan_epsilon([queries], budget.delta, budget.accountant)
        return plan

    def _distiller(self, public: RealData, steps: int, **objects: Any) -> Distiller:
        settings = {**self._private_method.settings(public, self.ipc, self.networks), **self.overrides}
        return Distiller(self._private_method.base, self.ipc, seed=self.seed, steps=steps, **settings, **objects)

    def _check(self, public: RealData, steps: int) -> None:
        """Refuse what would leak before noise is calibrated, which takes seconds."""
        config = self._distiller(public, steps).configure(public)
        refuse(config, public, augments=self._private_method.batch is not None)

    def _signed(self, plan: Plan, private: PrivateData, signal: PrivateSignal, unit: str) -> PrivacyReport:
        counts = (
            [] if self.label_counts == _PRIVATE else [f"class sizes{'' if self.label_counts else ', assumed equal'}"]
        )
        public = [
            f"N = {private.records}" if unit == RECORD else f"number of {self.unit}s = {private.records}",
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
            unit=unit,
            private=private.noise.secret,
            method=self.method,
            mechanism=signal.mechanism,
            max_norm=1.0 if signal.clip is None else signal.clip,
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
        source: dict[str, Any] = {"name": private.public.name, "split": private.public.split}
        if report.unit == RECORD:
            source["count"] = private.records
        distilled.metadata.update({"method": self.method, "source": source, "privacy": report.as_dict()})
        if out is not None:
            artifact, document, text = (Path(out) / name for name in _FILES)
            distilled.save(artifact)
            write_text(document, report.as_json() + "\n")
            write_text(text, report.as_text() + "\n")
        return distilled


def _real_data(dataset: Any) -> RealData:
    if isinstance(dataset, RealData):
        return dataset
    if isinstance(dataset, Mapping) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(f"fit() got a {type(dataset).__name__}: give a RealData, or a dataset of (image, label) pairs")
    return RealData.from_dataset(dataset)
