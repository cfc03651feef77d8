"""What does a source hand over before decoding: labels, class names, and images still to be selected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.data.splits import stratified_split
from ddkit.errors import DataError

LONE_SPLIT_SEED = 0
LONE_TEST_FRACTION = 0.2
TEST_NAMES = ("test", "validation", "val", "valid")


class EncodedImages(ABC):
    """Image files not yet decoded, in the order of their labels."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def select(self, index: Tensor) -> EncodedImages:
        """Return the images at ``index``, int64 ``(n,)`` ascending."""

    @abstractmethod
    def chunks(self) -> Iterator[list[tuple[str, bytes | Path]]]:
        """Yield lists of (name for messages, encoded bytes or path of a file holding them), in order."""

    @abstractmethod
    def key(self) -> str:
        """Return a hex digest that changes when the images do."""


@dataclass(frozen=True)
class Raw:
    """One split as its source gives it.

    Args:
        images: uint8 ``(N, C, H, W)``, or encoded images.
        labels: int64 ``(N,)``.
        class_names: one per class.
    """

    images: Tensor | EncodedImages
    labels: Tensor
    class_names: tuple[str, ...]

    def select(self, index: Tensor) -> Raw:
        """Return the images and labels at ``index``, int64 ``(n,)`` ascending."""
        images = self.images.index_select(0, index) if isinstance(self.images, Tensor) else self.images.select(index)
        return replace(self, images=images, labels=self.labels[index])

    def lone_part(self, split: str, where: str) -> Raw:
        """Return the train (80 %) or test (20 %) part of an undivided set: stratified, by a fixed seed.

        Raises:
            DataError: another split is asked for, or the set is too small to be divided.
        """
        if split not in ("train", "test"):
            raise DataError(f"'{where}' has no split '{split}': it is divided into 'train' and 'test' when loaded")
        generator = torch.Generator().manual_seed(LONE_SPLIT_SEED)
        held_out = round(LONE_TEST_FRACTION * len(self.labels))
        parts = stratified_split(self.labels, held_out, len(self.class_names), generator)
        return self.select(parts[("train", "test").index(split)])


def aliases(split: str) -> tuple[str, ...]:
    """Return the names under which files hold ``split``; "test" may be "validation", "val" or "valid"."""
    return TEST_NAMES if split == "test" else (split,)


def distinct(values: Any) -> np.ndarray:
    """Return the sorted distinct labels (integers or strings): the classes of a set without names."""
    return np.unique(np.asarray(values))


def encode_labels(values: Any, known: np.ndarray, where: str) -> Tensor:
    """Number ``values`` by their place in ``known``.

    Raises:
        DataError: a value is not in ``known``, the labels of the training split.
    """
    values = np.asarray(values)
    strange = np.setdiff1d(values, known)
    if len(strange):
        raise DataError(f"label '{strange[0]}' of '{where}' is no class of the training split: remove or rename it")
    return torch.from_numpy(np.searchsorted(known, values).astype(np.int64))
