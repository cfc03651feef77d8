"""How does a user's word for a dataset (a name or a path) become ``RealData``?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ddkit.data.checks import check_distinct, check_levels, checked_classes
from ddkit.data.decoding import decode_images, one_line
from ddkit.data.folder import is_class_folder_tree, read_folder
from ddkit.data.named import NAMED, read_digits
from ddkit.data.npz import read_npz
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.raw import ArrayImages, Raw
from ddkit.data.real import RealData
from ddkit.data.storage import MEMORY_MAP_ABOVE, MappedFile, data_root, digest, gather_images
from ddkit.data.tree import parquet_files
from ddkit.errors import DataError, unknown_name

_DIGITS_DESCRIPTION = "handwritten digits, 1x8x8, 10 classes, 1347 / 450 images, comes with scikit-learn"
_CHUNK = 1024


@dataclass(frozen=True)
class _Source:
    name: str
    read: Callable[[str], Raw]
    preprocessing: Preprocessing | None = None


def available() -> dict[str, str]:
    """Return the datasets known by name, each with one line about it."""
    return {"digits": _DIGITS_DESCRIPTION, **{name: named.description for name, named in NAMED.items()}}


def locate(root: str | Path | None = None) -> list[dict[str, Any]]:
    """Say where each named dataset is found, without reading or downloading it.

    Args:
        root: folder to look in; None for $DDKIT_DATA or the cache folder.

    Returns:
        one dictionary per name: ``name``, ``found`` (both splits are there), ``form`` ("built in",
        "torchvision", "parquet" or None) and ``where`` (the folder looked in; None for what is built in).
    """
    folder = data_root(root)
    rows: list[dict[str, Any]] = [{"name": "digits", "found": True, "form": "built in", "where": None}]
    for name, named in NAMED.items():
        forms = [named.form(folder, split) for split in ("train", "test")]
        rows.append({"name": name, "found": None not in forms, "form": forms[0], "where": str(folder)})
    return rows


def load(
    spec: str | Path,
    split: str = "train",
    *,
    root: str | Path | None = None,
    download: bool = True,
    zca: bool = False,
    memory_map_above: int = MEMORY_MAP_ABOVE,
) -> RealData:
    """Load one split of a dataset.

    The preprocessing is that of the training split, whichever split is loaded: the field's constants for a
    name of :func:`available` other than "digits", else the channel statistics of the training images; with
    ``zca`` always statistics and whitening fitted on the training images (FRePo's, see
    :meth:`Preprocessing.fit`).

    Args:
        spec: a name of :func:`available`; a folder of class folders; a Parquet file or a folder of them in
            the Hugging Face image layout; or an ``.npz`` archive. A name wins over a path: write "./mnist"
            for the path.
        split: "train", "test", or another that the source has.
        root: folder of the named datasets; None for $DDKIT_DATA or the cache folder.
        download: whether torchvision may download a named dataset that is not in ``root``.
        zca: whether to whiten.
        memory_map_above: size in bytes of decoded images beyond which they lie in a memory-mapped cache file
            (in $DDKIT_CACHE or the user's cache folder; safe to delete) instead of memory.

    Raises:
        UnknownNameError: ``spec`` is neither a known name nor looks like a path.
        DataError: the data is absent, damaged, or not a labelled image set.
    """
    with _readable(spec):
        source = _open_source(spec, root, download)
        if split == "train":
            return _load_train(source, zca, memory_map_above)
        if source.preprocessing is None or zca:
            return _load_beside(source, split, _load_train(source, zca, memory_map_above), memory_map_above)
        return _real(source, source.read(split), split, source.preprocessing, memory_map_above)


def load_pair(
    spec: str | Path,
    *,
    root: str | Path | None = None,
    download: bool = True,
    zca: bool = False,
    memory_map_above: int = MEMORY_MAP_ABOVE,
) -> tuple[RealData, RealData]:
    """Load the training and the test split, both with the training split's preprocessing; see :func:`load`.

    Raises:
        UnknownNameError: ``spec`` is neither a known name nor looks like a path.
        DataError: the data is absent, damaged, not a labelled image set, or the splits differ in image shape.
    """
    with _readable(spec):
        source = _open_source(spec, root, download)
        train = _load_train(source, zca, memory_map_above)
        return train, _load_beside(source, "test", train, memory_map_above)


@contextmanager
def _readable(spec: str | Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        if str(error).splitlines() == [str(error)]:
            raise
        raise DataError(" ".join(str(error).split())) from error  # names of files may hold line breaks
    except OSError as error:
        raise DataError(
            f"cannot read dataset '{str(spec)[:200]}': {one_line(error)}; check that its files exist and may be read"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate" not in str(error):  # torch has no type for a full memory
            raise
        raise DataError(f"dataset '{spec}' does not fit into memory: give fewer or smaller images") from error


def _open_source(spec: str | Path, root: str | Path | None, download: bool) -> _Source:
    name = spec.lower() if isinstance(spec, str) else ""
    if name == "digits":
        return _Source(name, read_digits)
    if name in NAMED:
        named, folder = NAMED[name], data_root(root)
        return _Source(name, lambda split: named.read(folder, split, download), named.preprocessing)
    if not str(spec).strip():
        raise DataError(f"no dataset is named: give a path, or one of {', '.join(sorted(available()))}")
    try:
        path = Path(spec).expanduser()
    except RuntimeError as error:  # the home folder of an unknown user
        raise DataError(f"dataset '{spec}' does not exist: {one_line(error)}; give a full path") from error
    if not path.exists():
        if isinstance(spec, str) and "/" not in spec and not path.suffix:
            raise unknown_name("dataset", spec, available())
        raise DataError(f"dataset '{spec}' does not exist: give a path, or one of {', '.join(sorted(available()))}")
    if path.suffix.lower() == ".npz":
        return _Source(str(spec), partial(read_npz, path))
    if path.suffix.lower() == ".parquet" or (path.is_dir() and parquet_files(path)):
        if path.is_dir() and is_class_folder_tree(path):
            warnings.warn(f"'{spec}' holds Parquet files, which are read, and images, which are left out", stacklevel=4)
        from ddkit.data.parquet import read_parquet  # loads pyarrow

        return _Source(str(spec), partial(read_parquet, path))
    if path.is_dir() and is_class_folder_tree(path):
        return _Source(str(spec), partial(read_folder, path))
    seen = f" (it has {', '.join(sorted(child.name for child in path.iterdir())[:5])})" if path.is_dir() else ""
    raise DataError(
        f"'{spec}' is no dataset{seen}: "
        "give a folder of class folders with images, a Parquet file or folder, or an .npz file"
    )


def _load_train(source: _Source, zca: bool, memory_map_above: int) -> RealData:
    known = None if zca else source.preprocessing
    return _real(source, source.read("train"), "train", known, memory_map_above, zca=zca)


def _load_beside(source: _Source, split: str, train: RealData, memory_map_above: int) -> RealData:
    """Load another split in the form of the training split: its channels, image size and preprocessing."""
    raw = source.read(split)
    other = _real(source, raw, split, train.preprocessing, memory_map_above, channels=train.shape[0])
    if other.class_names != train.class_names:
        raise DataError(
            f"'{source.name}' has the classes {_short(train.class_names)} in 'train' but {_short(other.class_names)} "
            f"in '{split}': give both the same names in the same order"
        )
    if other.shape != train.shape:
        raise DataError(
            f"'{source.name}' has images of shape {train.shape} in 'train' but {other.shape} in '{split}': "
            "resize both to one size first"
        )
    return other


def _short(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")


def _real(
    source: _Source,
    raw: Raw,
    split: str,
    preprocessing: Preprocessing | None,
    memory_map_above: int,
    *,
    zca: bool = False,
    channels: int | None = None,
) -> RealData:
    checked_classes(raw.labels, raw.class_names, None, allow_missing=split != "train")
    images, mapped = _decoded(raw, memory_map_above, channels)
    check_distinct(images, f"{source.name}, {split}")
    check_levels(images, f"{source.name}, {split}")
    preprocessing = preprocessing or Preprocessing.fit(images, zca=zca)
    return RealData(images, raw.labels, raw.class_names, preprocessing, source.name, split, mapped)


def _decoded(raw: Raw, memory_map_above: int, channels: int | None) -> tuple[Tensor, MappedFile | None]:
    if isinstance(raw.images, ArrayImages):
        return gather_images(raw.images.chunks(), raw.images.shape, raw.images.key, memory_map_above)
    if not isinstance(raw.images, Tensor):
        return decode_images(raw.images, memory_map_above, channels)
    images = raw.images
    if images.nbytes <= memory_map_above:
        return images, None
    count, depth, height, width = images.shape
    return gather_images(images.split(_CHUNK), (count, depth, height, width), partial(digest, images), memory_map_above)
