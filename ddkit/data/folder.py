"""How is a folder of class folders read: ``root/<split>/<class>/*``, or undivided ``root/<class>/*``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ddkit.data.raw import EncodedImages, Raw, aliases
from ddkit.data.storage import digest
from ddkit.errors import DataError

EXTENSIONS = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"))
_CHUNK = 512


class ImageFiles(EncodedImages):
    """Image files by path."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def select(self, index: Tensor) -> ImageFiles:
        return ImageFiles([self.paths[i] for i in index.tolist()])

    def chunks(self) -> Iterator[list[tuple[str, bytes | Path]]]:
        for start in range(0, len(self.paths), _CHUNK):
            yield [(str(path), path) for path in self.paths[start : start + _CHUNK]]

    def key(self) -> str:
        stats = ((path.resolve(), path.stat()) for path in self.paths)
        return digest(*(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats))


def _subfolders(folder: Path) -> dict[str, Path]:
    return {child.name: child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")}


def ordered_classes(names: list[str]) -> tuple[str, ...]:
    """Return class names in label order: by number when they are 0 ... K-1, else alphabetically."""
    if all(name.isascii() and name.isdigit() for name in names):
        by_number = sorted(names, key=int)
        if [int(name) for name in by_number] == list(range(len(names))):
            return tuple(by_number)
    return tuple(sorted(names))


def is_class_folder_tree(path: Path) -> bool:
    """Return whether ``path`` holds at least one folder with an image file somewhere below it."""
    return any(next(_image_files(folder), None) is not None for folder in _subfolders(path).values())


def _image_files(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in EXTENSIONS and not name.startswith("."):
                yield Path(parent) / name


def read_folder(path: Path, split: str) -> Raw:
    """Read one split of a folder of class folders; images lie anywhere below their class folder.

    Without a ``train`` folder that holds folders, the set is undivided and split 80/20 by a fixed seed.
    "test" is also sought as "validation", "val" or "valid". Labels are numbered by the training split's class
    names.

    Raises:
        DataError: no such split, a class that the training split lacks, or a class folder without images.
    """
    folders = _subfolders(path)
    divided = "train" in folders and bool(_subfolders(folders["train"]))
    train = folders["train"] if divided else path
    class_names = ordered_classes(list(_subfolders(train)))
    if not divided:
        return _read_classes(path, class_names).lone_part(split, str(path))
    chosen = next((folders[name] for name in aliases(split) if name in folders), None)
    if chosen is None:
        raise DataError(f"'{path}' has no folder '{split}': it has {', '.join(sorted(folders))}; add it or name one")
    strange = sorted(set(_subfolders(chosen)) - set(class_names))
    if strange:
        raise DataError(f"class folder '{chosen / strange[0]}' is no class of '{train}': remove or rename it")
    return _read_classes(chosen, class_names)


def _read_classes(folder: Path, class_names: tuple[str, ...]) -> Raw:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue
        files = list(_image_files(folder / name))
        if not files:
            raise DataError(f"class folder '{folder / name}' holds no image: add images or remove the folder")
        paths += files
        labels += [label] * len(files)
    if not paths:
        raise DataError(f"'{folder}' holds no images in class folders: give <class>/<image> files below it")
    return Raw(ImageFiles(paths), torch.tensor(labels), class_names)
