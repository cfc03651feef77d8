"""What counts as a labelled image set: arrays become uint8 images and int64 labels, or are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.errors import DataError

# Float images may leave [0, 1] by rounding of an earlier computation, not by more.
_TOLERANCE = 1e-6
_CHUNK_ROWS = 4096


def as_tensor(value: Any, what: str) -> Tensor:
    """Return ``value`` (a tensor, an array or nested lists) as a tensor, sharing memory where that is safe.

    Raises:
        DataError: ``value`` is none of these, or its rows have different lengths.
    """
    if isinstance(value, Tensor):
        return value.detach()
    try:
        array = np.asarray(value)
        if not array.dtype.isnative or not array.flags.writeable:
            array = array.astype(array.dtype.newbyteorder("="))
        return torch.from_numpy(np.ascontiguousarray(array))
    except (TypeError, ValueError):
        raise DataError(
            f"{what} of type {type(value).__name__} are not one numeric array: "
            "give a tensor or a NumPy array in which every row has the same shape"
        ) from None


def images_at_rest(images: Any) -> Tensor:
    """Return images as contiguous uint8 ``(N, C, H, W)``.

    Accepted layouts: ``(N, H, W)``; ``(N, C, H, W)``; ``(N, H, W, C)`` with C 1 or 3, recognised when the
    last axis has 1 or 3 entries and the second has not. Floats on the [0, 1] scale are rounded to the nearest
    of the 256 levels. uint8 images in the right layout are not copied.

    Raises:
        DataError: not an image array, an empty set, NaN or Inf, floats outside [0, 1], or another integer
            type.
    """
    tensor = as_tensor(images, "images")
    if tensor.ndim == 3:
        tensor = tensor.unsqueeze(1)
    elif tensor.ndim == 4 and tensor.shape[3] in (1, 3) and tensor.shape[1] not in (1, 3):
        tensor = tensor.permute(0, 3, 1, 2)
    if tensor.ndim != 4:
        raise DataError(
            f"images have shape {tuple(tensor.shape)}: give (N, H, W), (N, H, W, C) with C 1 or 3, or (N, C, H, W)"
        )
    if tensor.numel() == 0:
        raise DataError(f"images have shape {tuple(tensor.shape)}, an empty set: give at least one image")
    if tensor.is_floating_point():
        return _rounded(tensor)
    if tensor.dtype != torch.uint8:
        raise DataError(f"images are {tensor.dtype}: give uint8 from 0 to 255, or floats from 0 to 1")
    return tensor.contiguous()


def _rounded(images: Tensor) -> Tensor:
    output = torch.empty(images.shape, dtype=torch.uint8, device=images.device)
    for start in range(0, len(images), _CHUNK_ROWS):
        chunk = images[start : start + _CHUNK_ROWS]
        if not bool(torch.isfinite(chunk).all()):
            bad = (~torch.isfinite(chunk)).flatten(1).any(1).nonzero()[0].item()
            raise DataError(f"image {start + int(bad)} holds NaN or Inf: remove or repair it")
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
            f"class {listed}{more} has no image: add images, renumber the labels, or pass allow_missing=True"
        )
    return names
