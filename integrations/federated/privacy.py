"""What does a differentially private client promise, and how is its budget kept over all rounds?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DDKitError
from ddkit.integrations.federated.flower import Context, MetricRecord

#: Where the accountant's state lies in a client's ``context.state``.
LEDGER = "ddkit-privacy"
#: Key of a set's metadata in which its release is signed: {"epsilon": ..., "delta": ...}.
SIGNATURE = "privacy"


class BudgetExceededError(DDKitError, RuntimeError):
    """A release that would cost more privacy than a client has left."""

    exit_status = 1


class Release(Protocol):
    """Makes one differentially private release of a client's images.

    The guarantee is the callable's own: it holds for add-or-remove-one-image neighbours of ``real`` and covers
    everything in the returned set, the number of images of every class included, and whether it fails. It signs the
    set with what it cost: ``metadata["privacy"] = {"epsilon": ..., "delta": ...}``.
    """

    def __call__(self, real: RealData, generator: torch.Generator) -> DistilledDataset:
        """Return a set of all classes of ``real``, with the noise of ``generator`` or secret noise of its own."""


@dataclass(frozen=True)
class PrivateRelease:
    r"""A release with the budget of a client over all rounds.

    The ledger composes sequentially: after R releases the client has spent at most
    :math:`(\sum_r \epsilon_r, \sum_r \delta_r)`-DP (Dwork and Roth 2014, Theorem 3.16). Tighter composition is for a
    release that knows its own mechanism.

    Args:
        release: makes one release and signs it.
        epsilon: most that one release may cost.
        delta: likewise.
        max_epsilon: of all rounds together.
        max_delta: likewise.

    Raises:
        ConfigError: numbers that are not positive and finite (delta may be 0), or a budget below one release.
    """

    release: Release
    epsilon: float
    delta: float
    max_epsilon: float
    max_delta: float

    def __post_init__(self) -> None:
        if not (0 < self.epsilon <= self.max_epsilon < math.inf and 0 <= self.delta <= self.max_delta < 1):
            raise ConfigError(
                f"privacy budget epsilon={self.epsilon} of {self.max_epsilon}, delta={self.delta} of {self.max_delta}: "
                f"epsilon is positive and finite, delta in [0, 1), and the whole budget covers one release"
            )

    def run(self, real: RealData, context: Context) -> DistilledDataset:
        """Make one release and keep its cost in ``context.state``.

        The most that it may cost is booked before it starts, so that a release that fails is paid for. Its generator
        is seeded by the operating system: noise from a seed that others know hides nothing.

        Raises:
            BudgetExceededError: the budget does not cover another release.
            ConfigError: the set is not signed, is signed as not private, or cost more than was promised.
        """
        epsilon, delta = spent(context)
        # Sums of many equal shares miss the whole by rounding.
        within = epsilon + self.epsilon <= self.max_epsilon * (1 + 1e-9)
        if not within or delta + self.delta > self.max_delta * (1 + 1e-9):
            raise BudgetExceededError(
                f"this client has spent epsilon={epsilon:g} of {self.max_epsilon:g} (delta={delta:g} of "
                f"{self.max_delta:g}): another release of {self.epsilon:g} is refused, it leaves the federation"
            )
        context.state[LEDGER] = MetricRecord({"epsilon": epsilon + self.epsilon, "delta": delta + self.delta})
        generator = torch.Generator()
        generator.seed()
        distilled = self.release(real, generator)
        signed = distilled.metadata.get(SIGNATURE)
        cost = signed if isinstance(signed, dict) else {}
        signed_epsilon, signed_delta = cost.get("epsilon"), cost.get("delta")
        if not isinstance(signed_epsilon, int | float) or not isinstance(signed_delta, int | float):
            raise ConfigError("the private release is not signed: set metadata['privacy'] to its epsilon and delta")
        if cost.get("private") is False:
            raise ConfigError("the release says of itself that it is not private (debug_seed): it is not sent")
        if not (0 <= signed_epsilon <= self.epsilon and 0 <= signed_delta <= self.delta):
            raise ConfigError(
                f"the private release cost epsilon={signed_epsilon:g}, delta={signed_delta:g}, more than the promised "
                f"{self.epsilon:g} and {self.delta:g}: it is not sent"
            )
        return distilled


def private_release(epsilon: float, delta: float, *, records: int, rounds: int = 1, **options: Any) -> PrivateRelease:
    """Return the release of ddkit's own private distiller (extra ``private``).

    >>> private = private_release(epsilon=4.0, delta=1e-4, records=500, ipc=1)
    >>> app = DistillClient(task, load, private=private).app()

    Args:
        epsilon: of one release, for adding or removing one image of the client.
        delta: likewise, below 1 / ``records``.
        records: images of a client as agreed in public, the same for all. Noise and scale follow from it; the client's
            own number would be an answer without noise.
        rounds: releases that the whole budget covers.
        options: of :class:`~ddkit.integrations.private.PrivateDistiller`. Its ``dp-dm`` releases noisy class sizes
            along with the images unless told otherwise, as clients differ in them.

    Raises:
        MissingExtraError: Opacus is not installed.
        ConfigError: options that do not suit.
    """
    from ddkit.integrations.private.distiller import PrivateDistiller

    if not 0 < delta * records < 1:
        raise ConfigError(f"delta={delta:g} must be positive and below 1/records={1 / max(1, records):.3g}")
    if rounds < 1 or "budget" in options:
        raise ConfigError(f"rounds={rounds} must be at least 1; each client keeps its own budget: leave budget out")
    if options.get("method", "dp-dm") == "dp-dm":
        options.setdefault("label_counts", "private")

    def distiller() -> PrivateDistiller:
        # Its noise is calibrated up to a millionth, and may not cost more than is booked.
        return PrivateDistiller(epsilon * (1 - 1e-5), delta, records=records, **options)

    distiller()  # refuses bad options here, and not on every client
    return PrivateRelease(
        lambda real, generator: distiller().fit(real), epsilon, delta, rounds * epsilon, rounds * delta
    )


def spent(context: Context) -> tuple[float, float]:
    """Return the epsilon and delta that a client has spent so far."""
    ledger = context.state.metric_records.get(LEDGER)
    return (0.0, 0.0) if ledger is None else (float(ledger["epsilon"]), float(ledger["delta"]))  # type: ignore[arg-type]
