"""What trajectory matching asks of a network source: checkpoints of trained experts."""

from __future__ import annotations

from typing import Protocol, cast

from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.networks.sources import NetworkSource


class ExpertSegment(Protocol):
    r"""A piece of an expert's trajectory.

    ``start`` (P,) is :math:`\theta^*_t`, ``target`` (P,) :math:`\theta^*_{t+M}`, ``expert`` its number, ``epoch`` t.
    """

    @property
    def start(self) -> Tensor: ...
    @property
    def target(self) -> Tensor: ...
    @property
    def expert(self) -> int: ...
    @property
    def epoch(self) -> int: ...


class TrajectorySource(Protocol):
    """A network source with expert trajectories."""

    @property
    def count(self) -> int:
        """Number of experts."""

    @property
    def epochs(self) -> int:
        """Last epoch that every expert has."""

    def require_epochs(self, last: int) -> None:
        """Refuse experts that were trained for fewer than ``last`` epochs."""

    def segment(self, max_start: int, length: int) -> ExpertSegment:
        """Draw an expert and a start t below ``max_start``; the target is ``length`` epochs later."""

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Return the weights (P,) of one expert after one epoch (0: at initialisation)."""


def trajectories(networks: NetworkSource) -> TrajectorySource:
    """Return ``networks`` as a source of trajectories.

    Raises:
        ConfigError: it has none.
    """
    if not callable(getattr(networks, "segment", None)):
        raise ConfigError(
            f"trajectory matching follows trained experts, which {type(networks).__name__} does not have: "
            f"use networks=experts"
        )
    return cast(TrajectorySource, networks)
