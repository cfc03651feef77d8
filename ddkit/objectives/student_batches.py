"""The batches on which a student is unrolled: decoded once, augmented at every step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddkit.augment.base import Augmentation, Draws
from ddkit.networks.network import Network
from ddkit.objectives.unrolling.problem import Batch
from ddkit.synthesis.base import Synthesizer


class StudentBatches:
    """The images that one outer step needs as leaves of an unroll, and a callable per step that augments some of them.

    Args:
        synthesizer: what is learned.
        augmentation: of the student's batches.
        network: for which they are prepared.
        chunks: decoded indices of every step, on the CPU.
        draws: parameters of the augmentation for every step, one row per image.

    Attributes:
        index: (m,) int64, the decoded images that occur, on the synthesizer's device.
        images: (m, C, H, W), detached; collects a gradient.
        targets: (m,) or (m, K), detached; learned ones collect a gradient. It may be replaced before the unroll.
        batches: N callables, see :data:`ddkit.objectives.unrolling.Batch`.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        augmentation: Augmentation,
        network: Network,
        chunks: Sequence[Tensor],
        draws: Sequence[Draws],
    ) -> None:
        self.augmentation, self.network = augmentation, network
        index, rows = torch.unique(torch.cat(list(chunks)), return_inverse=True)
        self.index = index.to(synthesizer.classes.device)
        self._images, self._targets = synthesizer(self.index)
        self.images = self._images.detach().requires_grad_(self._images.requires_grad)
        self.targets = self._targets.detach().requires_grad_(self._targets.requires_grad)
        by_step = rows.split([len(chunk) for chunk in chunks])
        self.batches = [self._batch(*step) for step in zip(by_step, draws, strict=True)]

    def _batch(self, rows: Tensor, draws: Draws) -> Batch:
        group = torch.arange(len(rows))
        rows = rows.to(self.index.device)

        def batch() -> tuple[Tensor, Tensor]:
            images = self.network.prepare(self.augmentation.apply(self.images[rows], draws, group))
            targets = self.targets[rows].to(self.network.device)
            return images, targets.to(self.network.dtype) if targets.is_floating_point() else targets

        return batch

    def finish(self, synthesizer: Synthesizer) -> None:
        """Take the collected gradients through the decoder to the synthesizer's parameters."""
        pairs = ((self._images, self.images.grad), (self._targets, self.targets.grad))
        chosen = [(tensor, gradient) for tensor, gradient in pairs if gradient is not None]
        if chosen:
            torch.autograd.backward(
                [tensor for tensor, _ in chosen],
                [gradient for _, gradient in chosen],
                inputs=synthesizer.learnable(),
            )
