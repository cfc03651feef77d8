"""Mapped pixels: learned images behind a learned linear map of all pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.synthesis.base import registry
from ddkit.synthesis.labels import LabelKind
from ddkit.synthesis.pixels import Pixels

#: Largest number D of values of an image: the map, its gradient and two moments take 4 D^2 numbers, 268 MB there.
LARGEST = 4096


@registry.register("mapped-pixels")
class MappedPixels(Pixels):
    r"""Pixels times one D x D matrix shared by all images, both learned; the products are stored.

    .. math:: s_i = x_i P, \qquad x_i \in R^D, \; D = C H W, \quad P = I \text{ at the start}

    The map of the program of RFAD (Loo et al. 2022, arXiv 2210.12067), where it is always on: a learned preconditioner,
    as a step on P moves all images along each other. Nothing of it is left in the result, whose budget is that of plain
    pixels. On 8x8 digits it gained nothing (91.7 % against 95.6 % without, 225 steps, one seed).

    Args:
        num_classes: K.
        ipc: images per class.
        shape: (C, H, W) with at most 4096 values.
        labels: as of :class:`~ddkit.synthesis.Pixels`, like the others.
        label_confidence: initial probability of the own class of soft, learned and projected labels.
        label_scale: factor of the start of free and centred labels.
        classes: those that have images, ascending; None for all.

    Raises:
        ConfigError: images that are too large for the map.
    """

    name = "mapped-pixels"

    #: Those of pixels and, for the map, a small rate, as published: all images and all of their values share it.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{
            scale: {**settings, "groups": {"map": {"name": "adam", "lr": 5e-5}}}
            for scale, settings in Pixels.optimisers.items()
        },
        "regression": {"name": "adabelief", "lr": 1e-3, "groups": {"map": {"name": "adabelief", "lr": 5e-5}}},
    }

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
        label_scale: float = 1.0,
        classes: list[int] | None = None,
    ) -> None:
        size = math.prod(shape)
        if size > LARGEST:
            raise ConfigError(
                f"mapped-pixels would learn a {size} x {size} matrix for images of {'x'.join(map(str, shape))} "
                f"({4 * 4 * size**2 / 1e9:.1f} GB with gradient and moments): use synthesis=pixels above {LARGEST} "
                f"values per image"
            )
        super().__init__(num_classes, ipc, shape, labels, label_confidence, label_scale, classes)
        self.map = nn.Parameter(torch.eye(size))

    def group_of(self, parameter: str) -> str:
        """Return ``map``, ``labels`` or ``images``."""
        return "map" if parameter == "map" else super().group_of(parameter)

    def decode(self, index: Tensor) -> Tensor:
        """Return the mapped images at ``index``."""
        return (super().decode(index).flatten(1) @ self.map).unflatten(1, self.shape)

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Set the pixels as plain ones, and the map to the identity."""
        super().initialise(real, how, generator)
        with torch.no_grad():
            self.map.copy_(torch.eye(len(self.map)))

    def stored(self) -> dict[str, Tensor]:
        """Return ``images``, which are mapped, and ``labels``."""
        with torch.no_grad():
            mapped = self.decode(torch.arange(len(self), device=self.images.device))
        return {**super().stored(), "images": mapped}
