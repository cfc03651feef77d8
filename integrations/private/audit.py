"""What does an audit of a private method find, beside a method that is not private and mechanisms that are broken?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine.distiller import Distiller
from ddkit.errors import ConfigError
from ddkit.integrations.private import methods
from ddkit.integrations.private.accounting import calibrate, plan_epsilon
from ddkit.integrations.private.arguments import require_whole
from ddkit.integrations.private.audit_bounds import LEAST_TRIALS
from ddkit.integrations.private.audit_mechanism import audit_queries, audit_release
from ddkit.integrations.private.audit_membership import LEAST_RUNS, Membership, attack
from ddkit.integrations.private.distiller import PrivateDistiller
from ddkit.integrations.private.independent import Queries
from ddkit.integrations.private.mutants import MUTANTS, Mutant

Say = Callable[[str], None]

#: Sampled queries that a canary audit of an iterated mechanism makes per run.
_STEPS, _RATE = 10, 0.2
#: A delta at which their claim is audited.
_VISIBLE = 0.05


@dataclass(frozen=True)
class AuditRow:
    """One audit.

    Args:
        subject: what was audited.
        attack: how.
        claimed: epsilon that is claimed.
        bound: lower bound on epsilon at 95 % confidence.
        must_exceed: whether the subject is not private, so that the bound must be above the claim.
        detail: further figures.
    """

    subject: str
    attack: str
    claimed: float
    bound: float
    must_exceed: bool
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the audit ended as it must: no contradiction to a claim, and every broken subject caught."""
        return (self.bound > self.claimed) == self.must_exceed

    def as_dict(self) -> dict[str, Any]:
        """Return the row for tables and JSON."""
        verdict = {(True, True): "caught", (True, False): "MISSED", (False, True): "within the claim"}
        return {
            "subject": self.subject,
            "attack": self.attack,
            "claimed epsilon": round(self.claimed, 3),
            "epsilon at least": round(self.bound, 3),
            "detail": self.detail,
            "verdict": verdict.get((self.must_exceed, self.passed), "CLAIM REFUTED"),
        }


def require_audit(trials: int, runs: int) -> None:
    """Refuse sizes of an audit that show nothing; 0 leaves one out.

    Args:
        trials: releases with, and as many without, the canary.
        runs: released sets for membership inference.

    Raises:
        ConfigError: naming the size.
    """
    require_whole(0, trials=trials, runs=runs)
    if 0 < trials < LEAST_TRIALS:
        raise ConfigError(f"trials={trials} releases show nothing: make at least {LEAST_TRIALS}, or 0 for no canaries")
    if 0 < runs < LEAST_RUNS:
        raise ConfigError(
            f"runs={runs}: a record needs sets with and without it, so make at least {LEAST_RUNS}, or 0 for none"
        )


def audit_mechanism(
    method: str, epsilon: float, delta: float, trials: int = 2000, seed: int = 0, mutants: Sequence[Mutant] = MUTANTS
) -> list[AuditRow]:
    """Audit the mechanism of a private method by canaries, and the same mechanism with mistakes in it.

    Args:
        method: private method.
        epsilon: claimed.
        delta: claimed.
        trials: releases with, and as many without, the canary. A quarter of them, with many looks
            each, for repeated noise; half of them, of ten queries each, for sampled queries.
        seed: of the noise.
        mutants: mistakes to make; repeated noise is one of the one-shot release only.

    Raises:
        ConfigError: an unknown method, an epsilon that cannot be reached, or fewer than 20 trials.
    """
    one_shot = methods.get(method).batch is None
    rate, steps = (1.0, 1) if one_shot else (_RATE, _STEPS)
    sigma = calibrate(epsilon, delta, rate, steps)
    chosen: list[Mutant] = ["none", *(name for name in mutants if one_shot or name != "fresh-noise")]
    rows = []
    for mutant in chosen:
        if one_shot:
            claimed, at = epsilon, delta
            runs = max(20, trials // 4) if mutant == "fresh-noise" else trials
            bound = audit_release(sigma, at, runs, seed, mutant)
        else:  # one curve holds the claims at all deltas, and this one can be seen in few runs
            claimed, at = plan_epsilon([Queries(sigma, rate, steps)], _VISIBLE), _VISIBLE
            runs = max(20, trials // 2)
            bound = audit_queries(sigma, rate, steps, at, runs, seed, mutant)
        subject = method if mutant == "none" else f"{method}, mutant {mutant}"
        detail = f"{runs} runs each way, at delta {at:g}"
        rows.append(AuditRow(subject, "canary", claimed, bound, mutant != "none", detail))
    return rows


def audit_membership(
    method: str,
    real: RealData,
    epsilon: float,
    delta: float,
    *,
    runs: int = 8,
    ipc: int = 10,
    seed: int = 0,
    private: dict[str, Any] | None = None,
    control: dict[str, Any] | None = None,
) -> list[AuditRow]:
    """Attack sets released by a private method, and by the same method without privacy as positive control.

    The control starts from real images, as published. An attack that does not catch it says nothing about the private
    one.

    Args:
        method: private method.
        real: records; each set is made from a random half of them.
        epsilon: claimed.
        delta: claimed.
        runs: sets of each kind.
        ipc: images per class.
        seed: of membership; the privacy noise is secret.
        private: further options of :class:`PrivateDistiller`.
        control: options of the plain method.

    Raises:
        ConfigError: as :class:`PrivateDistiller` and :func:`attack`.
    """

    def sign(members: RealData, run: int) -> DistilledDataset:
        options = {"networks": 8, **(private or {})}
        return PrivateDistiller(epsilon, delta, method=method, ipc=ipc, seed=run, **options).fit(members)

    def plain(members: RealData, run: int) -> DistilledDataset:
        options = {
            "steps": 20,
            "model": "convnet:width=16",
            "compile": False,
            "augmentation": "none",
            **(control or {}),
        }
        return Distiller("dm", ipc, seed=run, **options).fit(members)

    rows = []
    for subject, make, exposed in ((method, sign, False), ("dm from real images, not private", plain, True)):
        found = attack(make, real, delta=delta, runs=runs, seed=seed)
        rows.append(AuditRow(subject, "membership", epsilon, found.one_run_epsilon, exposed, _figures(found)))
    return rows


def _figures(found: Membership) -> str:
    best = found.best
    return (
        f"TPR {100 * best.tpr_at_001:.1f} % at 0.1 % FPR, {100 * best.tpr_at_01:.1f} % at 1 %, AUC {best.auc:.3f} "
        f"({found.runs} sets)"
    )
