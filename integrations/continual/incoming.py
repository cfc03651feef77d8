"""What does an experience bring: which images or vectors, of which classes, on which scale?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import DataError
from ddkit.integrations.continual.keys import Key

Shape = tuple[int, int, int]

_CHUNK = 1024
#: Values nearer to the range than this, in units of it, are rounding and not clipped.
_TOLERANCE = 1e-4
#: Of the range of the first vectors, on either side.
_MARGIN = 0.25


@dataclass(frozen=True)
class Arrival:
    """The images of an experience, as bytes.

    Args:
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``.
        tasks: int64 ``(N,)`` task labels; zeros where the stream has none.
        clipped: share of the values that were out of range.
        logits: float32 ``(N, H)`` of the strategy's model when they came; None where nobody asks for them.
    """

    images: Tensor
    labels: Tensor
    tasks: Tensor
    clipped: float
    logits: Tensor | None = None

    def of(self, index: Tensor) -> Arrival:
        """Return the images at ``index``, int64 ``(n,)``."""
        logits = None if self.logits is None else self.logits[index]
        return Arrival(self.images[index], self.labels[index], self.tasks[index], self.clipped, logits)

    def joined(self, other: Arrival) -> Arrival:
        """Return the images of both."""
        total = len(self.labels) + len(other.labels)
        clipped = (self.clipped * len(self.labels) + other.clipped * len(other.labels)) / max(1, total)
        pairs = ((self.images, other.images), (self.labels, other.labels), (self.tasks, other.tasks))
        images, labels, tasks = (torch.cat(pair) for pair in pairs)
        both = self.logits is not None and other.logits is not None
        logits = torch.cat([self.logits, other.logits]) if both else None  # type: ignore[list-item]
        return Arrival(images, labels, tasks, clipped, logits)

    @property
    def keys(self) -> list[Key]:
        """Return the class of each image."""
        return list(zip(self.tasks.tolist(), self.labels.tolist(), strict=True))

    def by_task(self) -> Iterator[tuple[int, Arrival]]:
        """Yield each task label with its images."""
        for task in self.tasks.unique().tolist():
            yield task, self.of((self.tasks == task).nonzero().squeeze(1))


@dataclass(frozen=True)
class Form:
    """What the items of a stream look like, taken from its first images.

    Args:
        shape: (C, H, W) of an image; (1, 1, D) of a vector.
        pixels: the map from pixels on the [0, 1] scale to the stream's images.
        task_labels: whether items end in a task label.
        tensor_targets: whether labels are 0-dimensional tensors instead of integers: the loader mixes no two kinds.
        vectors: whether the stream brings vectors ``(D,)``, such as features, in place of images.
    """

    shape: Shape
    pixels: Preprocessing
    task_labels: bool
    tensor_targets: bool
    vectors: bool = False

    def as_items(self, images: Tensor) -> Tensor:
        """Return images ``(N, C, H, W)`` as the stream's models take them: vectors as ``(N, D)``."""
        return images.flatten(1) if self.vectors else images


def observe(dataset: Any, pixels: Preprocessing | None) -> Form:
    """Look at the first experience.

    Unless ``pixels`` says how images were preprocessed, the smallest and the largest value of each channel become the
    pixels 0 and 255, which is exact for normalised 8-bit images that use their whole range; images that lie in [0, 1]
    are taken as they are. A vector is an image of one channel and one row; vectors to come may have values beyond those
    of the first ones, for which there is a margin.

    Args:
        dataset: an Avalanche dataset with its ``eval`` transforms, not empty.
        pixels: preprocessing of the stream; None to take the range of the images.

    Raises:
        DataError: items that are not (float image, class number), or a preprocessing for other images.
    """
    image, label = _checked(dataset[0], 0)
    shape = _shape_of(image)
    if pixels is None:
        low, high = torch.full((shape[0],), torch.inf), torch.full((shape[0],), -torch.inf)
        for images, _ in _chunks(dataset, shape, image.ndim == 1):
            low = torch.minimum(low, images.amin(dim=(0, 2, 3)))
            high = torch.maximum(high, images.amax(dim=(0, 2, 3)))
        margin = _MARGIN * (high - low) if image.ndim == 1 else 0
        pixels = _preprocessing_of_range(low - margin, high + margin)
    elif not pixels.fits(shape):
        raise DataError(f"pixels={pixels.describe()} does not fit images of shape {shape}: give that of the stream")
    return Form(shape, pixels, hasattr(dataset, "targets_task_labels"), isinstance(label, Tensor), image.ndim == 1)


def read(dataset: Any, form: Form, num_classes: int | None) -> Arrival:
    """Read all images of an experience as bytes; values out of range are clipped and counted.

    Args:
        dataset: an Avalanche dataset with its ``eval`` transforms, not empty.
        form: of the stream.
        num_classes: K; None for any.

    Raises:
        DataError: other images than the stream's first ones, values that are not finite, labels out of range.
    """
    images, labels, outside = [], [], 0.0
    for part, targets in _chunks(dataset, form.shape, form.vectors):
        pixels = form.pixels.invert(part)
        outside += float(((pixels < -_TOLERANCE) | (pixels > 1 + _TOLERANCE)).sum())
        images.append(pixels.clamp(0, 1).mul(255).round().to(torch.uint8))
        labels.append(targets)
    numbers = torch.cat(labels)
    if int(numbers.min()) < 0 or (num_classes is not None and int(numbers.max()) >= num_classes):
        bad = int(numbers.min()) if int(numbers.min()) < 0 else int(numbers.max())
        raise DataError(f"class {bad} is out of range: the memory was made for num_classes={num_classes}")
    tasks = torch.zeros_like(numbers)
    if hasattr(dataset, "targets_task_labels"):
        tasks = torch.tensor([int(task) for task in dataset.targets_task_labels], dtype=torch.int64)
    if int(tasks.min()) < 0:
        raise DataError(f"task label {int(tasks.min())} is negative: number tasks from 0")
    stacked = torch.cat(images)
    clipped = outside / stacked.numel()
    if clipped > 0.01:
        warnings.warn(
            f"{clipped:.0%} of the values are beyond the range that bytes stand for and were clipped: "
            f"give pixels=Preprocessing(mean, std) of the stream",
            stacklevel=2,
        )
    return Arrival(stacked, numbers, tasks, clipped)


def _preprocessing_of_range(low: Tensor, high: Tensor) -> Preprocessing:
    """Return the map of [0, 1] to [low, high] of each channel; a channel without a range keeps its value at 0."""
    if bool((low >= 0).all()) and bool((high <= 1).all()):
        return Preprocessing.identity(len(low))
    span = torch.where(high > low, high - low, torch.ones_like(low)).double()
    return Preprocessing(tuple((-low.double() / span).tolist()), tuple((1 / span).tolist()))


def _shape_of(image: Tensor) -> Shape:
    return (1, 1, len(image)) if image.ndim == 1 else (image.shape[0], image.shape[1], image.shape[2])


def _chunks(dataset: Any, shape: Shape, vectors: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield float32 images ``(n, C, H, W)`` and int64 labels, a chunk at a time."""
    expected = (shape[2],) if vectors else shape
    for start in range(0, len(dataset), _CHUNK):
        items = [_checked(dataset[number], number) for number in range(start, min(start + _CHUNK, len(dataset)))]
        for number, (image, _) in enumerate(items, start):
            if tuple(image.shape) != expected:
                raise DataError(
                    f"item {number} has an image of shape {tuple(image.shape)}, the memory holds {expected}: "
                    f"bring all experiences to one shape"
                )
        images = torch.stack([image.detach().to("cpu", torch.float32).reshape(shape) for image, _ in items])
        if not bool(images.isfinite().all()):
            raise DataError(f"an image among items {start} to {start + len(items) - 1} is not finite: clean the data")
        yield images, torch.tensor([int(label) for _, label in items], dtype=torch.int64)


def _checked(item: Any, number: int) -> tuple[Tensor, Any]:
    """Return image and label of an item."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise DataError(f"item {number} is a {type(item).__name__}: the memory takes (image, class number) items")
    image, label = item[0], item[1]
    if not isinstance(image, Tensor) or image.ndim not in (1, 3) or not image.numel() or not image.is_floating_point():
        kind = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
        raise DataError(
            f"item {number} has a {kind} image: give float tensors (C, H, W), for instance by ToTensor(), or vectors "
            f"(D,)"
        )
    scalar = label.item() if isinstance(label, Tensor | np.generic) and np.prod(label.shape) == 1 else label
    if isinstance(scalar, bool) or not isinstance(scalar, int):
        raise DataError(
            f"item {number} has the target {str(label)[:60]}: the memory takes one class number per image "
            f"(no multi-label, regression or detection data)"
        )
    return image, label
