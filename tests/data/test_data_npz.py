"""Are .npz archives read as written, and damaged ones refused?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddkit.data import load, load_pair
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
        ("labels of type ndarray", {"images": pixels(2), "labels": ["a", "b"]}),
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
