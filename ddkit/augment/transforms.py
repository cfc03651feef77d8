"""How each family of differentiable image transforms maps pixels to pixels, given its parameters.

All functions work on *blocks* of images, (B, M, C, H, W) contiguous and floating: the M images of a block
share one row of parameters. Parameters are (B, ...) tensors of any dtype on any device; they are moved to the
images. Nothing here is random. Every operation is computed element by element or in an order that does not
depend on B and M, so an image comes out bit-identical whatever else is in the batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def _like(parameter: Tensor, images: Tensor) -> Tensor:
    """Move parameters (B, ...) to dtype and device of ``images``; dtype first: some devices lack float64."""
    return parameter.to(images.dtype).to(images.device)


def _per_block(parameter: Tensor, images: Tensor) -> Tensor:
    """Shape a (B,) parameter as (B, 1, 1, 1, 1)."""
    return _like(parameter, images).view(-1, 1, 1, 1, 1)


def color(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Apply brightness, then saturation, then contrast, in one affine form.

    With m the mean over channels of a pixel and M the mean over channels and pixels of an image:
    x + b; then (x - m) s + m; then (x - M) k + M. Brightness shifts m and M alike and saturation keeps m, so
    the composition is k s x + k (1 - s) m + (1 - k) M + b with m and M of the *input*. On one channel m = x:
    saturation is the identity.

    Args:
        images: (B, M, C, H, W).
        brightness: (B,) offset b, in units of the pixels.
        saturation: (B,) factor s; 1 is the identity.
        contrast: (B,) factor k; 1 is the identity.

    Returns:
        (B, M, C, H, W).
    """
    offset, factor = _per_block(brightness, images), _per_block(contrast, images)
    pixel_mean = images.mean(2, keepdim=True)
    # One axis at a time: a long reduction may be split differently for small and large batches.
    shift = (1 - factor) * pixel_mean.mean(-1, keepdim=True).mean(-2, keepdim=True) + offset
    if images.shape[2] == 1:
        return images * factor + shift
    vividness = _per_block(saturation, images)
    return (images * (factor * vividness)).add_(pixel_mean * (factor * (1 - vividness)) + shift)


def crop(images: Tensor, shift: Tensor) -> Tensor:
    """Shift by whole pixels: out[i, j] = x[i + t1, j + t2], zero outside.

    Nearest-neighbour sampling at integer positions copies pixels exactly; on 2 CPU threads, 2560 images of
    3x32x32 took 2.2 ms this way and 7.0 ms by an index gather.

    Args:
        images: (B, M, C, H, W).
        shift: (B, 2) integers (t1, t2), rows and columns.

    Returns:
        (B, M, C, H, W).
    """
    height, width = images.shape[-2:]
    shift = _like(shift, images)
    rows = torch.arange(height, dtype=images.dtype, device=images.device) + shift[:, :1]
    columns = torch.arange(width, dtype=images.dtype, device=images.device) + shift[:, 1:]
    y = (rows * 2 - (height - 1)) / (height - 1)
    x = (columns * 2 - (width - 1)) / (width - 1)
    size = (len(shift), height, width)
    return _sample(images, x[:, None, :].expand(size), y[:, :, None].expand(size), "nearest")


def cutout(images: Tensor, start: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero a rectangle, clipped to the image.

    Args:
        images: (B, M, C, H, W).
        start: (B, 2) integers, first row and column of the rectangle; may be negative.
        size: rows and columns of the rectangle.

    Returns:
        (B, M, C, H, W).
    """
    start = start.to(images.device)
    rows, columns = (
        torch.arange(length, device=images.device) - start[:, axis, None]
        for axis, length in enumerate(images.shape[-2:])
    )
    kept_rows = (rows < 0) | (rows >= size[0])
    kept_columns = (columns < 0) | (columns >= size[1])
    kept = kept_rows[:, :, None] | kept_columns[:, None, :]
    return images * kept[:, None, None].to(images.dtype)


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror left and right the blocks (B, M, C, H, W) for which ``mirrored`` (B,) is true."""
    mirrored = mirrored.to(images.device).view(-1, 1, 1, 1, 1)
    return torch.where(mirrored, images.flip(-1), images)


def affine(images: Tensor, matrix: Tensor) -> Tensor:
    """Sample bilinearly at A (x, y), zero outside, about the image centre.

    Coordinates are normalised with corners aligned: -1 and 1 are the centres of the outermost pixels.

    Args:
        images: (B, M, C, H, W).
        matrix: (B, 2, 2), A acting on (x, y) = (column, row).

    Returns:
        (B, M, C, H, W).
    """
    height, width = images.shape[-2:]
    matrix = _like(matrix, images)[..., None, None]
    x = torch.linspace(-1, 1, width, dtype=images.dtype, device=images.device)
    y = torch.linspace(-1, 1, height, dtype=images.dtype, device=images.device)[:, None]
    # Not F.affine_grid: its matrix product may round differently for different numbers of blocks.
    across, down = (matrix[:, axis, 0] * x + matrix[:, axis, 1] * y for axis in (0, 1))
    return _sample(images, across, down, "bilinear")


def scale_matrix(factor: Tensor) -> Tensor:
    """Return diag(sx, sy) (B, 2, 2) of factors (B, 2); a factor above 1 shrinks the content."""
    return torch.diag_embed(factor)


def rotation_matrix(angle: Tensor, height: int, width: int) -> Tensor:
    """Return the rotation (B, 2, 2) by ``angle`` (B,) radians in normalised coordinates.

    A pixel measures 2 / (W - 1) across and 2 / (H - 1) down, so the off-diagonal terms are rescaled; without
    that a rotation of an image that is not square would shear it.
    """
    ratio = (height - 1) / (width - 1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine, -sine * ratio, sine / ratio, cosine], dim=-1).unflatten(-1, (2, 2))


def _sample(images: Tensor, x: Tensor, y: Tensor, mode: str) -> Tensor:
    """Sample (B, M, C, H, W) at normalised (B, H, W) positions; a block's grid serves all its M·C planes."""
    grid = torch.stack([x, y], dim=-1)
    planes = images.flatten(1, 2)
    return F.grid_sample(planes, grid, mode=mode, padding_mode="zeros", align_corners=True).view_as(images)
