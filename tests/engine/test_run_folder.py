"""The folder of a run: claimed once, left alone when it holds something else, complete at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddkit.base.device import resolve_device
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import Callback, Run, RunFolder
from ddkit.errors import CheckpointError, ConfigError

from .runs import Kill, small, toy_data


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def killed_run(out: Path, **options) -> None:
    with pytest.raises(KeyboardInterrupt):
        small(callbacks=[Kill(4)], checkpoint_every=2, **options).fit(toy_data(), out=out)


def test_finished_run_holds_everything(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    distilled = small(device="auto", steps=3, checkpoint_every=1).fit(toy_data(), out=out, command="ddkit distill ...")
    assert sorted(content_of(out)) == ["config.json", "distilled.safetensors", "metrics.jsonl", "run.json"]
    assert DistilledDataset.load(out).to_bytes() == distilled.to_bytes()
    summary = json.loads((out / "run.json").read_text())
    assert (summary["method"], summary["steps"], summary["state"]) == ("dm", 3, "finished")
    assert summary["command"] == "ddkit distill ..."
    assert summary["seconds"] > 0 and summary["peak_memory_bytes"] > 2**20
    assert {"ddkit", "torch", "python"} <= set(summary["versions"])
    assert RunFolder(out).finished


def test_summary_names_the_device_that_was_used(tmp_path: Path) -> None:
    small(device="auto", steps=1).fit(toy_data(), out=tmp_path / "run")
    device = json.loads((tmp_path / "run" / "run.json").read_text())["hardware"]["device"]
    assert device != "auto"
    if resolve_device("auto").type == "cpu":
        assert device == "cpu"


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    before = content_of(tmp_path)
    for resume in (False, True):
        with pytest.raises(ConfigError, match="is not empty and holds no run"):
            small().fit(toy_data(), out=tmp_path, resume=resume)
    assert content_of(tmp_path) == before


def test_other_run_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed_run(out)
    before = content_of(out)
    with pytest.raises(ConfigError, match="holds another run: add --resume"):
        small().fit(toy_data(), out=out)
    with pytest.raises(ConfigError, match="was started with seed=0, not 1"):
        small(seed=1).fit(toy_data(), out=out, resume=True)
    with pytest.raises(ConfigError, match="was started on other data"):
        small().fit(toy_data(seed=8), out=out, resume=True)
    assert content_of(out) == before


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is a file: choose another"):
        small().fit(toy_data(), out=path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("made", [False, True])
def test_resume_without_a_run_starts_one(made: bool, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if made:
        out.mkdir()
    started = small().fit(toy_data(), out=out, resume=True)
    assert started.to_bytes() == small().fit(toy_data()).to_bytes()
    assert started.to_bytes() == small().fit(toy_data(), out=out, resume=True).to_bytes()


def test_finished_run_loses_what_a_kill_left_behind(tmp_path: Path) -> None:
    out = tmp_path / "run"
    small().fit(toy_data(), out=out)
    before = content_of(out)
    for name in ("checkpoint.safetensors", ".config.json.abc.tmp", ".run.json.abc.tmp"):
        (out / name).write_bytes(b"half")
    small().fit(toy_data(), out=out, resume=True)
    assert content_of(out) == before


def test_configuration_removed_while_the_run_works_is_a_failed_run_with_its_result(tmp_path: Path) -> None:
    class Vandal(Callback):
        def on_step(self, run: Run) -> None:
            (tmp_path / "run" / "config.json").unlink(missing_ok=True)

    with pytest.raises(CheckpointError, match=r"config\.json' was removed .* result is complete in") as error:
        small(callbacks=[Vandal()]).fit(toy_data(), out=tmp_path / "run")
    assert error.value.exit_status == 1
    assert DistilledDataset.load(tmp_path / "run" / "distilled.safetensors").metadata["steps"] == 9


def test_data_that_have_moved_keep_their_name_in_the_result(tmp_path: Path) -> None:
    whole, out = small().fit(toy_data(), data_spec="here"), tmp_path / "run"
    killed_run(out)
    moved = toy_data()
    moved.name = "/somewhere/else"
    assert small().fit(moved, out=out, resume=True, data_spec="/somewhere/else").to_bytes() == whole.to_bytes()


def test_bad_settings_leave_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        small(model="no-such-model").fit(toy_data(), out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_temporary_files_of_a_killed_process_are_removed_on_resume(tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed_run(out)
    (out / ".checkpoint.safetensors.abc123.tmp").write_bytes(b"half")
    (out / ".note.tmp").write_text("not ours")
    small().fit(toy_data(), out=out, resume=True)
    assert [path.name for path in out.iterdir() if path.suffix == ".tmp"] == [".note.tmp"]


def test_folder_with_nothing_but_a_half_written_configuration_counts_as_empty(tmp_path: Path) -> None:
    (tmp_path / ".config.json.abc123.tmp").write_bytes(b"{")
    assert small(steps=1).fit(toy_data(), out=tmp_path).metadata["steps"] == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"config": {}}', '{"config": {"ipc": 0}, "data": {"spec": "x"}}'])
def test_damaged_configuration_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json' is damaged") as error:
        RunFolder(tmp_path).read()
    assert "\n" not in str(error.value)


def test_configuration_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        RunFolder(tmp_path).read()


@pytest.mark.parametrize("name", ["nonsense", "cuda:99"])
def test_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        resolve_device(name)
