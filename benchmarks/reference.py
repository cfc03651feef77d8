"""The matching losses written plainly: a loop over classes, eager, float32, plain autograd.

The yardstick of ``bench_steps.py`` and an oracle of the tests. They follow the shape of the usual research code: one
class at a time, a sampled real batch, one Siamese augmentation per class, one backward pass over the sum of classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.augment import Augmentation, Draws
from ddkit.objectives import gradient_distance
from ddkit.objectives.distances import Metric, uses_vectors_only


def looped_distribution_loss(
    model: nn.Module,
    real: Sequence[Tensor],
    synthetic: Sequence[Tensor],
    augmentation: Augmentation | None = None,
    draws: Draws | None = None,
) -> Tensor:
    """Return the distribution matching loss, class by class.

    Args:
        model: a network with ``features``; its weights require no gradient.
        real: K tensors (n_c, C, H, W).
        synthetic: K tensors (ipc, C, H, W).
        augmentation: shared by both sides of a class; None for none.
        draws: its parameters, one row per class.
    """
    losses = []
    for _, real_images, synthetic_images in _augmented_classes(real, synthetic, augmentation, draws):
        real_features = model.features(real_images).detach()  # type: ignore[operator]
        synthetic_features = model.features(synthetic_images)  # type: ignore[operator]
        losses.append((real_features.mean(0) - synthetic_features.mean(0)).square().sum())
    return torch.stack(losses).sum()


def looped_gradient_loss(
    model: nn.Module,
    real: Sequence[Tensor],
    synthetic: Sequence[Tensor],
    augmentation: Augmentation | None = None,
    draws: Draws | None = None,
    metric: Metric = "ours",
) -> Tensor:
    """Return the gradient matching loss, class by class; arguments as above, the weights do require gradients."""
    weights = [p for p in model.parameters() if p.dim() >= 2 or not uses_vectors_only(metric)]
    losses = []
    for label, real_images, synthetic_images in _augmented_classes(real, synthetic, augmentation, draws):
        real_loss = F.cross_entropy(model(real_images), torch.full((len(real_images),), label))
        real_gradients = [g[None] for g in torch.autograd.grad(real_loss, weights)]
        loss = F.cross_entropy(model(synthetic_images), torch.full((len(synthetic_images),), label))
        gradients = [g[None] for g in torch.autograd.grad(loss, weights, create_graph=True)]
        losses.append(gradient_distance(gradients, real_gradients, metric).sum())
    return torch.stack(losses).sum()


def _augmented_classes(
    real: Sequence[Tensor], synthetic: Sequence[Tensor], augmentation: Augmentation | None, draws: Draws | None
) -> Iterator[tuple[int, Tensor, Tensor]]:
    for label, (real_images, synthetic_images) in enumerate(zip(real, synthetic, strict=True)):
        if augmentation is not None and draws is not None:
            row = draws.select([label])
            real_images = augmentation.apply(real_images, row, _zeros(real_images))
            synthetic_images = augmentation.apply(synthetic_images, row, _zeros(synthetic_images))
        yield label, real_images, synthetic_images


def _zeros(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.int64)
