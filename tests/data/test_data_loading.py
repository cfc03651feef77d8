"""Is what a user writes for a dataset understood, or refused with a remedy?"""

from __future__ import annotations

from pathlib import Path

import pytest

from ddkit.data import RealData, load
from ddkit.errors import UnknownNameError
from tests.data.image_files import pixels, refused, write_folder


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
