"""Gradients of several classes taken together, and the synthetic images of a step, decoded in parts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.augment import Augmentation, Draws
from ddkit.networks import Network
from ddkit.synthesis import Synthesizer

#: The graph of a gradient that is differentiated again holds about this many copies of all layer outputs (2.8 to 3.5
#: measured for 100 images of 3x32x32 through a ConvNet-D3 of width 128).
_COPIES = 4
#: Such a graph should stay below this many bytes on a CPU ...
_CPU_BYTES = 2 * 2**30
#: ... and below this share of the memory of a GPU.
_GPU_SHARE = 0.5


def memory_class_chunk(network: Network, images_per_class: int, num_classes: int) -> int:
    """Return how many classes can be differentiated twice together without running out of memory.

    Unlike :func:`~ddkit.objectives.class_gradients.default_class_chunk` it looks at memory, not at the cache, as a
    smaller chunk costs another pass here. What a decoder of the synthesizer keeps is not counted.
    """
    if network.device.type == "cuda":
        limit = _GPU_SHARE * torch.cuda.get_device_properties(network.device).total_memory
    else:
        limit = _CPU_BYTES
    return int(max(1, min(num_classes, limit // (4 * _COPIES * images_per_class * network.cost.activations))))


class SyntheticSide:
    """The synthetic images that one step looks at: drawn once for all classes, decoded and augmented in parts.

    Every call of :meth:`of` for some classes returns the same images with a new graph, so that neither chunks nor a
    second pass over them change what is matched.

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
        chosen = classes.tolist()
        sizes = [len(self.index[c]) for c in chosen]
        images, targets = self.synthesizer(torch.cat([self.index[c] for c in chosen]))
        images = self.augmentation.apply(images, self.draws, torch.cat([self.group[c] for c in chosen]))
        return images.split(sizes), targets.split(sizes)


def summed_gradient(
    network: Network,
    images: Sequence[Tensor],
    targets: Sequence[Tensor],
    names: Sequence[str],
    *,
    differentiable: bool,
) -> list[Tensor]:
    r"""Return the sum over classes of the gradients of their mean cross-entropies, from one pass over all images.

    Equal to the sum of :func:`~ddkit.objectives.class_gradients.class_gradients`, also for classes of unequal size,
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
