"""How good and how flat is a network on real training images?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ddkit.models.base import weights_by_name
from ddkit.training.accuracy import right_and_loss

#: Length of a random perturbation as a share of the length of all weights, and how many are drawn.
PERTURBATION, PERTURBATIONS = 0.05, 10
_CHUNK = 256


@dataclass(frozen=True)
class Sample:
    """Training images, not augmented, on which weights of one architecture are measured.

    Args:
        module: a network of the architecture; its own weights are not used.
        images: (N, C, H, W) preprocessed.
        labels: (N,) int64.
    """

    module: nn.Module
    images: Tensor
    labels: Tensor

    @torch.no_grad()
    def loss_and_accuracy(self, weights: Tensor) -> tuple[float, float]:
        """Return mean cross-entropy and accuracy of the network with ``weights`` (P,)."""
        state = weights_by_name(self.module, weights)
        sums = torch.zeros(2, dtype=torch.float64, device=weights.device)
        for images, labels in zip(self.images.split(_CHUNK), self.labels.split(_CHUNK), strict=True):
            sums += right_and_loss(torch.func.functional_call(self.module, state, (images,)), labels)
        correct, loss = (sums / len(self.labels)).tolist()
        return loss, correct

    def flatness(self, weights: Tensor, generator: torch.Generator) -> float:
        """Return the mean increase of the loss under random perturbations of 5 % of the length of ``weights`` (P,)."""
        loss, _ = self.loss_and_accuracy(weights)
        raised = 0.0
        for _ in range(PERTURBATIONS):
            noise = torch.randn(weights.shape, generator=generator, dtype=weights.dtype).to(weights.device)
            noise *= PERTURBATION * weights.norm() / noise.norm()
            raised += self.loss_and_accuracy(weights + noise)[0]
        return raised / PERTURBATIONS - loss
