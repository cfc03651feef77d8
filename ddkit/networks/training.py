"""Train a matching network for some epochs on data that is already on its device."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.augment import Augmentation
from ddkit.networks.network import Network


def train_epochs(
    network: Network,
    images: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> None:
    """Run plain SGD (no momentum, no weight decay) on shuffled batches, changing ``network`` in place.

    The last partial batch is padded with rows of weight zero, which is exact without batch norm and keeps every shape
    static for the compiler; with batch norm the partial batch is used as it is.

    Args:
        network: the network to train.
        images: (N, C, H, W) preprocessed, detached.
        targets: (N,) int64 or (N, K) probabilities.
        epochs: passes over the images.
        lr: learning rate.
        batch_size: images per step; N when N is smaller.
        augmentation: applied in its unshared form to every batch.
        generator: stream of permutations and augmentations.
    """
    count = len(images)
    size = min(batch_size, count)
    network.module.requires_grad_(True)
    parameters: list[Tensor] = list(network.module.parameters())
    images = network.prepare(images)
    targets = targets.to(network.device)
    network.module.train()
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator).to(network.device)
        for index in order.split(size):
            weights = torch.full((len(index),), 1.0 / len(index), device=network.device, dtype=network.dtype)
            if not network.has_batch_norm:
                index, weights = padded(index, size), padded(weights, size)
            batch = augmentation.train(images[index], generator)
            gradients = torch.autograd.grad(network.loss(batch, targets[index], weights), parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-lr)


def padded(x: Tensor, size: int) -> Tensor:
    """Append zeros to ``x`` (n, ...) until it has ``size`` rows."""
    if len(x) == size:
        return x
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
