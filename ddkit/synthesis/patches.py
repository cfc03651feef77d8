"""Where a stored image is cut into patches, how patches become images, and how images become patches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

DecodeType = Literal["single", "multi", "bound"]


@dataclass(frozen=True)
class Formation:
    """The stored images ``first`` to ``last - 1`` of every class, each cut into ``factor`` x ``factor`` patches."""

    factor: int
    first: int
    last: int

    @property
    def images(self) -> int:
        """Stored images per class."""
        return self.last - self.first

    @property
    def decoded(self) -> int:
        """Decoded images per class."""
        return self.images * self.factor**2


def patch_bounds(length: int, factor: int) -> list[tuple[int, int]]:
    """Return where ``factor`` patches of ceil(length / factor) pixels start and stop along an axis.

    The last one may stop beyond ``length``; what is missing there is padding.
    """
    size = math.ceil(length / factor)
    return [(number * size, (number + 1) * size) for number in range(factor)]


def formations(decode_type: DecodeType, ipc: int, factor: int, bound: int) -> list[Formation]:
    """Return how the stored images of a class are decoded, in the order of the decoded images.

    Args:
        decode_type: ``single`` cuts every image by ``factor``; ``multi`` by 1, 2, ..., ``factor`` in turn; ``bound``
            cuts as many as possible by ``factor``, of the rest as many as possible by ``factor - 1``, and so on.
        ipc: stored images per class.
        factor: patches along an axis.
        bound: most decoded images per class under ``bound``, where ``ipc`` allows it.
    """
    if decode_type == "single":
        return [Formation(factor, 0, ipc)]
    if decode_type == "multi":
        return [Formation(smaller, 0, ipc) for smaller in range(1, factor + 1)]
    parts: list[Formation] = []
    first = decoded = 0
    for smaller in range(factor, 1, -1):
        room = bound - decoded - (ipc - first)
        count = min(ipc - first, max(0, room // smaller**2))
        if count:
            parts.append(Formation(smaller, first, first + count))
        first, decoded = first + count, decoded + count * smaller**2
    return [*parts, Formation(1, first, ipc)] if first < ipc else parts


def layout(parts: Sequence[Formation]) -> Tensor:
    """Return factor, stored image and patch (row-major) of every decoded image of a class: (D, 3) int64.

    Within a formation the patch varies slowest and the image fastest, as in the authors' program.
    """
    rows = []
    for part in parts:
        patch = torch.arange(part.factor**2).repeat_interleave(part.images)
        image = torch.arange(part.first, part.last).repeat(part.factor**2)
        rows.append(torch.stack([torch.full_like(patch, part.factor), image, patch], dim=1))
    return torch.cat(rows)


def decode_patches(stored: Tensor, plan: Tensor, ipc: int, index: Tensor, padding: float) -> Tensor:
    r"""Enlarge patches of stored images to full size (Kim et al. 2022; survey Eq. 27, :math:`S = f(C)`).

    All patches of one factor pass through one bilinear interpolation (corners not aligned).

    Args:
        stored: (K * ipc, C, H, W).
        plan: (D, 3), see :func:`layout`, on the device of ``stored``.
        ipc: stored images per class.
        index: (M,) int64 decoded images, class-major; on the device of ``stored``.
        padding: value beyond the right and bottom border where the factor does not divide the size.

    Returns:
        (M, C, H, W), differentiable with respect to ``stored``.
    """
    factor, image, patch = plan[index % len(plan)].unbind(1)
    image = image + index.div(len(plan), rounding_mode="floor") * ipc
    factors = plan[:, 0].unique().tolist()
    if len(factors) == 1:
        return _enlarged(stored, image, patch, factors[0], padding)
    members = [(factor == value).nonzero().flatten() for value in factors]
    enlarged = [
        _enlarged(stored, image[rows], patch[rows], value, padding)
        for value, rows in zip(factors, members, strict=True)
        if len(rows)
    ]
    return torch.cat(enlarged).index_select(0, torch.cat(members).argsort())


def _enlarged(stored: Tensor, image: Tensor, patch: Tensor, factor: int, padding: float) -> Tensor:
    if factor == 1:
        return stored.index_select(0, image)
    height, width = stored.shape[-2:]
    rows, columns = patch_bounds(height, factor), patch_bounds(width, factor)
    needed, position = image.unique(return_inverse=True)
    images = stored.index_select(0, needed)
    images = F.pad(images, (0, columns[-1][1] - width, 0, rows[-1][1] - height), value=padding)
    patches = images.unflatten(3, (factor, -1)).unflatten(2, (factor, -1)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    chosen = patches.index_select(0, position * factor**2 + patch)
    rows_matrix, columns_matrix = (
        _enlarging(size, length, stored) for size, length in zip(chosen.shape[2:], (height, width), strict=True)
    )
    return rows_matrix @ chosen @ columns_matrix.T


def _enlarging(size: int, length: int, like: Tensor) -> Tensor:
    """Return the matrix (length, size) of linear interpolation along an axis, corners not aligned.

    Matrix products give the same images as ``F.interpolate``, whose backward pass on a GPU sums in another order every
    time.
    """
    identity = torch.eye(size, dtype=like.dtype, device=like.device)
    return F.interpolate(identity[None], size=length, mode="linear", align_corners=False)[0].T


def mosaic(images: Tensor, parts: Sequence[Formation], ipc: int) -> Tensor:
    """Shrink images into the patches from which :func:`decode_patches` enlarges them (nearest neighbour).

    A patch that stops beyond the border takes its image shrunk to the part inside.

    Args:
        images: (D, C, H, W), one per patch of ``parts`` in the order of :func:`layout`.
        parts: formations that cover every stored image once.
        ipc: stored images.

    Returns:
        (ipc, C, H, W).
    """
    height, width = images.shape[-2:]
    codes = images.new_zeros(ipc, *images.shape[1:])
    chunks = iter(images.split([part.images for part in parts for _ in range(part.factor**2)]))
    for part in parts:
        for top, bottom in patch_bounds(height, part.factor):
            for left, right in patch_bounds(width, part.factor):
                inside = codes[part.first : part.last, :, top:bottom, left:right]
                inside.copy_(F.interpolate(next(chunks), size=inside.shape[-2:], mode="nearest"))
    return codes
