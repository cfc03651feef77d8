"""How does a replay memory of real images look that a distilled one can be compared with?"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from ddkit.base.streams import Streams
from ddkit.data.coresets.features import network_features
from ddkit.data.coresets.herding import herding_indices
from ddkit.errors import unknown_name
from ddkit.integrations.continual.memory import MEMORY_OPTIONS, ClassMemory
from ddkit.integrations.continual.model import CurrentModel, model_of
from ddkit.integrations.continual.parts import Made, Material, Part, real_parts, truncated

Selection = Literal["random", "herding"]


class CoresetReplayBuffer(ClassMemory):
    """A storage policy that keeps real images of each class under the same rules and bytes as a distilled one.

    ``random`` draws uniformly; ``herding`` follows the class mean in the features of the strategy's model as it is
    after the experience (iCaRL, Rebuffi et al. 2017). Both choose in an order, so that a smaller share keeps the first
    ones; a class that was small enough to be kept whole stays in the order of the stream. Unlike Avalanche's own
    buffers, which index into the stream's datasets, it owns what it keeps.

    Args:
        max_size: see :class:`ClassMemory`, as all arguments that are not named here.
        selection: ``random`` or ``herding``.
        options: see :class:`ClassMemory`.

    Raises:
        UnknownNameError: another selection.
        ConfigError: an unknown option, or a size too small for the classes.
    """

    def __init__(self, max_size: int | None = None, *, selection: Selection = "random", **options: Any) -> None:
        if selection not in ("random", "herding"):
            raise unknown_name("selection", selection, ("random", "herding"))
        for key in options:
            if key not in MEMORY_OPTIONS:
                raise unknown_name("option", key, ("max_size", "selection", *MEMORY_OPTIONS))
        super().__init__(max_size, **options)
        self.selection = selection

    @property
    def method_name(self) -> str:
        """The selection."""
        return self.selection

    def settings(self) -> dict[str, Any]:
        """Return what decides about the content, JSON-able."""
        return {**super().settings(), "selection": self.selection}

    def condense(self, material: Material, quota: int, agent: Any) -> list[Made]:
        """Select ``quota`` images of each class; those of a class seen again compete with the ones kept before."""
        if self.selection == "herding":
            index = self._herded(material, quota, model_of(agent))
        else:
            index = _draw(material, quota, Streams(self.seed_of(material.classes, material.task))("selection"))
        return [Made(part, "selected") for part in real_parts(material, index)]

    def _herded(self, material: Material, quota: int, model: nn.Module) -> torch.Tensor:
        assert self._form is not None
        real = material.real(weighted=False, preprocessing=self._form.pixels)
        current = CurrentModel(model, task=material.task, vectors=self._form.vectors)
        features = network_features(real, current)[: len(material.labels)]
        index = [(material.labels == place).nonzero().squeeze(1) for place in range(len(material.classes))]
        return herding_indices(features, index, quota)

    def shrink_parts(self, parts: list[Part], quota: int, agent: Any) -> list[Made]:
        """Keep the images that were chosen first."""
        return [Made(truncated(part, quota), "selected") for part in parts]


def _draw(material: Material, quota: int, generator: torch.Generator) -> torch.Tensor:
    """Draw without replacement, an image that stands for several with their weight."""
    drawn = []
    for place in range(len(material.classes)):
        index = (material.labels == place).nonzero().squeeze(1)
        chosen = torch.multinomial(material.copies[index].double(), quota, generator=generator)
        drawn.append(index[chosen])
    return torch.cat(drawn)
