"""Which image files lie below a class folder: each real folder once, without what systems and tools leave there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ddkit.data.split_names import is_division
from ddkit.errors import DataError

EXTENSIONS = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff"),
        ".webp",
    )
)
_OTHER_IMAGES = frozenset(
    (
        *(".dcm", ".dib", ".dng", ".exr", ".hdr", ".heic", ".heif", ".ico", ".j2k", ".jp2", ".jxl", ".mha", ".nii"),
        *(".npy", ".pcx", ".pnm", ".psd", ".raw", ".svg", ".tga"),
    )
)
_LITTER = frozenset(
    (
        *("__macosx", "__pycache__", "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("$recycle.bin", "lost+found", "system volume information"),
    )
)
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*")
_BRANDS = (b"avif", b"heic", b"heix", b"mif1", b"msf1")


def is_litter(name: str) -> bool:
    """Return whether a file or folder of this name is no part of a dataset."""
    return name.startswith(".") or name.lower() in _LITTER


def is_image(name: str) -> bool:
    """Return whether a file of this name is read as an image."""
    return os.path.splitext(name)[1].lower() in EXTENSIONS


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders in ``folder`` by name, without litter."""
    return {child.name: child for child in sorted(folder.iterdir()) if child.is_dir() and not is_litter(child.name)}


def walk(
    top: Path, enter: Callable[[Path, Path], bool] = lambda place, real: True
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """Yield (folder, names of its folders, names of its files), parents first, all sorted.

    Links are followed, but not back up, and each real folder is visited once.

    Args:
        top: where to start.
        enter: asked with a folder and its real path before it is opened.
    """
    waiting, visited, start = [top], set(), Path(os.path.realpath(top))
    while waiting:
        place = waiting.pop()
        real = Path(os.path.realpath(place))
        if real in visited or (place != top and start.is_relative_to(real)) or not enter(place, real):
            continue
        visited.add(real)
        folders: list[str] = []
        files: list[str] = []
        with os.scandir(place) as entries:
            for entry in entries:
                if not is_litter(entry.name):
                    (folders if entry.is_dir() else files).append(entry.name)
        yield place, sorted(folders), sorted(files)
        waiting += [place / name for name in sorted(folders, reverse=True)]


def parquet_files(path: Path) -> list[Path]:
    """Return the Parquet files in a folder or up to two levels below it, sorted."""
    near = walk(path, lambda place, _: len(place.relative_to(path).parts) <= 2)
    found = (place / name for place, _, names in near for name in names)
    return sorted(file for file in found if file.suffix.lower() == ".parquet")


def holds_image(folder: Path) -> bool:
    """Return whether an image file lies anywhere below ``folder``."""
    return any(is_image(name) for _, _, files in walk(folder) for name in files)


@dataclass(frozen=True)
class Contents:
    """What lies straight in a folder: the names of its folders, and whether there are images."""

    folders: tuple[str, ...]
    images: bool


class ClassFolders:
    """The class folders of one split, visited in label order.

    Args:
        root: the folder of the whole set.

    Attributes:
        left_out: image-like files that were met and are not read.
        contents: what lies straight in each class folder, by its name.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.realpath(root))
        self.left_out: list[Path] = []
        self.contents: dict[str, Contents] = {}
        self._class_of: dict[Path, Path] = {}

    def images(self, folder: Path) -> list[Path]:
        """Return the image files below one class folder.

        A link that leads back up is not followed.

        Raises:
            DataError: a folder that belongs to another class or split too, or folders that are named like splits.
        """
        found: list[Path] = []
        for place, names, files in walk(folder, lambda place, real: self._belongs(place, real, folder)):
            if names and is_division(names):
                raise DataError(
                    f"'{place}' holds the splits {', '.join(names[:5])}, so '{folder}' is no class: name the folder "
                    "that holds the splits as the dataset, or sort the images as <split>/<class>/<image>"
                )
            found += [place / name for name in files if is_image(name)]
            if place == folder:
                self.contents[folder.name] = Contents(tuple(names), bool(found))
            self.left_out += [place / name for name in files if not is_image(name) and _is_other_image(place / name)]
        return found

    def _belongs(self, place: Path, real: Path, folder: Path) -> bool:
        """Return whether ``place`` is to be read as part of the class ``folder``, or leads back up."""
        own = Path(os.path.realpath(folder))
        if place != folder and (self.root.is_relative_to(real) or own.is_relative_to(real)):
            return False
        if real.is_relative_to(self.root) and not real.is_relative_to(own):
            raise DataError(f"'{place}' leads to '{real}', another part of the same set: remove the link")
        other = self._class_of.setdefault(real, folder)
        if other != folder:
            raise DataError(f"class folders '{other}' and '{folder}' share '{real}': remove one of the links")
        return True


def _is_other_image(path: Path) -> bool:
    if path.suffix.lower() in _OTHER_IMAGES:
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except OSError:
        return False
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or head[8:12] in _BRANDS
