"""How CutMix pastes a box of one image of a batch into another and mixes their targets."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.ranges import Share, in_range
from ddkit.errors import DataError


@in_range("cutmix")
def cutmix(
    images: Tensor, targets: Tensor, num_classes: int, probability: Share, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix a training batch by CutMix, Yun et al. 2019 (https://arxiv.org/abs/1905.04899), or leave it as it is.

    With ``probability`` one box for the whole batch is drawn: lambda ~ Beta(1, 1), sides sqrt(1 - lambda) of
    height and width, the centre uniform on the pixels, clipped to the image. Image i gets the box of image
    p(i), p a random permutation, and with k the share of pixels it keeps its loss becomes

        k l(f(x_i), y_i) + (1 - k) l(f(x_i), y_p(i)) = l(f(x_i), k y_i + (1 - k) y_p(i))

    The right side holds for cross-entropy, which is linear in its targets, so that returning mixed targets is
    exact; it does not hold for squared errors. The box reaches floor(side) // 2 pixels to either side of its
    centre, as in the authors' code. Four uniforms and one permutation are drawn whether or not the batch is mixed.

    Args:
        images: (N, C, H, W) floating; not changed.
        targets: (N,) int64 classes, or (N, K) probabilities.
        num_classes: K.
        probability: of mixing the batch, in [0, 1].
        generator: a CPU generator.

    Returns:
        The images (N, C, H, W), the same tensor when nothing was mixed, and their targets (N, K) floating:
        one-hot rows for classes when nothing was mixed.

    Raises:
        ConfigError: a probability out of range.
        DataError: images or targets of another shape or kind, or (checked on the CPU only, where that costs no
            synchronisation) a class outside 0..K-1.
    """
    if images.ndim != 4 or not images.is_floating_point():
        raise DataError(
            f"CutMix got {images.dtype} images of shape {tuple(images.shape)}: it needs floating (N, C, H, W)"
        )
    rows = _target_rows(targets, len(images), num_classes, torch.promote_types(images.dtype, torch.float32))
    chance, share, *centre = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
    partner = torch.randperm(len(images), generator=generator)
    if chance >= probability:
        return images, rows
    height, width = images.shape[-2:]
    side = math.sqrt(1 - share)
    down, across = _span(centre[0], side, height), _span(centre[1], side, width)
    partner = partner.to(images.device)
    mixed = images.clone()
    mixed[..., down, across] = images[..., down, across].index_select(0, partner)
    kept = 1 - (down.stop - down.start) * (across.stop - across.start) / (height * width)
    return mixed, kept * rows + (1 - kept) * rows.index_select(0, partner)


def _target_rows(targets: Tensor, count: int, num_classes: int, dtype: torch.dtype) -> Tensor:
    """Return targets as rows (N, K): soft ones as they are, classes as one-hot rows of ``dtype``."""
    soft = targets.is_floating_point()
    if targets.shape != ((count, num_classes) if soft else (count,)) or not (soft or targets.dtype == torch.int64):
        raise DataError(
            f"CutMix got {targets.dtype} targets of shape {tuple(targets.shape)} for {count} images: they must be "
            f"({count},) int64 classes or ({count}, {num_classes}) floating probabilities"
        )
    if soft:
        return targets
    if targets.device.type == "cpu" and count and not 0 <= int(targets.min()) <= int(targets.max()) < num_classes:
        raise DataError(
            f"CutMix got classes {int(targets.min())} to {int(targets.max())}: they must lie in 0..{num_classes - 1}"
        )
    return F.one_hot(targets, num_classes).to(dtype)


def _span(centre: float, side: float, size: int) -> slice:
    """Return the clipped pixels of a box of ``side`` around ``centre``, both shares of ``size`` in [0, 1]."""
    middle, half = int(centre * size), int(side * size) // 2
    return slice(max(0, middle - half), min(size, middle + half))
