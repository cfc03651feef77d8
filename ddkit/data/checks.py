"""What counts as a labelled image set: arrays become uint8 images and int64 labels, or are refused."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.errors import DataError

# Float images may leave [0, 1] by rounding of an earlier computation, not by more.
_TOLERANCE = 1e-6
_CHUNK_ROWS = 4096
_DIM = 16  # a set that is never brighter may hold levels of 4 bits


def as_tensor(value: Any, what: str) -> Tensor:
    """Return ``value`` (a tensor, an array or nested lists) as a tensor, sharing memory where that is safe.

    Raises:
        DataError: ``value`` is none of these, holds text, or its rows have different lengths.
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
        if array.dtype.kind in "US":
            raise DataError(
                f"{what} of type {type(value).__name__} are not one numeric array but text: "
                "number them from 0, and give the names as class names"
            )
        if not array.dtype.isnative or not array.flags.writeable:
            array = array.astype(array.dtype.newbyteorder("="))
        return torch.from_numpy(np.ascontiguousarray(array))
    except DataError:
        raise
    except (TypeError, ValueError):
        raise DataError(
            f"{what} of type {type(value).__name__} are not one numeric array: "
            "give a tensor or a NumPy array in which every row has the same shape"
        ) from None


def shape_at_rest(shape: Sequence[int]) -> tuple[int, int, int]:
    """Return (C, H, W) of images whose array has ``shape``: ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``.

    Raises:
        DataError: another number of axes, an empty set, or axes that can be read in two ways.
    """
    full = tuple(shape)
    if len(full) not in (3, 4):
        raise DataError(f"images have shape {full}: give (N, H, W), (N, H, W, C) with C 1 or 3, or (N, C, H, W)")
    if min(full) == 0:
        raise DataError(f"images have shape {full}, an empty set: give at least one image")
    if len(full) == 3:
        return 1, full[1], full[2]
    first, middle, last = full[1:]
    if first in (1, 3) and last in (1, 3) and middle > 3:
        raise DataError(
            f"images have shape {full}: channels may come first or last; give (N, C, H, W) more than 3 pixels wide"
        )
    if last in (1, 3) and first not in (1, 3):
        return last, first, middle
    if first not in (1, 3):
        _check_channels(full)
    return first, middle, last


def _check_channels(shape: tuple[int, ...]) -> None:
    """Refuse what has neither 1 nor 3 channels first unless their axis can be no other.

    Raises:
        DataError: images with channels last, or volumes.
    """
    first, middle, last = shape[1:]
    if last <= 4 and last < first and last < middle:
        raise DataError(
            f"images have shape {shape}, it seems (N, H, W, C) with {last} channels: "
            "give 1 or 3 channels, or (N, C, H, W)"
        )
    if first > 4 and first >= min(middle, last):
        raise DataError(
            f"images have shape {shape}: {first} channels of {middle}x{last}, or volumes? Give (N, C, H, W) with fewer "
            "channels than pixels a side, such as single slices of a volume"
        )
    if first > 4:
        warnings.warn(f"images have shape {shape} and are taken for images of {first} channels", stacklevel=2)


def images_at_rest(images: Any, offset: int = 0) -> Tensor:
    """Return images as contiguous uint8 ``(N, C, H, W)``.

    Accepted layouts: ``(N, H, W)``; ``(N, C, H, W)``; ``(N, H, W, C)`` with C 1 or 3, recognised when the
    last axis has 1 or 3 entries and the second has not. Floats on the [0, 1] scale are rounded to the nearest
    of the 256 levels. uint8 images in the right layout are not copied.

    Args:
        images: tensor, array or nested lists.
        offset: number of the first image, for messages.

    Raises:
        DataError: not an image array, an empty set, axes that can be read in two ways, NaN or Inf, floats outside
            [0, 1], or another integer type.
    """
    tensor = as_tensor(images, "images")
    shape = shape_at_rest(tensor.shape)
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    elif tuple(tensor.shape[1:]) != shape:
        tensor = tensor.permute(0, 3, 1, 2)
    if tensor.is_floating_point():
        return _rounded(tensor, offset)
    if tensor.dtype != torch.uint8:
        raise DataError(
            f"images are {tensor.dtype}: give uint8 from 0 to 255, or floats from 0 to 1 (divided by what white is)"
        )
    return tensor.contiguous()


def check_levels(images: Tensor, where: str) -> None:
    """Refuse a set whose pixels say that it was scaled wrongly, and warn of one that is very dark.

    Args:
        images: uint8 ``(N, C, H, W)``.
        where: the set, for messages.

    Raises:
        DataError: no level above 1, and some at 1.
    """
    level = 0
    for chunk in images.split(_CHUNK_ROWS):
        level = max(level, int(chunk.max()))
        if level > _DIM:
            return
    if level == 1:
        raise DataError(
            f"the images of '{where}' reach level 1 of 255: floats may have been divided by 255 twice, or bytes "
            "be 0 and 1; multiply them by 255"
        )
    if level > 1:
        warnings.warn(
            f"the images of '{where}' reach level {level} of 255 only: if that is white, "
            f"multiply them by {255 / level:.4g}",
            stacklevel=3,
        )


def check_distinct(images: Tensor, where: str) -> None:
    """Refuse a set of more than two images that are all the same; two may be equal by chance.

    Args:
        images: uint8 ``(N, C, H, W)``.
        where: the set, for messages.

    Raises:
        DataError: so it is.
    """
    if len(images) > 2 and all(torch.equal(part, images[:1].expand_as(part)) for part in images.split(_CHUNK_ROWS)):
        low, high = int(images[0].min()), int(images[0].max())
        pixels = f"every pixel is {low}" if low == high else f"pixels from {low} to {high}"
        raise DataError(
            f"all {len(images)} images of '{where}' are one image ({pixels}), so nothing can be learned from them: "
            "check how they were saved"
        )


def warn_of_blank(images: Tensor, where: str) -> None:
    """Warn when more than two images are all of one level; arrays may be stand-ins on purpose."""
    if len(images) > 2 and all(bool((part == images[0, 0, 0, 0]).all()) for part in images.split(_CHUNK_ROWS)):
        level = int(images[0, 0, 0, 0])
        warnings.warn(f"all {len(images)} images of '{where}' are blank: every pixel is {level}", stacklevel=3)


def _rounded(images: Tensor, offset: int) -> Tensor:
    output = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    for start in range(0, len(images), _CHUNK_ROWS):
        chunk = images[start : start + _CHUNK_ROWS]
        if not bool(torch.isfinite(chunk).all()):
            bad = (~torch.isfinite(chunk)).flatten(1).any(1).nonzero()[0].item()
            raise DataError(f"image {offset + start + int(bad)} holds NaN or Inf: remove or repair it")
        low, high = chunk.min().item(), chunk.max().item()
        if low < -_TOLERANCE or high > 1 + _TOLERANCE:
            raise DataError(
                f"float images range from {low:.4g} to {high:.4g}: bring them to [0, 1] "
                "(divide bytes by 255, undo a normalisation), or give uint8"
            )
        output[start : start + _CHUNK_ROWS] = (chunk.to(torch.float32).clamp(0, 1) * 255).round().to(torch.uint8)
    return output


def integer_labels(labels: Any, count: int) -> Tensor:
    """Return labels as int64 ``(N,)``; a column ``(N, 1)`` is flattened.

    Raises:
        DataError: not integers, not one per image, or not as many as ``count`` images.
    """
    tensor = as_tensor(labels, "labels")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise DataError(f"labels are {tensor.dtype}: give one integer class number per image")
    if tensor.ndim == 2 and tensor.shape[1] == 1:
        tensor = tensor[:, 0]
    if tensor.ndim != 1:
        raise DataError(f"labels have shape {tuple(tensor.shape)}: give one integer class number per image, shape (N,)")
    if len(tensor) != count:
        raise DataError(f"{count} images but {len(tensor)} labels: give one label per image")
    return tensor.to(torch.int64).contiguous()


def checked_classes(
    labels: Tensor, class_names: Sequence[str] | None, num_classes: int | None, allow_missing: bool
) -> tuple[str, ...]:
    """Return the class names after checking that ``labels`` and the number of classes agree.

    Args:
        labels: int64 ``(N,)``, N >= 1.
        class_names: one name per class, or None for the class numbers.
        num_classes: number of classes, or None for as many as there are names, else the largest label plus
            one.
        allow_missing: whether a class may have no image.

    Raises:
        DataError: fewer than two classes, names that do not match, a label out of range, or a class without
            images.
    """
    if class_names is not None:
        class_names = tuple(str(name) for name in class_names)
        if num_classes is not None and num_classes != len(class_names):
            raise DataError(f"{len(class_names)} class names but num_classes={num_classes}: make them agree")
        num_classes = len(class_names)
    low, high = int(labels.min()), int(labels.max())
    if num_classes is None:
        num_classes = high + 1
    if low < 0 or high >= num_classes:
        bad = low if low < 0 else high
        raise DataError(f"label {bad} is out of range: with {num_classes} classes use 0 to {num_classes - 1}")
    if num_classes < 2:
        raise DataError(f"the set has {num_classes} class: at least 2 classes are needed")
    names = class_names or tuple(str(number) for number in range(num_classes))
    empty = (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()
    if empty and not allow_missing:
        listed = ", ".join(f"{number} ('{names[number]}')" for number in empty[:5])
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise DataError(
            f"class {listed}{more} has no image: add images, or remove its name and number the others anew from 0"
        )
    return names
