"""Images as one JPEG or lossy WebP picture: what a control costs where tables and headers are shared by all images.

Such pictures are never part of an artifact, as decoders of different libraries give different pixels.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Longest side of a picture, by kind.
SIDES = {"jpeg": 65500, "webp": 16383}


def suits(kind: str, shape: tuple[int, ...]) -> bool:
    """Say whether images ``shape`` (N, C, H, W) fit one picture."""
    columns, rows = _grid(shape)
    return shape[1] in (1, 3) and max(columns * shape[3], rows * shape[2]) <= SIDES[kind]


def encode(images: Tensor, kind: str, quality: int) -> bytes:
    """Return uint8 images (N, C, H, W) of one or three channels as the smallest picture of a quality.

    JPEG is tried with colours at full and at half resolution, in one pass and progressively.

    Args:
        images: which :func:`suits`.
        kind: ``jpeg`` or ``webp``.
        quality: 1 to 100.
    """
    from PIL import Image

    count, channels, height, width = images.shape
    columns, rows = _grid(tuple(images.shape))
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = images.permute(0, 2, 3, 1).numpy()
    if count < len(sheet):
        sheet[count:] = sheet[count - 1]  # costs less than a black tile
    tiles = sheet.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    picture = Image.fromarray(tiles.reshape(rows * height, columns * width, channels).squeeze())
    if kind == "webp":
        return _written(picture.convert("RGB"), "WEBP", quality=quality, method=6)
    colours = (0, 2) if channels == 3 else (0,)
    ways = ({"subsampling": colour, "progressive": parts} for colour in colours for parts in (False, True))
    return min((_written(picture, "JPEG", quality=quality, optimize=True, **way) for way in ways), key=len)


def decode(data: bytes, shape: tuple[int, ...]) -> Tensor:
    """Return the uint8 images (N, C, H, W) of a picture."""
    from PIL import Image

    count, channels, height, width = shape
    columns, rows = _grid(shape)
    with Image.open(io.BytesIO(data)) as picture:
        pixels: NDArray[np.uint8] = np.asarray(picture.convert("RGB" if channels == 3 else "L"))
    tiles = pixels.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(tiles.reshape(rows * columns, channels, height, width)[:count].copy())


def _written(picture: Any, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format, **options)
    return stream.getvalue()


def _grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return columns and rows of the sheet: about square."""
    columns = max(1, min(shape[0], math.isqrt(shape[0] * shape[2] // shape[3])))
    return columns, -(-shape[0] // columns)
