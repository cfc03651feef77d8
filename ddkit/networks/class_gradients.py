"""Gradients of the loss of each class with respect to the weights of one network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap

from ddkit.networks.network import Network
from ddkit.networks.training import padded

#: Activations of one layer for one chunk of classes should stay below this many bytes on a CPU (its cache) ...
_CPU_BYTES = 12 * 2**20
#: ... and below this many on an accelerator (memory of the second-order graph).
_GPU_BYTES = 2 * 2**30


def default_class_chunk(network: Network, images_per_class: int, num_classes: int) -> int:
    """Choose how many classes are differentiated together.

    Batching wins up to 2.6x where the activations fit the cache and loses up to 1.9x where they do not (measured on
    two CPU cores), so the chunk is the largest whose largest layer output fits. The rule looks at shapes only: a timed
    choice would make two runs of one seed differ in the last bit.
    """
    limit = _CPU_BYTES if network.device.type == "cpu" else _GPU_BYTES
    return max(1, min(num_classes, limit // max(1, 4 * images_per_class * network.cost.largest_activation)))


def class_gradients(
    network: Network,
    images: Sequence[Tensor],
    targets: Sequence[Tensor],
    names: Sequence[str],
    *,
    differentiable: bool,
    size: int | None = None,
    weights: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    r"""Return the gradients of the mean cross-entropy of every class.

    One class goes through plain autograd (and through the compiled loss where no second derivative is needed); several
    go through ``vmap(grad)`` in one pass, classes of unequal size padded with rows of weight zero.

    Args:
        network: where; batch norm must be frozen (see :func:`freeze_batch_norm`).
        images: G tensors (n_g, C, H, W), one per class.
        targets: G tensors (n_g,) or (n_g, K).
        names: weights to differentiate.
        differentiable: whether the result can be differentiated with respect to the images.
        size: pad a single class that needs no second derivative to that many rows of weight zero, so that one shape is
            compiled for classes of unequal size.
        weights: G tensors (n_g,) of mean 1 for weighted means, where no second derivative is needed; None for ones.

    Returns:
        one tensor (G, \*weight shape) per name.
    """
    if len(images) > 1:
        return _stacked(network, images, targets, names, differentiable, weights)
    parameters = dict(network.module.named_parameters())
    chosen = [parameters[name] for name in names]
    if differentiable:
        logits = network.module(network.prepare(images[0]))
        loss = F.cross_entropy(logits, targets[0])
        result = torch.autograd.grad(loss, chosen, create_graph=True)
    else:
        (rows,), count = _shares(network, images, weights), len(images[0])
        batch = [padded(x, max(size or 0, count)) for x in (images[0].detach(), targets[0], rows)]
        result = torch.autograd.grad(network.loss(*batch), chosen)
    return [g[None] for g in result]


def _shares(network: Network, images: Sequence[Tensor], weights: Sequence[Tensor] | None) -> list[Tensor]:
    """Return what each image counts in the mean of its class."""
    even = [torch.full((len(x),), 1 / len(x), dtype=network.dtype, device=network.device) for x in images]
    return even if weights is None else [share * w.to(share) for share, w in zip(even, weights, strict=True)]


def _stacked(
    network: Network,
    images: Sequence[Tensor],
    targets: Sequence[Tensor],
    names: Sequence[str],
    differentiable: bool,
    weights: Sequence[Tensor] | None,
) -> list[Tensor]:
    size = max(len(x) for x in images)
    weight = torch.stack([padded(row, size) for row in _shares(network, images, weights)])
    batch = torch.stack([padded(network.prepare(x), size) for x in images])
    target = torch.stack([padded(t, size) for t in targets])
    fixed = {k: v.detach() for k, v in network.module.named_parameters() if k not in set(names)}
    fixed |= dict(network.module.named_buffers())
    moving = {k: v.detach() for k, v in network.module.named_parameters() if k in set(names)}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        logits = functional_call(network.module, {**fixed, **parameters}, (x,))
        return (F.cross_entropy(logits, y, reduction="none") * w).sum()

    with torch.set_grad_enabled(differentiable):
        result = vmap(grad(loss), in_dims=(None, 0, 0, 0))(moving, batch, target, weight)
    return [result[name] for name in names]


def freeze_batch_norm(network: Network) -> None:
    """Put batch norm layers (only them) into eval mode, so that two gradients use the same statistics."""
    for module in network.module.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
