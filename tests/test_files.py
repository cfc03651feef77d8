"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from ddkit.base.files import temporary_pattern, write_atomically, write_text
from ddkit.errors import CheckpointError


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_text_is_written_with_its_folders(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a" / "b.txt", "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


@pytest.mark.parametrize("target", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_text", "os.open"])
def test_full_disk_leaves_the_old_file_and_no_other(target: str, tmp_path: Path, monkeypatch) -> None:
    path = write_text(tmp_path / "a.txt", "old")
    with monkeypatch.context() as patch:
        patch.setattr(target, full)
        with pytest.raises(CheckpointError, match="No space left on device; nothing was overwritten") as error:
            write_text(path, "new")
    assert "\n" not in str(error.value)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_half_written_content_never_shows(tmp_path: Path) -> None:
    path = write_text(tmp_path / "a.txt", "old")

    def stop_half_way(temporary: Path) -> None:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert list(tmp_path.glob(temporary_pattern(path))) == [temporary]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, stop_half_way)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("a.txt", "old")]


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"cannot write '.*file/a\.txt'"):
        write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        path = write_text(tmp_path / "a.txt", "x")
        write_text(path, "written again")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
