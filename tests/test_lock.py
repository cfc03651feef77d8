"""One process at a time works in a folder, and a lock ends with its process."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddkit.base.lock import FILE_NAME, locked
from ddkit.engine import Callback, Run
from ddkit.errors import LockedError
from ddkit.testing import toy_data
from ddkit.training.experts import ExpertSettings, build_buffer

from .engine.runs import small


def child(work: Callable[[], object]) -> int:
    """Fork a process that does ``work`` and ends without any of the parent's clean-up; return its number."""
    number = os.fork()
    if number == 0:
        torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
        try:
            work()
        finally:
            os._exit(0)
    return number


def holder(folder: Path) -> int:
    """Return a process that holds ``folder`` until it is killed."""
    reading, writing = os.pipe()

    def hold() -> None:
        with locked(folder):
            os.write(writing, b".")
            signal.pause()

    number = child(hold)
    os.read(reading, 1)
    return number


def test_folder_in_use_is_refused_by_the_name_of_its_process_until_that_is_killed(tmp_path: Path) -> None:
    number = holder(tmp_path)
    try:
        with pytest.raises(LockedError, match=f"in use by process {number} on {socket.gethostname()}: wait") as error:
            locked(tmp_path).__enter__()
        assert error.value.exit_status == 2 and "\n" not in str(error.value)
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    assert (tmp_path / FILE_NAME).exists()  # which the kill left unlocked
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_processes_that_rush_for_a_folder_enter_one_at_a_time(tmp_path: Path) -> None:
    """A holder removes the locked file when it leaves: nobody may hold the removed file beside the new one."""
    count, folder = tmp_path / "count", tmp_path / "folder"
    count.write_text("0")
    folder.mkdir()

    def enter() -> None:
        done = 0
        while done < 40:
            try:
                with locked(folder):
                    count.write_text(str(int(count.read_text()) + 1))
                    done += 1
            except LockedError:
                continue

    for number in [child(enter) for _ in range(4)]:
        os.waitpid(number, 0)
    assert count.read_text() == "160"


def test_thread_of_the_same_process_is_refused(tmp_path: Path) -> None:
    refused = []

    def enter() -> None:
        try:
            locked(tmp_path).__enter__()
        except LockedError as error:
            refused.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
    assert "another thread" in refused[0]
    with locked(tmp_path):  # given back
        pass


def test_folders_made_for_a_lock_go_with_it_unless_they_are_used(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["kept"]


def test_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("ddkit.base.lock.fcntl.lockf", unsupported)
    with pytest.warns(UserWarning, match="file system without locks"), locked(tmp_path):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
def test_run_at_work_keeps_others_out_and_its_files_alone(resume: bool, tmp_path: Path) -> None:
    out, others = tmp_path / "run", []

    class Intruder(Callback):
        def on_step(self, run: Run) -> None:
            if run.step == 3:
                (out / ".checkpoint.safetensors.abc.tmp").write_bytes(b"being written")
                others.append(os.waitstatus_to_exitcode(os.waitpid(child(self._intrude), 0)[1]))
                assert (out / ".checkpoint.safetensors.abc.tmp").exists()

        def _intrude(self) -> None:
            try:
                small().fit(toy_data(), out=out, resume=resume)
            except LockedError:
                os._exit(7)

    small(callbacks=[Intruder()], checkpoint_every=1).fit(toy_data(), out=out)
    assert others == [7]
    assert not (out / FILE_NAME).exists()


def test_experts_in_training_keep_others_out(tmp_path: Path) -> None:
    settings = ExpertSettings(model="convnet:width=4,depth=2", epochs=1, lr=0.01, batch_size=16)
    number = holder(tmp_path / "experts")
    try:
        with pytest.raises(LockedError, match="in use by process"):
            build_buffer(toy_data(), tmp_path / "experts", settings, 1)
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)
    (tmp_path / "experts" / ".buffer.json.abc.tmp").write_text("half")
    assert build_buffer(toy_data(), tmp_path / "experts", settings, 1).count == 1
    assert sorted(path.name for path in (tmp_path / "experts").iterdir()) == ["buffer.json", "expert-0000.safetensors"]
