"""Images as one JPEG or lossy WebP picture: what a control costs where tables and headers are shared by all images.

Such pictures are never part of an artifact, as decoders of different libraries give different pixels.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddkit.codecs.sheets import images_of, sheet_of, sheet_size

#: Longest side of a picture, by kind.
SIDES = {"jpeg": 65500, "webp": 16383}


def suits(kind: str, shape: tuple[int, ...]) -> bool:
    """Say whether images ``shape`` (N, C, H, W) fit one picture."""
    return shape[1] in (1, 3) and max(sheet_size(shape)) <= SIDES[kind]


def encode(images: Tensor, kind: str, quality: int) -> bytes:
    """Return uint8 images (N, C, H, W) of one or three channels as the smallest picture of a quality.

    JPEG is tried with colours at full and at half resolution, in one pass and progressively.

    Args:
        images: which :func:`suits`.
        kind: ``jpeg`` or ``webp``.
        quality: 1 to 100.
    """
    from PIL import Image

    channels, last = images.shape[1], images[-1].permute(1, 2, 0).numpy()  # which costs less than a black tile
    picture = Image.fromarray(sheet_of(images.numpy(), last).squeeze())
    if kind == "webp":
        return _written(picture.convert("RGB"), "WEBP", quality=quality, method=6)
    colours = (0, 2) if channels == 3 else (0,)
    ways = ({"subsampling": colour, "progressive": parts} for colour in colours for parts in (False, True))
    return min((_written(picture, "JPEG", quality=quality, optimize=True, **way) for way in ways), key=len)


def decode(data: bytes, shape: tuple[int, ...]) -> Tensor:
    """Return the uint8 images (N, C, H, W) of a picture."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        pixels: NDArray[np.uint8] = np.asarray(picture.convert("RGB" if shape[1] == 3 else "L"))
    return torch.from_numpy(images_of(pixels, shape).copy())


def _written(picture: Any, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()
