"""The base of everything that is matched: leave gradients on a synthesizer's parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ddkit.augment.base import Draws
from ddkit.base.registry import Registry
from ddkit.errors import ConfigError
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource
from ddkit.synthesis.base import Synthesizer
from ddkit.synthesis.labels import AssignedLabels

registry: Registry[type[Objective]] = Registry("objective", "ddkit.objectives")


@dataclass
class Context(Setting):
    """What an objective works with: a setting and the source of its networks.

    Args:
        networks: source of matching networks.
    """

    networks: NetworkSource = field(kw_only=True)


def accumulate(loss: Tensor, synthesizer: Synthesizer) -> float:
    """Add the gradient of ``loss`` to what ``synthesizer`` learns, and to nothing else; return the loss as a number.

    Args:
        loss: a scalar with a graph that reaches the synthetic images; of a part of them, for all parts in turn.
        synthesizer: whose images the loss looks at.
    """
    torch.autograd.backward(loss, inputs=synthesizer.learnable())
    return float(loss.detach())


class Objective(ABC):
    """A matching objective.

    It is ``backward`` and not ``loss`` because constant-memory forms accumulate gradients themselves. An objective
    draws its random numbers from the context's streams and reaches real data through the context's signal only.
    """

    #: Real images per class and query, unless an option says otherwise.
    real_batch: int = 256
    #: Most real images per class and step, once they are known: all of the largest class, or what is left to compute.
    most_real: float = float("inf")
    #: Network source without which this objective cannot work; None where any will do.
    needs_networks: ClassVar[str | None] = None
    #: Whether every class needs synthetic images, as it is compared with real images of its own.
    every_class: ClassVar[bool] = True
    #: Whether it looks through finite networks; a kernel of infinite width has none.
    needs_finite_networks: ClassVar[bool] = True
    #: Whether it gives labels that are ``assigned`` to synthetic images.
    assigns_labels: ClassVar[bool] = False
    #: The loss in which free rows of labels are learned, and in which networks are trained on them.
    row_loss: ClassVar[Literal["ce", "mse"]] = "ce"
    #: Learning rates of its own that may be to blame where a run diverges, for the message.
    rates: str = ""
    #: The scale of its gradients, by which a synthesis chooses its learning rates; None where the user has to choose.
    gradient_scale: ClassVar[str | None] = None
    #: Whether images of one class alone can be learned from, as no class is told from others.
    one_class: ClassVar[bool] = False
    #: Optimiser settings of what this objective learns beside the synthetic data, by group.
    group_defaults: ClassVar[dict[str, dict[str, Any]]] = {}

    def setup(self, context: Context, synthesizer: Synthesizer) -> None:
        """Receive the context; refuse a synthesizer or network that makes no sense with the reason.

        Raises:
            ConfigError: the combination is refused.
        """
        if self.every_class and len(synthesizer.present) < synthesizer.num_classes:
            missing = min(set(range(synthesizer.num_classes)).difference(synthesizer.present))
            raise ConfigError(
                f"class {missing} has no synthetic images, and {type(self).__name__} compares every class: leave "
                f"synthesis.classes out, or use an objective that judges a trained student (meta, ridge, kernel)"
            )
        if self.needs_finite_networks and not context.networks.at_once:
            raise ConfigError(
                f"networks={type(context.networks).__name__} is a kernel without networks, and {type(self).__name__} "
                f"looks through some: use objective=kernel, or networks=fresh"
            )
        if isinstance(synthesizer.labels, AssignedLabels) and not self.assigns_labels:
            raise ConfigError(
                f"synthesis.labels=assigned with {type(self).__name__}: nothing would assign them; use others, or "
                f"trajectory matching with objective.soft_labels"
            )
        self.context = context

    @abstractmethod
    def backward(self, synthesizer: Synthesizer) -> dict[str, float]:
        """Accumulate gradients on the synthesizer's parameters.

        Returns:
            scalars to log, ``loss`` among them.
        """

    def draws(self, classes: Tensor) -> Draws:
        """Return the augmentations that both sides of this step share, a row per class of ``classes``."""
        context = self.context
        fixed = context.signal.draws(classes)
        if fixed is not None:
            return fixed
        return context.augmentation.draw(len(classes), context.streams("augmentation"))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return tensors that this objective learns beside the synthetic data (an inner learning rate), by group.

        The engine updates them like the synthesizer's; ``state_dict`` has to hold their values.
        """
        return {}

    def after_step(self, synthesizer: Synthesizer) -> None:
        """React to an update: keep a learned value in its range, train an auxiliary network."""

    def finishing(self, synthesizer: Synthesizer) -> AbstractContextManager[Any]:
        """Return a context in which the synthesizer holds what only a result has, such as labels of its last images.

        The engine materialises inside it; the run can go on afterwards as if nothing had been asked.
        """
        return nullcontext()

    def recipe_changes(self) -> dict[str, Any]:
        """Return fields of the training recipe that were learned and travel with the artifact."""
        return {}

    def metadata(self) -> dict[str, Any]:
        """Return further entries of the artifact's card (``learned`` values, for instance), JSON-able."""
        return {}

    @property
    def real_shown(self) -> float:
        """Real images per class and step: ``real_batch``, or all that there are."""
        return min(self.real_batch, self.most_real)

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Forward passes of single images per outer step (a backward pass counts as two), for cost estimates."""
        return 3.0 * self.real_shown * synthesizer.num_classes + 3.0 * len(synthesizer)

    def state_dict(self) -> dict[str, Any]:
        """Return what, besides networks and streams, is needed to go on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
