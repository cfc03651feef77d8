"""Images of fewer pixels, enlarged again when they are decoded: to the same bits on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from ddkit.errors import ConfigError

Resolution = Literal[1, 2, 4]

#: Decoded values are whole multiples of this: sums that round otherwise on another machine give the same bits.
GRID = 2.0**-10


def smaller(shape: Sequence[int], resolution: int) -> tuple[int, ...]:
    """Return the shape of images (N, C, H, W) whose sides are divided by ``resolution``."""
    return (*shape[:2], *(-(-side // resolution) for side in shape[2:]))


def shrunk(values: Tensor, resolution: int) -> Tensor:
    """Return images with fewer pixels, each the mean of those that it stands for."""
    return values if resolution == 1 else F.interpolate(values, size=smaller(values.shape, resolution)[2:], mode="area")


def enlarged(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Return float64 images bilinearly enlarged to ``shape``, in float32 on the grid."""
    if values.shape[2:] != tuple(shape[2:]):
        values = F.interpolate(values, size=tuple(shape[2:]), mode="bilinear", align_corners=False)
    return ((values / GRID).round() * GRID).float()


def require_images(shape: Sequence[int], resolution: int, codec: str) -> None:
    """Refuse what has no two sides of at least ``resolution`` pixels.

    Raises:
        ConfigError: naming the shape.
    """
    if len(shape) != 4 or min(shape[2:]) < resolution:
        raise ConfigError(
            f"codec {codec} at 1/{resolution} of the resolution is for images, not for a tensor of {tuple(shape)}: use "
            f"uniform"
        )
