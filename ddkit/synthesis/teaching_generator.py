"""A generator that makes the training images: its weights and a curriculum of noise are learned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.ranges import Count
from ddkit.data.distilled.limits import MOST_NUMBERS
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.synthesis.base import ANY_SCALE, StoredImages, registry
from ddkit.synthesis.labels import LabelKind
from ddkit.synthesis.teaching_layers import ConditionalGenerator

#: Shortest side of an image that two up-samplings reach.
SMALLEST_SIDE = 4


@registry.register("generator")
class TeachingGenerator(StoredImages):
    r"""Images from a conditional generator (GTN; Such et al. 2020, ICML, arXiv 1912.07768; survey Eq. 35 and text).

    .. math:: s_{t,i} = G_\phi(z_{t,i}, y_{t,i})

    The weights :math:`\phi` and every noise vector :math:`z` (the curriculum) are learned. The generator normalises
    each batch by its own statistics, so an image depends on the others of its generator batch. These batches are
    therefore fixed: batch t holds the images ``t * per_batch`` to ``(t + 1) * per_batch - 1`` of every class, and is
    always generated as a whole, whichever of its images are asked for. An objective whose inner steps take consecutive
    runs of ``per_batch`` images of every class trains on exactly these batches, in the order of the curriculum.

    GTN saves training steps, not storage: generator and noise may be larger than the images. The result stores and
    counts the images; the generator alone would not reproduce them batch by batch at less cost.

    Args:
        num_classes: K.
        ipc: images per class, in all batches together.
        shape: (C, H, W), sides of at least 4 pixels.
        per_batch: images of each class in a generator batch; None for all. It divides ``ipc``.
        noise: numbers in a noise vector.
        hidden: features of the generator's first layer.
        channels: channels of its first maps.
        labels: as for pixels; the generator always sees the class itself.
        label_confidence: initial probability of the own class of soft, learned and projected labels.

    Raises:
        ConfigError: an option out of range, images below 4 pixels, or batches that do not divide the images.
    """

    name = "generator"
    inits = ("noise",)

    #: The rate of the published objective, and ddkit's choice for all others.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "risk": {"name": "adam", "lr": 0.02},
        ANY_SCALE: {"name": "adam", "lr": 0.002},
    }

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        per_batch: Count | None = None,
        noise: Count = 128,
        hidden: Count = 1024,
        channels: Count = 128,
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
    ) -> None:
        if min(shape[1:]) < SMALLEST_SIDE:
            raise ConfigError(
                f"a generator cannot make images of {shape[1]}x{shape[2]}: sides must be at least {SMALLEST_SIDE} "
                f"pixels; use synthesis=pixels"
            )
        super().__init__(num_classes, ipc, shape, labels, label_confidence)
        self.per_batch = ipc if per_batch is None else per_batch
        if ipc % self.per_batch:
            raise ConfigError(f"synthesis.per_batch={per_batch} does not divide ipc={ipc}: choose a divisor, or none")
        if len(self) * math.prod(shape) > MOST_NUMBERS:
            raise ConfigError(f"the images hold more than {MOST_NUMBERS:,} numbers: lower ipc")
        self.batches = ipc // self.per_batch
        self.noise = nn.Parameter(torch.zeros(len(self), noise))
        self.generator = ConditionalGenerator(noise + num_classes, shape, hidden, channels)

    def group_of(self, parameter: str) -> str:
        """Return ``noise`` for the curriculum, ``images`` for the generator, or ``labels``."""
        return "noise" if parameter == "noise" else super().group_of(parameter)

    def batch_index(self, classes: Tensor, generator: torch.Generator) -> Tensor:
        """Return the images of ``classes`` (G,) in one random generator batch."""
        if self.batches == 1:
            return self.index_of(classes)
        batch = int(torch.randint(self.batches, (1,), generator=generator))
        inside = torch.arange(batch * self.per_batch, (batch + 1) * self.per_batch, device=classes.device)
        return (classes[:, None] * self.ipc + inside).flatten()

    @property
    def batch_per_class(self) -> int:
        """Images of a class in one generator batch."""
        return self.per_batch

    @property
    def pairing_inits(self) -> tuple[str, ...]:
        """No image starts from a real one."""
        return ()

    def inner_batches(self, steps: int, size: int | None, generator: torch.Generator) -> list[Tensor]:
        """Return whole generator batches in a random order, drawn anew whenever all were used; see the base for sizes.

        With a ``size`` the images are shuffled across batches as everywhere, which decodes most batches.
        """
        if size is not None:
            return super().inner_batches(steps, size, generator)
        starts = torch.arange(self.num_classes)[:, None] * self.ipc
        inside = torch.arange(self.per_batch)
        order: list[int] = []
        while len(order) < steps:
            order += torch.randperm(self.batches, generator=generator).tolist()
        return [(starts + batch * self.per_batch + inside).flatten() for batch in order[:steps]]

    def decode(self, index: Tensor) -> Tensor:
        """Return the images at ``index`` (M,), generating the batches that occur in it as wholes and in one pass."""
        place = index % self.ipc
        batches, row = torch.unique(place // self.per_batch, return_inverse=True)
        classes = torch.arange(self.num_classes, device=index.device)
        inside = torch.arange(self.per_batch, device=index.device)
        members = classes[:, None] * self.ipc + inside + (batches * self.per_batch)[:, None, None]
        wanted = members.flatten()
        conditions = F.one_hot(self.classes[wanted], self.num_classes).to(self.noise)
        images: Tensor = self.generator(torch.cat([self.noise[wanted], conditions], 1), len(batches))
        position = index.div(self.ipc, rounding_mode="floor") * self.per_batch + place % self.per_batch
        return images[row * members[0].numel() + position]

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Draw N(0, 1) noise and Kaiming-normal weights."""
        self.check(real, how)
        with torch.no_grad():
            self.noise.copy_(torch.randn(self.noise.shape, generator=generator))
        self.generator.draw(generator)

    def stored(self) -> dict[str, Tensor]:
        """Return the generated ``images`` (K * ipc, C, H, W) and ``labels``."""
        with torch.no_grad():
            images = self.decode(torch.arange(len(self), device=self.classes.device))
        return {"images": images, "labels": self.stored_labels()}
