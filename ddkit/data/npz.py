"""How is an ``.npz`` archive read: arrays of images and labels under the usual names, never a pickle."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddkit.data.archive import Member, members
from ddkit.data.checks import images_at_rest, integer_labels, shape_at_rest
from ddkit.data.decoding import one_line
from ddkit.data.raw import ArrayImages, Raw, distinct, encode_labels
from ddkit.data.split_names import chosen_split, split_named
from ddkit.data.storage import digest
from ddkit.errors import DataError

_LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
}
_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, OverflowError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
_LONGEST_NAME = 1000


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except _DAMAGED as error:  # RuntimeError: encrypted, or a method of compression that is not there
        raise DataError(f"cannot read '{path}': {one_line(error)}; save it again with numpy.savez") from error


class NpzImages(ArrayImages):
    """The rows of an image array in an archive, read a part at a time.

    Args:
        member: in any layout that :func:`~ddkit.data.checks.images_at_rest` takes.
        rows: int64, ascending: which of them; None for all.
    """

    def __init__(self, member: Member, rows: Tensor | None = None) -> None:
        self.member = member
        self.rows = torch.arange(member.shape[0]) if rows is None else rows
        self.shape = (len(self.rows), *shape_at_rest(member.shape))

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, index: Tensor) -> NpzImages:
        return NpzImages(self.member, self.rows[index])

    def chunks(self) -> Iterator[Tensor]:
        wanted, offset = self.rows.numpy(), 0
        with _readable(self.member.archive):
            for part in self.member.rows():
                images = images_at_rest(part, offset)
                first, last = np.searchsorted(wanted, [offset, offset + len(part)])
                if first < last:
                    yield images.index_select(0, torch.from_numpy(wanted[first:last] - offset))
                offset += len(part)

    def key(self) -> str:
        stat = self.member.archive.stat()
        where = f"{self.member.archive.resolve()} {stat.st_size} {stat.st_mtime_ns} {self.member.name}"
        return digest(where, self.rows)


def read_npz(path: Path, split: str) -> Raw:
    """Read one split of an ``.npz`` archive.

    Arrays ``x_train, y_train, x_test, y_test``, or ``train_images, train_labels, test_images, test_labels``,
    or ``images, labels`` with an optional ``test_images, test_labels``; and an optional ``class_names``.
    Without test arrays the set is split 80/20 by a fixed seed, which a warning says. Images are in any layout and
    type that ``RealData.from_tensors`` takes; labels are integers or strings. Without class names the distinct
    training labels are the classes.

    Raises:
        DataError: the archive is damaged, lacks the arrays, has others that look like a split, holds pickled objects,
            or its arrays are not a labelled set.
    """
    with _readable(path):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as stream:
                if stream.read(6) == b"\x93NUMPY":
                    raise DataError(f"'{path}' holds one array: save images and labels together with numpy.savez")
        arrays = members(path)
        pairs = _pairs(arrays, path)
        group = chosen_split({key: images.name for key, (images, _) in pairs.items()}, split, str(path))
        lone = pairs.keys() == {"train"}
        if group is None and not lone:
            raise DataError(f"'{path}' has no split '{split}': it has {', '.join(arrays)}")
        pair = pairs["train" if lone or group is None else group]
        images = NpzImages(pair[0])
        known, names = _classes(arrays, pairs["train"][1], path)
        labels = encode_labels(_labels(pair[1]), known, str(path))
        raw = Raw(images, labels, names)
    return raw.lone_part(split, str(path), "save them as x_train and y_train beside x_test and y_test") if lone else raw


def _pairs(arrays: Mapping[str, Member], path: Path) -> dict[str, tuple[Member, Member]]:
    """Return the image and the label array of each split.

    Raises:
        DataError: none for training, several for one split, or other arrays that look like a split.
    """
    left, pairs = set(arrays), {}
    for group, layouts in _LAYOUTS.items():
        there = [pair for pair in layouts if left.issuperset(pair)]
        if len(there) > 1:
            raise DataError(f"'{path}' has {there[0][0]} and {there[1][0]}, both for the split {group}: keep one")
        for pair in there:
            pairs[group] = (arrays[pair[0]], arrays[pair[1]])
            left -= set(pair)
    listed = ", ".join(arrays) or "none"
    if "train" not in pairs:
        raise DataError(
            f"'{path}' has no training arrays: name them x_train and y_train, or images and labels (it has {listed})"
        )
    hint = next((name for name in sorted(left) if split_named(name)), None)
    if hint is not None:
        raise DataError(
            f"'{path}' has the array {hint}, which looks like a part of a split but has no place in one: name arrays "
            f"as in x_train, y_train, x_test, y_test (it has {listed})"
        )
    for images, labels in pairs.values():
        if images.shape[:1] != labels.shape[:1]:
            count = [member.shape[0] if member.shape else 0 for member in (images, labels)]
            raise DataError(f"'{path}': {count[0]} images but {count[1]} labels: give one label per image")
    return pairs


def _labels(member: Member) -> np.ndarray:
    """Return the labels as int64 or strings ``(N,)``."""
    count = member.shape[0] if member.shape else 0
    if member.shape not in ((count,), (count, 1)):
        raise DataError(f"labels have shape {member.shape}: give one class number or name per image, shape (N,)")
    if member.dtype.kind in "US":
        return _text(member).reshape(count)
    return integer_labels(member.read(), count).numpy()


def _text(member: Member) -> np.ndarray:
    if member.dtype.itemsize > 4 * _LONGEST_NAME:
        raise DataError(f"the text in '{member.name}' takes {member.dtype.itemsize} bytes each: give shorter names")
    values = member.read()
    return np.char.decode(values, "utf-8") if member.dtype.kind == "S" else values.astype(str)


def _classes(arrays: Mapping[str, Member], train: Member, path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels of the training split that are numbered 0, 1, ..., and the names of the classes."""
    given = arrays.get("class_names")
    if given is None:
        known = distinct(_labels(train), str(path))
        return known, tuple(str(value) for value in known)
    if given.dtype.kind not in "USiu" or len(given.shape) != 1 or given.shape[0] > train.shape[0]:
        raise DataError(
            f"class_names of '{path}' is {given.dtype} of shape {given.shape} for {train.shape[0]} images: "
            "give one name per class, and no class without an image"
        )
    names = _text(given)
    if train.dtype.kind not in "US":
        return np.arange(len(names)), tuple(names.tolist())
    if len(set(names.tolist())) < len(names):
        raise DataError(f"class_names of '{path}' holds a name twice: give each class a name of its own")
    return names, tuple(names.tolist())
