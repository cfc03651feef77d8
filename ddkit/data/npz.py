"""How is an ``.npz`` archive read: arrays of images and labels under the usual names, never a pickle."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ddkit.data.checks import images_at_rest, integer_labels
from ddkit.data.decoding import one_line
from ddkit.data.raw import Raw, aliases, distinct, encode_labels
from ddkit.errors import DataError

_LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
}


def read_npz(path: Path, split: str) -> Raw:
    """Read one split of an ``.npz`` archive.

    Arrays ``x_train, y_train, x_test, y_test``, or ``train_images, train_labels, test_images, test_labels``,
    or ``images, labels`` with an optional ``test_images, test_labels``; and an optional ``class_names``.
    Without test arrays the set is split 80/20 by a fixed seed. Images are in any layout and type that
    ``RealData.from_tensors`` takes. Without class names the distinct training labels are the classes.

    Raises:
        DataError: the archive is damaged, lacks the arrays, holds pickled objects, or its arrays are not a
            labelled set.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"'{path}' holds one array: save images and labels together with numpy.savez")
        with archive:
            return _read(archive, path, split)
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read '{path}': {one_line(error)}; save it again with numpy.savez") from error


def _pair(archive: Any, splits: tuple[str, ...]) -> tuple[str, str] | None:
    for name in splits:
        for pair in _LAYOUTS.get(name, ()):
            if pair[0] in archive and pair[1] in archive:
                return pair
    return None


def _read(archive: Any, path: Path, split: str) -> Raw:
    train, chosen = _pair(archive, ("train",)), _pair(archive, aliases(split))
    if train is None:
        raise DataError(
            f"'{path}' has no training arrays: name them x_train and y_train, or images and labels "
            f"(it has {', '.join(archive.files) or 'none'})"
        )
    lone = _pair(archive, aliases("test")) is None
    if chosen is None and not lone:
        raise DataError(f"'{path}' has no split '{split}': it has {', '.join(archive.files)}")
    pair = train if lone or chosen is None else chosen
    images = images_at_rest(archive[pair[0]])
    labels = integer_labels(archive[pair[1]], len(images)).numpy()
    if "class_names" in archive:
        names = tuple(str(name) for name in np.atleast_1d(archive["class_names"]))
        known = np.arange(len(names))
    else:
        known = distinct(labels if pair == train else np.ravel(archive[train[1]]))
        names = tuple(str(value) for value in known)
    raw = Raw(images, encode_labels(labels, known, str(path)), names)
    return raw.lone_part(split, str(path)) if lone else raw
