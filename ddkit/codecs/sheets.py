"""Many small images as one picture: about square, row by row."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Shape = tuple[int, ...]


def _grid(shape: Shape) -> tuple[int, int]:
    """Return columns and rows."""
    columns = max(1, min(shape[0], math.isqrt(shape[0] * shape[2] // max(1, shape[3])) or 1))
    return columns, -(-shape[0] // columns)


def sheet_size(shape: Shape) -> tuple[int, int]:
    """Return width and height of the sheet of images ``shape`` (N, C, H, W)."""
    columns, rows = _grid(shape)
    return columns * shape[3], rows * shape[2]


def sheet_of(images: Bytes, fill: Bytes | int) -> Bytes:
    """Return images (N, C, H, W) as a sheet (height, width, C).

    Args:
        images: to put side by side.
        fill: what tiles without an image show: a number, or an image (H, W, C).
    """
    columns, rows = _grid(images.shape)
    count, channels, height, width = images.shape
    tiles = np.empty((rows * columns, height, width, channels), np.uint8)
    tiles[:count], tiles[count:] = images.transpose(0, 2, 3, 1), fill
    apart = tiles.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return apart.reshape(rows * height, columns * width, channels)


def images_of(sheet: Bytes, shape: Shape) -> Bytes:
    """Return the images ``shape`` (N, C, H, W) of a sheet (height, width[, C])."""
    columns, rows = _grid(shape)
    count, channels, height, width = shape
    tiles = sheet.reshape(rows, height, columns, width, channels).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(rows * columns, channels, height, width)[:count]
