"""Is each image of a folder read once, in its class, and nothing that systems and tools leave there?"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest

from ddkit.data import load
from tests.data.image_files import encoded, pixels, refused, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "set" / "train", {name: pixels(3, seed=ord(name)) for name in "abc"})


@pytest.mark.parametrize(
    "place",
    [
        ".ipynb_checkpoints/1.png",
        "@eaDir/0000.png/THUMB.png",
        "__MACOSX/1.png",
        ".git/1.png",
        "#recycle/1.png",
        "._1.png",
    ],
)
@pytest.mark.parametrize("above", ["", "a"])
def test_what_tools_leave_is_no_image(folder: Path, place: str, above: str) -> None:
    before = load(folder.parent).fingerprint
    target = folder / above / place
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "a" / "0000.png", target)
    assert load(folder.parent).fingerprint == before


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/"])
def test_links_back_up_are_not_followed(folder: Path, target: str) -> None:
    before = load(folder.parent).fingerprint
    (folder / "a" / "0up").symlink_to(target)
    (folder / "b" / "deep").mkdir()
    (folder / "b" / "deep" / "up").symlink_to("../" + target if target != "/" else target)
    assert load(folder.parent).fingerprint == before


def test_a_linked_folder_is_read_once(folder: Path, tmp_path: Path) -> None:
    write_folder(tmp_path / "pool", {"more": pixels(4, seed=7)})
    for name in ("one", "two"):
        (folder / "a" / name).symlink_to(tmp_path / "pool" / "more")
    (folder / "d").symlink_to(write_folder(tmp_path / "other", {"d": pixels(2, seed=8)}) / "d")
    assert load(folder.parent).class_counts.tolist() == [7, 3, 3, 2]
    (folder / "b" / "again").symlink_to(tmp_path / "pool" / "more")
    refused("class folders '.*a' and '.*b' share '.*more'", lambda: load(folder.parent))


def test_links_between_classes_and_splits_are_refused(folder: Path) -> None:
    write_folder(folder.parent / "test", {"a": pixels(2, seed=5)})
    (folder / "b" / "x").symlink_to("../../test/a")
    refused("'.*b/x' leads to '.*test/a', another part of the same set", lambda: load(folder.parent))
    (folder / "b" / "x").unlink()
    (folder / "b" / "x").symlink_to("../a")
    refused("another part of the same set", lambda: load(folder.parent))
    (folder / "b" / "x").unlink()
    (folder / "d").symlink_to("a")
    refused("class folders '.*a' and '.*d' share", lambda: load(folder.parent))
    (folder / "d").unlink()
    shutil.rmtree(folder.parent / "test")
    (folder.parent / "test").symlink_to("train")
    refused("are links to one folder", lambda: load(folder.parent, "test"))


def test_links_to_image_files_are_read(folder: Path) -> None:
    (folder / "a" / "z.png").symlink_to("../b/0000.png")
    (folder / "a" / "hard.png").hardlink_to(folder / "c" / "0000.png")
    assert load(folder.parent).class_counts.tolist() == [5, 3, 3]


def test_images_that_are_not_read_are_counted(folder: Path) -> None:
    (folder / "a" / "boxes.txt").write_text("1 2 3")
    (folder / "a" / "Thumbs.db").write_bytes(b"\xd0\xcf")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder.parent)
    (folder / "a" / "noending").write_bytes(encoded(pixels(1)[0]))
    (folder / "a" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "cover.png").write_bytes(encoded(pixels(1)[0]))
    with pytest.warns(UserWarning) as seen:
        assert len(load(folder.parent)) == 9
    texts = [str(warning.message) for warning in seen]
    assert any("2 files are left out, such as '" in text and "an ending that is not read" in text for text in texts)
    assert any("one file is left out, such as" in text and "cover.png" in text for text in texts)


def test_rarer_endings_of_jpeg_are_read(folder: Path) -> None:
    for ending in ("jfif", "jpe", "JPG"):
        (folder / "b" / f"x.{ending}").write_bytes(encoded(pixels(1)[0], "JPEG"))
    assert load(folder.parent).class_counts.tolist() == [3, 6, 3]


def test_a_class_of_other_files_says_what_it_saw(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d" / "1.npy").write_bytes(b"\x93NUMPY")
    refused(r"'.*d' holds no image \(it has '1.npy'\)", lambda: load(folder.parent))
