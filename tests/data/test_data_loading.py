"""Is what a user writes for a dataset understood, or refused with a remedy?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ddkit.data import RealData, load, load_pair
from ddkit.errors import DataError, UnknownNameError
from tests.data.image_files import encoded, pixels, refused, write_folder, write_parquet


def test_unknown_names_and_absent_paths_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load("cifar-10")
    refused("does not exist: give a path, or one of cifar10", lambda: load(tmp_path / "nowhere"))
    refused("does not exist", lambda: load("nowhere.npz"))
    (tmp_path / "notes.txt").write_text("hello")
    refused("is no dataset: give a folder of class folders", lambda: load(tmp_path / "notes.txt"))


def test_unreadable_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "train", {"a": pixels(2), "b": pixels(2)})

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    refused("cannot read dataset .*Permission denied", lambda: load(tmp_path))


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_folder(tmp_path / "set" / "train", {"a": pixels(2), "b": pixels(2)})
    assert isinstance(load("~/set"), RealData)


@pytest.mark.parametrize(
    "spec", ["", " ", Path("/nowhere/at/all"), "a\0b.npz", "~nobody-at-all/x.npz", "x/" + "y" * 5000]
)
def test_specs_that_name_nothing_are_refused(spec: str | Path) -> None:
    refused("no dataset is named|does not exist|cannot read dataset", lambda: load(spec))


def test_what_a_folder_holds_is_said(tmp_path: Path) -> None:
    (tmp_path / "train.npz").write_bytes(b"")
    refused(r"is no dataset \(it has train.npz\)", lambda: load(tmp_path))


def test_no_remedy_names_an_argument_of_a_function(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [encoded(i) for i in pixels(6)], [1, 3] * 3, names=["a", "b", "c", "d"])
    with pytest.raises(
        DataError, match=r"class 0 \('a'\), 2 \('c'\) has no image: add images, or remove its name"
    ) as caught:
        load(tmp_path)
    assert "allow_missing" not in str(caught.value)


def test_line_breaks_in_names_stay_out_of_messages(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a\nb": pixels(2), "c": pixels(2)})
    (tmp_path / "train" / "a\nb" / "bad.png").write_bytes(b"junk")
    refused("cannot decode image '.*a b/bad.png'", lambda: load(tmp_path))


def test_splits_with_other_classes_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_train=pixels(4), y_train=["a", "b"] * 2, x_test=pixels(2), y_test=["a", "c"])
    refused("label 'c' of .* is no class of the training split", lambda: load_pair(tmp_path / "x.npz"))
