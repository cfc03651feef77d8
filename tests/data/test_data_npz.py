"""Are .npz archives read as written, and damaged ones refused?"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddkit.data import archive, load, load_pair
from tests.data.image_files import channels_first, pixels, refused


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("images", "labels", "test_images", "test_labels"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_npz_with_both_splits_is_read(tmp_path: Path, keys: tuple[str, ...]) -> None:
    train, test = pixels(6), pixels(2, seed=1)
    arrays = dict(zip(keys, (train, [[0], [1]] * 3, test, [[1], [0]]), strict=True))
    np.savez(tmp_path / "set.npz", **arrays)  # type: ignore[arg-type]
    real, held = load_pair(tmp_path / "set.npz")
    assert torch.equal(real.images, channels_first(train)) and torch.equal(held.images, channels_first(test))
    assert real.labels.tolist() == [0, 1] * 3 and held.labels.tolist() == [1, 0]


def test_lone_npz_is_split_and_its_class_names_are_used(tmp_path: Path) -> None:
    np.savez_compressed(
        tmp_path / "set.npz",
        images=pixels(10, channels=1) / 255,
        labels=[0, 1] * 5,
        class_names=["cat", "dog"],
    )
    train, test = load_pair(tmp_path / "set.npz")
    assert (len(train), len(test)) == (8, 2) and train.class_names == ("cat", "dog")
    refused("has no split 'extra'", lambda: load(tmp_path / "set.npz", "extra"))


def test_npz_labels_with_gaps_are_mapped(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", x_train=pixels(4), y_train=[5, 2, 5, 9], x_test=pixels(1), y_test=[9])
    train, test = load_pair(tmp_path / "set.npz")
    assert train.class_names == ("2", "5", "9") and train.labels.tolist() == [1, 0, 1, 2]
    assert test.labels.tolist() == [2]
    refused("has no split 'validation'", lambda: load(tmp_path / "set.npz", "validation"))


def test_bad_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    cases: list[tuple[str, dict[str, Any]]] = [
        (r"no training arrays: name them x_train and y_train, or images and labels \(it has x\)", {"x": 1}),
        ("Object arrays cannot be loaded", {"images": np.array([None]), "labels": [0]}),
        ("6 images but 5 labels", {"images": pixels(6), "labels": [0, 1, 0, 1, 0]}),
        ("labels are torch.float64", {"images": pixels(2), "labels": [0.5, 1.0]}),
        ("label '3' of", {"images": pixels(2), "labels": [0, 3], "class_names": ["a", "b"]}),
        ("empty set", {"images": pixels(0), "labels": []}),
    ]
    for message, arrays in cases:
        np.savez(path, **arrays)
        refused(message, lambda: load(path))
    np.savez(path, images=pixels(40), labels=[0, 1] * 20)
    whole = path.read_bytes()
    for content in (
        b"",
        b"junk",
        whole[:100],
        whole[: len(whole) // 2],
        whole[:300] + b"x" * 100 + whole[400:],
    ):
        path.write_bytes(content)
        refused(r"cannot read '.*set\.npz'", lambda: load(path))
    with path.open("wb") as stream:
        np.save(stream, pixels(2))
    refused("holds one array", lambda: load(path))


def rewritten(path: Path, **claims: str) -> None:
    """Let the headers of the named arrays claim other shapes."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            key = name.removesuffix(".npy")
            if key in claims:
                old = data[data.index(b"'shape': ") + 9 : data.index(b", }")]
                new = claims[key].encode()
                data = data.replace(old + b", }" + b" " * (len(new) - len(old)), new + b", }", 1)
            archive.writestr(name, data)


@pytest.mark.parametrize("form", [str, bytes])
def test_label_strings_are_taken_as_in_parquet(tmp_path: Path, form: type) -> None:
    words = ["dog", "cat", "eel", "cat"]
    labels = np.array([word.encode() for word in words] if form is bytes else words)
    np.savez(tmp_path / "set.npz", x_train=pixels(4), y_train=labels, x_test=pixels(1), y_test=labels[2:3])
    train, test = load_pair(tmp_path / "set.npz")
    assert train.class_names == ("cat", "dog", "eel") and train.labels.tolist() == [1, 0, 2, 0]
    assert test.labels.tolist() == [2]
    names = np.array(["eel", "dog", "cat"])
    np.savez(
        tmp_path / "set.npz",
        x_train=pixels(4),
        y_train=labels[:, None],
        class_names=names,
        x_val=pixels(1),
        y_val=[[b"dog"]],
    )
    with pytest.warns(UserWarning, match="has no test split: 'x_val' is taken for it"):
        train, test = load_pair(tmp_path / "set.npz")
    assert train.class_names == tuple(names) and train.labels.tolist() == [1, 2, 0, 2] and test.labels.tolist() == [1]


def test_strings_of_numbers_are_ordered_by_value(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "set.npz", x_train=pixels(11), y_train=[str(n) for n in range(11)], x_test=pixels(1), y_test=["10"]
    )
    train, test = load_pair(tmp_path / "set.npz")
    assert train.class_names == tuple(map(str, range(11))) and train.labels.tolist() == list(range(11))
    assert test.labels.tolist() == [10]


def test_official_test_arrays_are_taken_and_validation_said(tmp_path: Path) -> None:
    splits = {}
    for split, count in (("train", 6), ("val", 4), ("test", 2)):
        splits |= {f"{split}_images": pixels(count), f"{split}_labels": [[0], [1]] * (count // 2)}
    np.savez(tmp_path / "set.npz", **splits)
    with pytest.warns(UserWarning, match="'test_images' is the test split; 'val_images' is left out"):
        assert len(load_pair(tmp_path / "set.npz")[1]) == 2
    assert len(load(tmp_path / "set.npz", "val")) == 4


def test_an_undivided_archive_says_what_it_holds_back(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=pixels(10), labels=[0, 1] * 5)
    with pytest.warns(UserWarning, match="8 of its 10 images, 80 %, .*save them as x_train and y_train beside x_test"):
        load(tmp_path / "set.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (("images", "labels", "X_test", "Y_test"), "has the array X_test, which looks like a part of a split"),
        (("x_train", "y_train", "x_test"), "has the array x_test, which looks like a part of a split"),
        (("x_train", "y_train", "images", "labels"), "has x_train and images, both for the split train"),
        (("X_train", "y_train"), "has no training arrays"),
    ],
)
def test_arrays_without_a_certain_place_are_refused(tmp_path: Path, arrays: tuple[str, ...], message: str) -> None:
    both: dict[str, Any] = {"x": pixels(4), "y": [0, 1] * 2}
    kinds = {"x": both["x"], "i": both["x"], "y": both["y"], "l": both["y"]}
    np.savez(tmp_path / "set.npz", **{name: kinds[name[0].lower()] for name in arrays})
    refused(message, lambda: load(tmp_path / "set.npz"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": pixels(4).astype(np.uint16)}, "images are torch.uint16: give uint8"),
        ({"images": pixels(4) > 100}, "images are torch.bool"),
        ({"images": (pixels(4) / 255 / 255).astype(np.float32)}, "reach level 1 of 255"),
        (
            {"images": np.where(np.arange(4)[:, None, None] == 3, np.nan, pixels(4, channels=1) / 255)},
            "image 3 holds NaN",
        ),
        ({"labels": np.eye(4, dtype=np.uint8)}, r"labels have shape \(4, 4\): give one class number or name"),
        ({"labels": [0, -1, 0, 1]}, "has the label -1, which marks images without one"),
        ({"labels": ["a", "A", "ab", "AB"]}, "differ only in case"),
        ({"labels": np.array(["a" * 1001, "b"] * 2)}, "takes 4004 bytes each: give shorter names"),
        ({"class_names": ["a", "b", "c", "d", "e"]}, "no class without an image"),
        ({"labels": ["a", "b"] * 2, "class_names": ["a", "a", "b"]}, "holds a name twice"),
        ({"labels": ["a", "c"] * 2, "class_names": ["a", "b"]}, "label 'c' of"),
    ],
)
def test_arrays_that_are_no_labelled_set_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "set.npz", **{"images": pixels(4), "labels": [0, 1] * 2, **arrays})
    refused(message, lambda: load(tmp_path / "set.npz"))


def test_every_order_and_type_of_array_is_read(tmp_path: Path) -> None:
    images = pixels(40, 6, 7)
    for array in (images, np.asfortranarray(images), images.astype(">f4") / 255, np.asfortranarray(images / 255)):
        np.savez_compressed(tmp_path / "set.npz", x_train=array, y_train=[0, 1] * 20, x_test=array[:2], y_test=[0, 1])
        assert torch.equal(load(tmp_path / "set.npz").images, channels_first(images))


def test_a_large_archive_is_read_a_part_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pixels(50, 6, 7)
    np.savez(tmp_path / "set.npz", images=images, labels=[0, 1] * 25)
    expected = load(tmp_path / "set.npz").images
    largest = 0
    genuine = archive._exactly

    def counting(stream: Any, size: int) -> bytearray:
        nonlocal largest
        largest = max(largest, size)
        return genuine(stream, size)

    monkeypatch.setattr(archive, "_exactly", counting)
    monkeypatch.setattr(archive, "_CHUNK_BYTES", 4 * 6 * 7 * 3)
    mapped = load(tmp_path / "set.npz", memory_map_above=0)
    assert mapped.memory_mapped and torch.equal(mapped.images, expected)
    assert largest == max(4 * 6 * 7 * 3, 8 * 50)  # some rows, or the labels


def test_headers_that_claim_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    for claims, message in [
        ({"images": "(4000000000, 6, 5, 3)"}, "array 'images' claims 360000000000 bytes and has 360"),
        ({"images": "(4, 600000000000000000000, 5, 3)"}, "array 'images' claims"),
        ({"labels": "(400000000000,)"}, "array 'labels' claims"),
        ({"images": "(-4, 6, 5, 3)"}, "array 'images' claims"),
        ({"images": "(2, 12, 5, 3)"}, "2 images but 4 labels"),
    ]:
        np.savez(path, images=pixels(4), labels=[0, 1] * 2)
        rewritten(path, **claims)
        refused(message, lambda: load(path))


def test_shapes_are_compared_before_pixels_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "set.npz", images=pixels(6), labels=[0, 1], test_images=pixels(2), test_labels=[0])
    monkeypatch.setattr(archive.Member, "read", lambda self: pytest.fail("an array was read"))
    monkeypatch.setattr(archive.Member, "rows", lambda self: pytest.fail("an array was read"))
    refused("6 images but 2 labels", lambda: load(tmp_path / "set.npz"))


def test_encrypted_and_foreign_archives_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=pixels(4), labels=[0, 1] * 2)
    raw = bytearray(path.read_bytes())
    for start in (raw.index(b"PK\x03\x04") + 6, raw.index(b"PK\x01\x02") + 8):
        raw[start] |= 1
    path.write_bytes(raw)
    refused("cannot read '.*set.npz': .*encrypted", lambda: load(path))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as packed:
        packed.writestr("images.npy", b"\x93NUMPY")
    refused("compressed in a way that NumPy does not write", lambda: load(path))
