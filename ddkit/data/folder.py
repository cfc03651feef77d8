"""How is a folder of class folders read: ``root/<split>/<class>/*``, or undivided ``root/<class>/*``."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ddkit.data.class_names import ordered_classes
from ddkit.data.raw import EncodedImages, Raw
from ddkit.data.split_names import chosen_split, extra_named, splits_among
from ddkit.data.storage import digest
from ddkit.data.tree import ClassFolders, Contents, holds_image, is_image, is_litter, subfolders
from ddkit.errors import DataError

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


def is_class_folder_tree(path: Path) -> bool:
    """Return whether ``path`` holds at least one folder with an image file somewhere below it."""
    return any(holds_image(folder) for folder in subfolders(path).values())


def read_folder(path: Path, split: str) -> Raw:
    """Read one split of a folder of class folders; images lie anywhere below their class folder.

    Folders that are named like splits, in any case and form (``train``, ``Training``, ``seg_test``), divide the set;
    without any the set is undivided and split 80/20 by a fixed seed, which a warning says. "test" is the official
    test split, else the only other split beside "train". Labels are numbered by the training split's class names.

    Raises:
        DataError: no such split, a tree that can be read in two ways, a class that the training split lacks, a class
            folder without images, or links between classes.
    """
    folders = subfolders(path)
    groups = splits_among(folders)
    if not groups:
        classes = ordered_classes(list(folders))
        whole = f"put the class folders into '{path / 'train'}' (and others into '{path / 'test'}')"
        return _read_classes(path, path, classes).lone_part(split, str(path), whole)
    splits = _divided(path, folders, groups)
    train = splits["train"]
    class_names = ordered_classes(list(subfolders(train)))
    place = folders.get(split) if groups.get(split) != "test" else None
    if place is None:
        group = chosen_split({key: folder.name for key, folder in splits.items()}, split, str(path))
        place = splits[group] if group else None
    if place is None:
        raise DataError(f"'{path}' has no folder '{split}': it has {', '.join(sorted(folders))}; add it or name one")
    _check_straight_images(place)
    strange = sorted(set(subfolders(place)) - set(class_names))
    if strange:
        raise DataError(f"class folder '{place / strange[0]}' is no class of '{train}': remove or rename it")
    return _read_classes(path, place, class_names)


def _divided(path: Path, folders: dict[str, Path], groups: dict[str, str]) -> dict[str, Path]:
    """Return the folder of each split.

    Raises:
        DataError: no training split, two folders for one split, the same folder twice, or folders that are no split.
    """
    known = ", ".join(f"'{name}'" for name in sorted(groups))
    answer = f"if {known} is meant as a class, move all class folders into a folder '{path / 'train'}'"
    others = (name for name in folders if name not in groups and extra_named(name) is None)
    stray = [name for name in others if holds_image(folders[name])]
    if stray:
        raise DataError(
            f"'{path}' holds {known}, named like a split, beside '{stray[0]}': move '{stray[0]}' into a split or away; "
            f"{answer}"
        )
    splits: dict[str, Path] = {}
    for name in sorted(groups):
        taken = splits.setdefault(groups[name], folders[name])
        if taken != folders[name]:
            raise DataError(f"'{taken}' and '{folders[name]}' name one split: merge or rename them; {answer}")
    if "train" not in splits:
        raise DataError(f"'{path}' has {known} but no folder train: name the training split train; {answer}")
    real = [os.path.realpath(folder) for folder in splits.values()]
    if len(set(real)) < len(real):
        raise DataError(f"the splits {known} of '{path}' are links to one folder: give each its own images")
    _check_straight_images(splits["train"])
    return splits


def _check_straight_images(split: Path) -> None:
    """Refuse a split whose images lie in no class folder."""
    if any(holds_image(folder) for folder in subfolders(split).values()):
        return
    straight = _images_in(split)
    if straight:
        raise DataError(
            f"'{split}' holds {len(straight)} images ('{straight[0]}') but no class folders: sort them as "
            f"'{split / '<class>'}'; if '{split.name}' is a class, move all class folders into a folder train"
        )


def _images_in(folder: Path) -> list[str]:
    return sorted(child.name for child in folder.iterdir() if is_image(child.name) and not is_litter(child.name))


def _check_classes(path: Path, contents: Mapping[str, Contents]) -> None:
    """Refuse folders that may be splits or kinds of image instead of classes: they hold folders of equal names.

    One folder in each, of the same name ("images"), is no division.

    Args:
        path: where the folders lie.
        contents: by name, what lies straight in them.
    """
    if len(contents) == 1:
        ((name, only),) = contents.items()
        if len(only.folders) > 1 and not only.images:
            raise DataError(
                f"'{path}' holds one folder only, '{name}', and that one folders: name '{path / name}' as the dataset"
            )
    count = Counter(inner for content in contents.values() for inner in content.folders)
    for name, content in contents.items():
        inner = next((inner for inner in content.folders if count[inner] > 1), None)
        if inner and (content.images or len(content.folders) > 1) and holds_image(path / name / inner):
            other = next(key for key, its in contents.items() if key != name and inner in its.folders)
            raise DataError(
                f"'{name}' and '{other}' in '{path}' both hold a folder '{inner}' beside other images, so they may be "
                "classes, splits or kinds of image: name splits train and test, or keep only what is one class in each"
            )


def _read_classes(root: Path, folder: Path, class_names: tuple[str, ...]) -> Raw:
    paths: list[Path] = []
    labels: list[int] = []
    tree = ClassFolders(root)
    for label, name in enumerate(class_names):
        if not (folder / name).is_dir():
            continue
        files = tree.images(folder / name)
        if not files:
            seen = f" (it has '{tree.left_out[-1].name}')" if tree.left_out else ""
            raise DataError(f"class folder '{folder / name}' holds no image{seen}: add images or remove the folder")
        paths += files
        labels += [label] * len(files)
    _check_classes(folder, tree.contents)
    if not paths:
        raise DataError(f"'{folder}' holds no images in class folders: give <class>/<image> files below it")
    _say_left_out(tree.left_out, "an ending that is not read: convert to PNG or JPEG")
    _say_left_out([folder / name for name in _images_in(folder)], "lying in no class folder: move into one")
    return Raw(ImageFiles(paths), torch.tensor(labels), class_names)


def _say_left_out(paths: list[Path], why: str) -> None:
    if paths:
        count = f"{len(paths)} files are" if len(paths) > 1 else "one file is"
        warnings.warn(f"{count} left out, such as '{paths[0]}', for {why}", stacklevel=2)
