"""Are folders of class folders read as written, and damaged images refused?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddkit.data import Preprocessing, load, load_pair
from tests.data.image_files import channels_first, pixels, refused, write_folder


@pytest.mark.parametrize("test_name", ["test", "val", "validation", "valid"])
def test_divided_folder_is_read_with_the_training_preprocessing(tmp_path: Path, test_name: str) -> None:
    train = {"dog": pixels(4, seed=1), "cat": pixels(2, seed=2)}
    test = {"dog": pixels(1, seed=3), "cat": pixels(2, seed=4)}
    write_folder(tmp_path / "train", train)
    write_folder(tmp_path / test_name, test)
    real, held = load_pair(tmp_path)
    assert real.class_names == held.class_names == ("cat", "dog")
    assert torch.equal(real.images, channels_first(np.concatenate([train["cat"], train["dog"]])))
    assert torch.equal(held.images, channels_first(np.concatenate([test["cat"], test["dog"]])))
    assert real.labels.tolist() == [0, 0, 1, 1, 1, 1] and held.labels.tolist() == [0, 0, 1]
    assert real.preprocessing == held.preprocessing == Preprocessing.fit(real.images)
    alone = load(str(tmp_path), "test")
    assert alone.preprocessing == real.preprocessing and alone.fingerprint == held.fingerprint
    assert (real.name, real.split, alone.split) == (str(tmp_path), "train", "test")


def test_zca_of_the_test_split_is_that_of_the_training_split(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": pixels(20, 3, 3), "b": pixels(20, 3, 3, seed=1)})
    write_folder(tmp_path / "test", {"a": pixels(2, 3, 3), "b": pixels(2, 3, 3, seed=1)})
    train = load(tmp_path, zca=True)
    assert load(tmp_path, "test", zca=True).preprocessing == train.preprocessing
    assert train.preprocessing.zca_matrix is not None and train.preprocessing.zca_matrix.shape == (27, 27)


def test_other_splits_of_a_folder_are_read_by_name(tmp_path: Path) -> None:
    for split in ("train", "test", "val"):
        write_folder(tmp_path / split, {"a": pixels(2, seed=len(split)), "b": pixels(2)})
    assert load(tmp_path, "val").split == "val"
    assert load(tmp_path, "val").fingerprint != load(tmp_path, "test").fingerprint


def test_undivided_folder_is_split_80_20_the_same_way_each_time(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": pixels(20, seed=1), "b": pixels(10, seed=2)})
    train, test = load_pair(tmp_path)
    assert train.class_counts.tolist() == [16, 8] and test.class_counts.tolist() == [4, 2]
    everything = {image.numpy().tobytes() for part in (train, test) for image in part.images}
    assert len(everything) == 30
    assert load(tmp_path).fingerprint == train.fingerprint


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["10", "9", *map(str, range(9))], [str(n) for n in range(11)]),
        (["7", "10", "3"], ["10", "3", "7"]),
        (["n02", "n01"], ["n01", "n02"]),
    ],
)
def test_class_folders_are_numbered_by_value_or_by_name(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    write_folder(tmp_path / "train", {name: pixels(1, 2, 2, seed=i) for i, name in enumerate(names)})
    real = load(tmp_path)
    assert real.class_names == tuple(expected) and real.labels.tolist() == list(range(len(names)))


def test_nested_hidden_and_other_files_are_handled(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a/images": pixels(2), "b": pixels(2)})
    write_folder(tmp_path / "train", {".cache": pixels(1)})
    (tmp_path / "train" / "a" / "boxes.txt").write_text("1 2 3")
    (tmp_path / "train" / "b" / ".hidden.png").write_bytes(b"")
    assert load(tmp_path).class_counts.tolist() == [2, 2]


def test_grey_images_keep_one_channel_and_mixed_ones_get_three(tmp_path: Path) -> None:
    grey, colour = pixels(40, channels=1), pixels(1)
    write_folder(tmp_path / "grey" / "train", {"a": grey, "b": grey[:1]})
    assert load(tmp_path / "grey").shape == (1, 6, 5)
    write_folder(tmp_path / "mixed" / "train", {"a": grey, "b": colour})
    write_folder(tmp_path / "mixed" / "test", {"a": grey[:2], "b": grey[:1]})
    train, test = load_pair(tmp_path / "mixed")
    assert train.shape == test.shape == (3, 6, 5)
    assert torch.equal(train.images[:40], channels_first(grey).expand(-1, 3, -1, -1))
    assert torch.equal(train.images[40:], channels_first(colour))
    write_folder(tmp_path / "grey" / "test", {"a": colour, "b": colour})
    refused("in colour while those of the training split are grey", lambda: load_pair(tmp_path / "grey"))


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA"),
    "JPEG": ("L", "RGB", "CMYK"),
    "GIF": ("L", "P", "RGB"),
    "TIFF": ("1", "L", "P", "RGB", "RGBA", "CMYK"),
}


@pytest.mark.parametrize(("form", "mode"), [(form, mode) for form, modes in MODES.items() for mode in modes])
def test_pixels_equal_those_of_pillow_in_every_format_and_mode(tmp_path: Path, form: str, mode: str) -> None:
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.fromarray(pixels(1)[0]).convert(mode).save(tmp_path / "train" / name / f"0.{form.lower()}", form)
    with Image.open(tmp_path / "train" / "a" / f"0.{form.lower()}") as image:
        wanted = "L" if image.mode in ("1", "L", "LA") else "RGB"
        expected = channels_first(np.asarray(image.convert(wanted))[None])
    assert torch.equal(load(tmp_path).images[:1], expected)


@pytest.mark.parametrize("size", [8, 32, 64, 224])
def test_jpegs_of_every_size_equal_those_of_pillow(tmp_path: Path, size: int) -> None:
    write_folder(tmp_path / "train", {"a": pixels(2, size, size + 3), "b": pixels(1, size, size + 3)}, "jpg")
    files = sorted((tmp_path / "train").rglob("*.jpg"))
    expected = np.stack([np.asarray(Image.open(file)) for file in files])
    assert torch.equal(load(tmp_path).images, channels_first(expected))


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused("is no dataset", lambda: load(tmp_path / "empty"))
    one = write_folder(tmp_path / "one" / "train", {"a": pixels(2)})
    refused("1 class: at least 2", lambda: load(one.parent))
    (one / "b").mkdir()
    refused("b' holds no image", lambda: load(one.parent))
    write_folder(tmp_path / "two" / "train", {"a": pixels(2), "b": pixels(2)})
    refused("has no folder 'test': it has train", lambda: load(tmp_path / "two", "test"))
    write_folder(tmp_path / "two" / "test", {"a": pixels(2), "c": pixels(2)})
    refused("c' is no class of", lambda: load_pair(tmp_path / "two"))
    flat = write_folder(tmp_path / "flat", {"a": pixels(1), "b": pixels(1)})
    refused("cannot hold out 0 of 2", lambda: load(flat))
    flat = write_folder(tmp_path / "larger", {"a": pixels(10), "b": pixels(10)})
    refused("no split 'extra': it is divided into 'train' and 'test'", lambda: load(flat, "extra"))


def test_mixed_image_sizes_are_refused_naming_both(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": pixels(40), "b": pixels(1, 7, 5)})
    refused(r"b/0000\.png' is 7x5 while '.*a/0000\.png' is 6x5", lambda: load(tmp_path))
    write_folder(tmp_path / "ok" / "train", {"a": pixels(2), "b": pixels(2)})
    write_folder(tmp_path / "ok" / "test", {"a": pixels(2, 9, 9), "b": pixels(2, 9, 9)})
    refused(r"\(3, 6, 5\) in 'train' but \(3, 9, 9\) in 'test'", lambda: load_pair(tmp_path / "ok"))


@pytest.mark.parametrize("form", ["jpg", "png", "bmp"])
def test_damaged_images_are_refused_naming_the_file(tmp_path: Path, form: str) -> None:
    write_folder(tmp_path / "train", {"a": pixels(3, 20, 20), "b": pixels(1, 20, 20)}, form)
    victim = tmp_path / "train" / "a" / f"0001.{form}"
    whole = victim.read_bytes()
    for content in (b"", b"not an image", whole[:4], whole[: len(whole) // 2]):
        victim.write_bytes(content)
        refused(rf"cannot decode image '.*0001\.{form}'", lambda: load(tmp_path))
    victim.unlink()
    victim.symlink_to(tmp_path / "gone")
    refused("cannot decode image", lambda: load(tmp_path))


def test_sixteen_bit_images_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": pixels(1, channels=1).astype(np.uint16), "b": pixels(1, channels=1)})
    refused("mode I;16: convert it to 8 bits", lambda: load(tmp_path))
