"""The base of every constraint: add gradients to those that the objective left on a synthesizer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ddkit.base.registry import Registry
from ddkit.synthesis.base import Synthesizer

if TYPE_CHECKING:
    from ddkit.objectives.base import Context

registry: Registry[type[Constraint]] = Registry("constraint", "ddkit.constraints")


class Constraint(ABC):
    """A term that any objective can be combined with, as it looks at the synthetic images only.

    The engine calls :meth:`setup` once, :meth:`backward` in every outer step after the objective's, and
    :meth:`after_step` once the synthetic data have been updated. Random numbers come from the context's streams.
    """

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Receive the context; refuse a synthesizer or network that makes no sense with the reason.

        Raises:
            ConfigError: the combination is refused.
        """
        self.context = context

    @abstractmethod
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Accumulate gradients on the synthesizer's parameters.

        Returns:
            scalars to log, under names that no objective uses.
        """

    def after_step(self, synthesizer: Synthesizer) -> None:
        """React to an update, for instance by training an auxiliary network."""

    def metadata(self) -> dict[str, Any]:
        """Return what the artifact's card says about this constraint beside its options, JSON-able."""
        return {}

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Forward passes of single images per outer step (a backward pass counts as two), for cost estimates."""
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what, besides streams, is needed to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
