"""A run that was killed goes on as if nothing had happened; a checkpoint is whole or it is refused."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.base.checkpoint import flatten, load_checkpoint, restore, save_checkpoint
from ddkit.engine.run import RunFolder
from ddkit.errors import CheckpointError

from .runs import CASES, Kill, leftovers, run_case, run_in_folder, small, steps_of, toy_data


@pytest.fixture(scope="module")
def whole() -> dict[str, bytes]:
    """The artifact of every case, from a run in memory that nothing disturbed."""
    return {case: run_case(case).to_bytes() for case in CASES}


@pytest.fixture(scope="module")
def server() -> Any:
    """Processes start from a server that has imported everything already, so that a test can afford many."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.engine.runs", "ddkit.evaluation", "ddkit.engine", "ddkit.augment.siamese"])
    return context


@pytest.mark.parametrize("case", CASES)
def test_run_killed_at_arbitrary_moments_ends_with_the_same_bytes(case, whole, server, tmp_path: Path) -> None:
    out = tmp_path / "run"
    moments = random.Random(case)
    killed = 0
    for _ in range(3):
        process = server.Process(target=run_in_folder, args=(case, str(out)))
        process.start()
        deadline = time.monotonic() + 60
        # Wait until there is something to go on from, then strike at a random moment of the work that follows.
        while not out.is_dir() and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(moments.uniform(0.0, 0.15))
        process.kill()  # SIGKILL: no handler, no finally
        process.join()
        killed += process.exitcode == -9
    assert killed >= 1
    assert run_case(case, out).to_bytes() == whole[case]
    assert (out / "distilled.safetensors").read_bytes() == whole[case]
    assert leftovers(out) == []
    steps = steps_of(out)
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("every", [1, 3])
def test_run_stopped_after_any_step_ends_with_the_same_bytes(case, every, whole, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for step in (2, 3, 6, 7):
        with suppress(KeyboardInterrupt):
            run_case(case, out, Kill(step), every=every)
    assert run_case(case, out, every=every).to_bytes() == whole[case]
    assert len(set(steps_of(out))) == len(steps_of(out))


def test_finished_run_is_not_run_again(tmp_path: Path, whole) -> None:
    out = tmp_path / "run"
    run_case("dm", out)
    assert run_case("dm", out, Kill(1)).to_bytes() == whole["dm"]
    assert not (out / "checkpoint.safetensors").exists()


def test_run_killed_before_its_summary_writes_the_summary_when_resumed(tmp_path: Path, whole, monkeypatch) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", lambda self, summary: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_case("dm", out)
    assert (out / "distilled.safetensors").is_file() and not (out / "run.json").exists()
    assert run_case("dm", out).to_bytes() == whole["dm"]
    assert (out / "run.json").is_file()


STATE = {
    "tensor": torch.arange(3.0, dtype=torch.float64),
    "nested": {0: {"step": torch.tensor(2.0)}, "betas": (0.9, 0.999), "none": None, "flag": True, "text": "é"},
    "list": [1, 2.5, torch.zeros(2, 0 + 1, dtype=torch.uint8)],
}


def test_state_survives_the_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.safetensors", STATE)
    loaded = load_checkpoint(tmp_path / "c.safetensors")
    assert torch.equal(loaded["tensor"], STATE["tensor"]) and loaded["tensor"].dtype == torch.float64
    assert loaded["nested"][0]["step"] == 2.0
    assert loaded["nested"]["betas"] == [0.9, 0.999]
    assert (loaded["nested"]["none"], loaded["nested"]["flag"], loaded["nested"]["text"]) == (None, True, "é")
    assert loaded["list"][:2] == [1, 2.5] and loaded["list"][2].dtype == torch.uint8


def test_structure_is_restored_without_a_file() -> None:
    tensors, structure = flatten(STATE)
    assert restore(tensors, structure)["nested"][0]["step"] == 2.0


def test_values_that_no_checkpoint_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold a set"):
        save_checkpoint(tmp_path / "c.safetensors", {"a": {1, 2}})
    with pytest.raises(CheckpointError, match="cannot save the state"):
        save_checkpoint(tmp_path / "c.safetensors", {"a": torch.tensor([float("nan")])})
    with pytest.raises(CheckpointError, match="cannot save the state"):
        save_checkpoint(tmp_path / "c.safetensors", {"a": float("inf")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "text"])
def test_damaged_checkpoint_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, STATE)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[:-7]
    elif damage == "flipped":
        content[-5] ^= 1
    else:
        content = bytearray(b"" if damage == "empty" else b"not a checkpoint at all")
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="cannot read checkpoint") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_damaged_checkpoint_stops_a_resumed_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with suppress(KeyboardInterrupt):
        run_case("dm", out, Kill(4))
    checkpoint = out / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="checkpoint"):
        run_case("dm", out)
    assert not (out / "distilled.safetensors").exists()


def _full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("target", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_bytes", "os.open"])
def test_full_disk_keeps_the_previous_checkpoint_and_no_temporary_file(target, tmp_path, monkeypatch, whole) -> None:
    out = tmp_path / "run"
    with suppress(KeyboardInterrupt):
        run_case("dm", out, Kill(4))
    before = (out / "checkpoint.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("ddkit.engine.resume.Checkpoints.restore", _then_fill_the_disk(patch, target))
        with pytest.raises(CheckpointError, match="No space left on device") as error:
            run_case("dm", out)
    assert "\n" not in str(error.value)
    assert (out / "checkpoint.safetensors").read_bytes() == before
    assert leftovers(out) == []
    assert run_case("dm", out).to_bytes() == whole["dm"]


def _then_fill_the_disk(patch: pytest.MonkeyPatch, target: str) -> Any:
    from ddkit.engine.callbacks import JsonlMetrics
    from ddkit.engine.resume import Checkpoints

    original = Checkpoints.restore

    def restore_and_fill(self: Checkpoints) -> None:
        original(self)
        patch.setattr(JsonlMetrics, "on_start", lambda self, run: setattr(self, "_interval", 1))
        patch.setattr(target, _full)

    return restore_and_fill


def test_full_disk_while_metrics_are_written_is_a_checkpoint_error(tmp_path: Path, monkeypatch) -> None:
    opened = Path.open

    def full(self: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return _full() if mode == "a" else opened(self, mode, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl.*No space left"):
        small().fit(toy_data(), out=tmp_path / "run")


def test_checkpoints_follow_the_clock_without_a_number_of_steps(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("ddkit.engine.resume.INTERVAL_SECONDS", 1e9)
    with suppress(KeyboardInterrupt):
        run_case("dm", tmp_path / "never", Kill(4), every=None)
    assert not (tmp_path / "never" / "checkpoint.safetensors").exists()
    monkeypatch.setattr("ddkit.engine.resume.INTERVAL_SECONDS", -1.0)
    with suppress(KeyboardInterrupt):
        run_case("dm", tmp_path / "always", Kill(4), every=None)
    assert load_checkpoint(tmp_path / "always" / "checkpoint.safetensors")["step"] == 3
