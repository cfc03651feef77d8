"""What a training step sees: shuffled, augmented and mixed batches of a training set, one per network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.augment import create
from ddkit.augment.base import Augmentation, Draws, NoAugmentation
from ddkit.augment.cutmix import cutmix
from ddkit.base.streams import Streams
from ddkit.data.distilled.label_loss import as_probabilities
from ddkit.data.real import RealData
from ddkit.errors import DataError
from ddkit.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class TrainingSet:
    """The images and targets that networks are trained on.

    Args:
        images: preprocessed images (N, C, H, W), or a real set whose batches are preprocessed on access.
        targets: class indices (N,), or rows (N, K).
        num_classes: number of classes K.
        importance: factor (N,) of every image's loss, where one network is trained; None for 1.
    """

    images: Tensor | RealData
    targets: Tensor
    num_classes: int
    importance: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        shape = self.images.shape[-3:]
        return int(shape[0]), int(shape[1]), int(shape[2])

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the images as networks see them."""
        return self.images.dtype if isinstance(self.images, Tensor) else torch.float32

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and targets at ``index``, in its order."""
        if isinstance(self.images, Tensor):
            return self.images.index_select(0, index), self.targets.index_select(0, index)
        return self.images.batch(index).to(self.targets.device), self.targets.index_select(0, index)


def training_set(
    images: Tensor | RealData,
    labels: Tensor | None,
    recipe: TrainingRecipe,
    num_classes: int,
    device: torch.device,
) -> TrainingSet:
    """Check images and labels of :func:`train_networks` and put them on ``device``.

    Raises:
        DataError: images or labels of the wrong kind, shape or range.
    """
    if labels is None:
        if not isinstance(images, RealData):
            raise DataError("train_networks got images without labels; labels may be left out only for a RealData")
        labels = images.labels
    if isinstance(images, Tensor):
        if images.ndim != 4 or not images.is_floating_point():
            raise DataError(
                f"training images must be preprocessed floats of shape (N, C, H, W), got {images.dtype} "
                f"{tuple(images.shape)}; apply the preprocessing first"
            )
        images = images.detach().to(device)
    if len(images) == 0 or len(labels) != len(images):
        raise DataError(f"got {len(images)} training images and {len(labels)} labels; give as many, at least one")
    _check_views(labels, recipe)
    labels = labels.detach().to(device)
    dtype = images.dtype if isinstance(images, Tensor) else torch.float32
    if labels.is_floating_point():
        if labels.ndim != 2 or labels.shape[1] != num_classes:
            raise DataError(f"soft labels must be (N, {num_classes}), got {tuple(labels.shape)}")
        if recipe.loss_for("hard") == "ce" and recipe.schedule != "given":
            labels = as_probabilities(labels)
        return TrainingSet(images, labels.to(dtype), num_classes)
    if labels.ndim != 1 or not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise DataError(f"hard labels must be (N,) class indices in 0..{num_classes - 1}")
    if recipe.loss_for("hard") == "mse":
        labels = F.one_hot(labels, num_classes).to(dtype) - 1 / num_classes
    return TrainingSet(images, labels, num_classes)


def _check_views(labels: Tensor, recipe: TrainingRecipe) -> None:
    """Refuse a set that does not consist of runs of ``recipe.views`` images of one class.

    Raises:
        DataError: runs that do not divide the set, or hard labels that differ within one.
    """
    remedy = "set the recipe's views to the images per stored code, or to 1 to show all of them in every epoch"
    if len(labels) % recipe.views:
        raise DataError(f"{len(labels)} training images are no runs of {recipe.views} views of one code: {remedy}")
    runs = labels.unflatten(0, (-1, recipe.views))
    if not labels.is_floating_point() and bool((runs != runs[:, :1]).any()):
        raise DataError(f"training images of different classes share a run of {recipe.views} views: {remedy}")


def given_batches(data: TrainingSet, recipe: TrainingRecipe) -> list[Tensor]:
    """Return the batches of schedule ``"given"``: S index tensors (N / S,), run s of every class in batch s.

    Images are numbered class by class, all classes with as many images; soft targets do not tell the class.

    Raises:
        DataError: a number of images that S runs do not divide.
    """
    count, runs = len(data), recipe.runs
    classes = recipe.classes or data.num_classes
    if count % (classes * runs):
        raise DataError(
            f"{count} training images of {classes} classes cannot be cut into {runs} batches: the recipe is that "
            f"of another set"
        )
    index = torch.arange(count, device=data.targets.device).view(classes, runs, -1)
    return [index[:, run].flatten() for run in range(runs)]


class Batches:
    """The batches that R networks train on: each network has an order, views, augmentation and CutMix of its own.

    Args:
        data: what to train on.
        recipe: batch size, views, augmentation and CutMix.
        streams: random streams of each network.
        pad: whether the last partial batch is filled up with rows of weight zero.
    """

    def __init__(self, data: TrainingSet, recipe: TrainingRecipe, streams: Sequence[Streams], pad: bool) -> None:
        self.data, self.recipe, self.streams, self.pad = data, recipe, streams, pad
        self.augmentation = create(recipe.augmentation, **recipe.augmentation_options)
        self.count = recipe.shown(len(data))
        self.size = min(recipe.batch_size, self.count)

    def epoch(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the batches of one epoch.

        Yields:
            images (R, B, C, H, W); targets (R, B) classes or (R, B, K) rows; weights (B,), 1 / n (times the
            importance of its image) on the n rows that count and 0 on padding.
        """
        device = self.data.targets.device
        for index, real in _orders(self.streams, self.count, self.recipe.views, self.size, self.pad, device):
            images, targets = self.data.batch(index.flatten())
            images, targets = images.unflatten(0, index.shape), targets.unflatten(0, index.shape)
            if not isinstance(self.augmentation, NoAugmentation):
                images = _augmented(self.augmentation, images, self.streams, real)
            if self.recipe.cutmix:
                classes = self.data.num_classes
                images, targets = _mixed(images, targets, classes, self.recipe.cutmix, self.streams, real)
            weights = torch.zeros(index.shape[1], dtype=self.data.dtype, device=device)
            weights[:real] = 1 / real
            if self.data.importance is not None:
                weights *= self.data.importance[index[0]]
            yield images, targets, weights


def _orders(
    streams: Sequence[Streams], count: int, views: int, batch: int, pad: bool, device: torch.device
) -> Iterator[tuple[Tensor, int]]:
    """Yield one epoch of index tensors (R, B), each with the number of its columns that are not padding.

    An epoch shows one of the ``views`` consecutive images of each of ``count`` codes.
    """
    order = torch.stack([torch.randperm(count, generator=stream("order")) for stream in streams])
    if views > 1:
        chosen = [torch.randint(views, (count,), generator=stream("views")) for stream in streams]
        order = order * views + torch.stack(chosen)
    order = order.to(device)
    for start in range(0, count, batch):
        index = order[:, start : start + batch]
        real = index.shape[1]
        if pad and real < batch:
            index = torch.cat([index, index[:, :1].expand(-1, batch - real)], dim=1)
        yield index, real


def _augmented(augmentation: Augmentation, images: Tensor, streams: Sequence[Streams], real: int) -> Tensor:
    """Augment R batches (R, B, C, H, W) in one call, each with draws from its own network's stream.

    Rows from ``real`` on are padding and draw nothing.
    """
    networks, batch = images.shape[:2]
    draws = [augmentation.draw_train(real, stream("augmentation")) for stream in streams]
    row = torch.arange(batch).clamp(max=real - 1)
    group = (torch.arange(networks)[:, None] * real + row).flatten()
    return augmentation.apply(images.flatten(0, 1), Draws.concatenate(draws), group).view(images.shape)


def _mixed(
    images: Tensor, targets: Tensor, num_classes: int, probability: float, streams: Sequence[Streams], real: int
) -> tuple[Tensor, Tensor]:
    """CutMix R batches (R, B, C, H, W), each with draws from its own network's stream.

    Only the first ``real`` rows are mixed, with one another; padding keeps its images and gets targets of
    zeros.

    Returns:
        Images (R, B, C, H, W) and target rows (R, B, K).
    """
    pairs = [
        cutmix(x[:real], y[:real], num_classes, probability, stream("cutmix"))
        for x, y, stream in zip(images, targets, streams, strict=True)
    ]
    mixed, rows = (torch.stack(parts) for parts in zip(*pairs, strict=True))
    padding = images.shape[1] - real
    if padding:
        mixed = torch.cat([mixed, images[:, real:]], dim=1)
        rows = F.pad(rows, (0, 0, 0, padding))
    return mixed, rows
