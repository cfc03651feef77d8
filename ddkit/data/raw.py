"""What does a source hand over before decoding: labels, class names, and images still to be selected."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ddkit.data.class_names import ordered_classes
from ddkit.data.splits import stratified_split
from ddkit.errors import DataError

LONE_SPLIT_SEED = 0
LONE_TEST_FRACTION = 0.2


class PendingImages(ABC):
    """Images not yet in memory, in the order of their labels."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def select(self, index: Tensor) -> Self:
        """Return the images at ``index``, int64 ``(n,)`` ascending."""

    @abstractmethod
    def key(self) -> str:
        """Return a hex digest that changes when the images do."""


class EncodedImages(PendingImages):
    """Image files not yet decoded."""

    @abstractmethod
    def chunks(self) -> Iterator[list[tuple[str, bytes | Path]]]:
        """Yield lists of (name for messages, encoded bytes or path of a file holding them), in order."""


class ArrayImages(PendingImages):
    """Images of an array that lies in a file.

    Attributes:
        shape: (N, C, H, W).
    """

    shape: tuple[int, int, int, int]

    @abstractmethod
    def chunks(self) -> Iterator[Tensor]:
        """Yield uint8 ``(n, C, H, W)``, N images together, in order."""


@dataclass(frozen=True)
class Raw:
    """One split as its source gives it.

    Args:
        images: uint8 ``(N, C, H, W)``, or images not yet read.
        labels: int64 ``(N,)``.
        class_names: one per class.
    """

    images: Tensor | EncodedImages | ArrayImages
    labels: Tensor
    class_names: tuple[str, ...]

    def select(self, index: Tensor) -> Raw:
        """Return the images and labels at ``index``, int64 ``(n,)`` ascending."""
        images = self.images.index_select(0, index) if isinstance(self.images, Tensor) else self.images.select(index)
        return replace(self, images=images, labels=self.labels[index])

    def lone_part(self, split: str, where: str, whole: str) -> Raw:
        """Return the train (80 %) or test (20 %) part of an undivided set: stratified, by a fixed seed.

        Args:
            split: "train" or "test"; a warning says what was taken for "train".
            where: the source, for messages.
            whole: how to have all images for training, for the warning.

        Raises:
            DataError: another split is asked for, or the set is too small to be divided.
        """
        if split not in ("train", "test"):
            raise DataError(f"'{where}' has no split '{split}': it is divided into 'train' and 'test' when loaded")
        generator = torch.Generator().manual_seed(LONE_SPLIT_SEED)
        held_out = round(LONE_TEST_FRACTION * len(self.labels))
        parts = stratified_split(self.labels, held_out, len(self.class_names), generator)
        if split == "train":
            warnings.warn(
                f"'{where}' has no splits: {len(parts[0])} of its {len(self.labels)} images, 80 %, are for training, "
                f"the others for the test; to train on all of them, {whole}",
                stacklevel=2,
            )
        return self.select(parts[("train", "test").index(split)])


def distinct(values: Any, where: str) -> np.ndarray:
    """Return the distinct labels (integers or strings) in label order: the classes of a set without names.

    Raises:
        DataError: negative labels, or names that a reader cannot tell apart.
    """
    known = np.unique(np.asarray(values))
    if known.dtype.kind == "U":
        return np.array(ordered_classes(known.tolist(), f"labels of '{where}'"), dtype=str)
    if len(known) and known[0] < 0:
        raise DataError(f"'{where}' has the label {known[0]}, which marks images without one: remove them")
    return known


def encode_labels(values: Any, known: np.ndarray, where: str) -> Tensor:
    """Number ``values`` by their place in ``known``.

    Raises:
        DataError: a value is not in ``known``, the labels of the training split.
    """
    values = np.asarray(values)
    strange = np.setdiff1d(values, known)
    if len(strange):
        raise DataError(f"label '{strange[0]}' of '{where}' is no class of the training split: remove or rename it")
    order = np.argsort(known)
    return torch.from_numpy(order[np.searchsorted(known, values, sorter=order)].astype(np.int64))
