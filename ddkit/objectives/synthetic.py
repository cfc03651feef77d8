"""The synthetic images that an outer step looks at, decoded and augmented in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddkit.augment.base import Augmentation, Draws
from ddkit.synthesis.base import Synthesizer


@dataclass(frozen=True)
class SyntheticBatch:
    """Decoded and augmented images of some classes, with a graph.

    Args:
        images: (N, C, H, W).
        targets: (N,) int64 or (N, K).
        group: (N,) int64, the class of every image, on the CPU.
        index: (N,) int64, which decoded images they are, on the synthesizer's device.
    """

    images: Tensor
    targets: Tensor
    group: Tensor
    index: Tensor


class SyntheticSide:
    """The synthetic images that one step looks at: drawn once for all classes, decoded and augmented in parts.

    Every call of :meth:`of` or :meth:`batch` for some classes returns the same images with a new graph, so that neither
    chunks nor a second pass over them change what is matched.

    Args:
        synthesizer: what is learned.
        augmentation: shared with the real side.
        draws: its parameters, one row per class.
        generator: stream from which a synthesizer draws the images it looks at.
    """

    def __init__(
        self, synthesizer: Synthesizer, augmentation: Augmentation, draws: Draws, generator: torch.Generator
    ) -> None:
        self.synthesizer, self.augmentation, self.draws = synthesizer, augmentation, draws
        self.classes = torch.arange(synthesizer.num_classes)
        index = synthesizer.batch_index(self.classes, generator).to(synthesizer.classes.device)
        group = synthesizer.classes[index].cpu()
        sizes = torch.bincount(group, minlength=len(self.classes)).tolist()
        self.index, self.group = index.split(sizes), group.split(sizes)

    def of(self, classes: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Return the images and targets of ``classes`` (G,), differentiable.

        Returns:
            G tensors (n_g, C, H, W) and G tensors (n_g,) or (n_g, K).
        """
        seen = self.batch(classes)
        sizes = [len(self.index[c]) for c in classes.tolist()]
        return seen.images.split(sizes), seen.targets.split(sizes)

    def batch(self, classes: Tensor) -> SyntheticBatch:
        """Return the same images and targets as one batch, class after class."""
        chosen = classes.tolist()
        index, group = (torch.cat([part[c] for c in chosen]) for part in (self.index, self.group))
        images, targets = self.synthesizer(index)
        return SyntheticBatch(self.augmentation.apply(images, self.draws, group), targets, group, index)
