"""Train a matching network for some epochs on data that is already on its device."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.augment.base import Augmentation
from ddkit.augment.cutmix import cutmix
from ddkit.errors import DivergedError
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
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    cutmix: float = 0.0,
    velocity: list[Tensor] | None = None,
) -> None:
    """Run SGD as ``torch.optim.SGD`` does on shuffled batches, changing ``network`` in place.

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
        generator: stream of permutations, augmentations and mixtures.
        momentum: factor of the velocity per step, without dampening.
        weight_decay: L2 penalty, added to the gradient.
        cutmix: probability with which a batch, once augmented, is mixed by CutMix.
        velocity: one tensor per weight, in the order of ``network.module.parameters()``, updated in place so that
            momentum goes on in the next call; None to start from zero and forget.
    """
    count = len(images)
    size = min(batch_size, count)
    network.module.requires_grad_(True)
    parameters: list[Tensor] = list(network.module.parameters())
    if velocity is None:
        velocity = still(network) if momentum else []
    images = network.prepare(images)
    targets = targets.to(network.device)
    network.module.train()
    for _ in range(epochs):
        order = torch.randperm(count, generator=generator).to(network.device)
        for index in order.split(size):
            rows = len(index)
            weights = torch.full((rows,), 1.0 / rows, device=network.device, dtype=network.dtype)
            if not network.has_batch_norm:
                index, weights = padded(index, size), padded(weights, size)
            batch, labels = augmentation.train(images[index], generator), targets[index]
            if cutmix:
                batch, labels = _mixed(network, batch[:rows], labels[:rows], cutmix, len(index), generator)
            gradients = torch.autograd.grad(network.loss(batch, labels, weights), parameters)
            _sgd_step(parameters, gradients, velocity, lr, momentum, weight_decay)


def _mixed(
    network: Network, images: Tensor, targets: Tensor, probability: float, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix a batch and pad it to ``size`` rows afterwards, so that no padding is pasted into an image."""
    images, targets = cutmix(images, targets, network.num_classes, probability, generator)
    return padded(images, size), padded(targets.to(network.dtype), size)


@torch.no_grad()
def _sgd_step(
    parameters: list[Tensor],
    gradients: tuple[Tensor, ...],
    velocity: list[Tensor],
    lr: float,
    momentum: float,
    weight_decay: float,
) -> None:
    if weight_decay:
        gradients = torch._foreach_add(gradients, parameters, alpha=weight_decay)
    if momentum:
        torch._foreach_mul_(velocity, momentum)
        torch._foreach_add_(velocity, gradients)
        gradients = tuple(velocity)
    torch._foreach_add_(parameters, gradients, alpha=-lr)


def still(network: Network) -> list[Tensor]:
    """Return the velocity of a network whose training has not begun: a tensor of zeros per weight."""
    return [torch.zeros_like(weight, requires_grad=False) for weight in network.module.parameters()]


def padded(x: Tensor, size: int) -> Tensor:
    """Append zeros to ``x`` (n, ...) until it has ``size`` rows."""
    if len(x) == size:
        return x
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])


def require_finite(network: Network, data: str, remedy: str) -> None:
    """Refuse to go on with a network that training has ruined.

    Args:
        network: the network.
        data: what it was trained on, for the message.
        remedy: which option to change, for the message.

    Raises:
        DivergedError: a weight is not finite any more.
    """
    if not all(bool(weights.isfinite().all()) for weights in network.module.parameters()):
        raise DivergedError(
            f"the matching network diverged while it was trained on {data}: {remedy} and start again; checkpoints "
            f"from before this step are kept"
        )
