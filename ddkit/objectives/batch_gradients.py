"""Gradients of several classes taken together, and how many of them memory allows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.networks.network import Network

#: The graph of a gradient that is differentiated again holds about this many copies of all layer outputs (2.8 to 3.5
#: measured for 100 images of 3x32x32 through a ConvNet-D3 of width 128).
_COPIES = 4
#: Such a graph should stay below this many bytes on a CPU ...
_CPU_BYTES = 2 * 2**30
#: ... and below this share of the memory of a GPU.
_GPU_SHARE = 0.5


def memory_class_chunk(network: Network, images_per_class: int, num_classes: int) -> int:
    """Return how many classes can be differentiated twice together without running out of memory.

    Unlike :func:`~ddkit.networks.class_gradients.default_class_chunk` it looks at memory, not at the cache, as a
    smaller chunk costs another pass here. What a decoder of the synthesizer keeps is not counted.
    """
    if network.device.type == "cuda":
        limit = _GPU_SHARE * torch.cuda.get_device_properties(network.device).total_memory
    else:
        limit = _CPU_BYTES
    return int(max(1, min(num_classes, limit // (4 * _COPIES * images_per_class * network.cost.activations))))


def summed_gradient(
    network: Network,
    images: Sequence[Tensor],
    targets: Sequence[Tensor],
    names: Sequence[str],
    *,
    differentiable: bool,
) -> list[Tensor]:
    r"""Return the sum over classes of the gradients of their mean cross-entropies, from one pass over all images.

    Equal to the sum of :func:`~ddkit.networks.class_gradients.class_gradients`, also for classes of unequal size,
    as every image counts one over the size of its class. Always eager and in the number format of the weights.

    Args:
        network: where; batch norm must be frozen.
        images: G tensors (n_g, C, H, W), one per class.
        targets: G tensors (n_g,) or (n_g, K).
        names: weights to differentiate.
        differentiable: whether the result can be differentiated with respect to images and targets.

    Returns:
        one tensor (1, \*weight shape) per name.
    """
    shares = [torch.full((len(x),), 1 / len(x), dtype=network.dtype, device=network.device) for x in images]
    weights = dict(network.module.named_parameters())
    logits = network.module(network.prepare(torch.cat(list(images))))
    losses = F.cross_entropy(logits, torch.cat(list(targets)), reduction="none")
    gradients = torch.autograd.grad(
        (losses * torch.cat(shares)).sum(), [weights[name] for name in names], create_graph=differentiable
    )
    return [gradient[None] for gradient in gradients]
