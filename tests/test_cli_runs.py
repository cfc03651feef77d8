"""Runs on the command line: one command starts and continues, data move, logs tell how far it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from ddkit.base.progress import Lines
from ddkit.engine import RunFolder
from ddkit.evaluation import read_evaluation
from ddkit.testing import toy_data

from .test_cli import EVALUATE, SMALL, Command, content, ddkit, stop_after

__all__ = ["ddkit"]
TOY = ("distill", "--method", "dm", "--ipc", "1", "--steps", "3", *SMALL, "--set", "augmentation=none")


def write_toy(path: Path, counts: tuple[int, ...] = (9, 14, 11), seed: int = 0) -> Path:
    train, test = toy_data(counts=counts, seed=seed), toy_data(seed=1, split="test")
    arrays = {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{name: np.asarray(value) for name, value in arrays.items()})
    return path


def stopped(ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunFolder, RunFolder]:
    """Return a whole run and one that was stopped, both started in ``tmp_path`` on data named by a relative path."""
    write_toy(tmp_path / "toy.npz")
    monkeypatch.chdir(tmp_path)
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "run")
    assert ddkit(*TOY, "--data", "toy.npz", "--out", whole.path, "--json").status == 0
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        ddkit(*TOY, "--data", "toy.npz", "--out", folder.path, "--json").refused("after step 2", status=130)
    return whole, folder


def test_run_goes_on_in_another_place_and_with_data_that_have_moved(
    ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = stopped(ddkit, tmp_path, monkeypatch)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        ddkit("distill", "--out", folder.path, "--resume", "--json").refused("state saved", status=130)
    moved = elsewhere / "moved.npz"
    (tmp_path / "toy.npz").rename(moved)
    ddkit("distill", "--out", folder.path, "--resume").refused("'toy.npz', are not in", "--data PATH")
    other = write_toy(elsewhere / "other.npz", seed=5)
    ddkit("distill", "--out", folder.path, "--resume", "--data", other).refused("other data")
    assert ddkit("distill", "--out", folder.path, "--resume", "--data", "moved.npz", "--json").status == 0
    assert folder.artifact.read_bytes() == whole.artifact.read_bytes()
    monkeypatch.chdir(tmp_path)
    assert ddkit("evaluate", folder.path, *EVALUATE, "--json").status == 0  # which finds them where they were last
    ddkit("evaluate", whole.path, *EVALUATE).refused("'toy.npz', are not in", "--data PATH")
    assert ddkit("evaluate", whole.path, *EVALUATE, "--data", moved, "--json").status == 0


def test_one_command_starts_and_continues(ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*TOY, "--data", write_toy(tmp_path / "toy.npz"), "--out", tmp_path / "run", "--resume", "--json"]
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        ddkit(*command).refused("interrupted after step 1", status=130)
    assert ddkit(*command).document["steps"] == 3
    before = content(tmp_path / "run")
    assert ddkit(*command).status == 0
    assert content(tmp_path / "run") == before


def test_a_run_without_a_place_is_kept_under_its_method_and_data(
    ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path / "toy.npz")
    command = [*TOY, "--data", "toy.npz"]
    expected = ddkit(*command, "--dry-run", "--json").document
    assert expected["steps"] == 3 and expected["seconds"] > 0 and expected["memory_bytes"] > 10**7
    assert [path.name for path in tmp_path.iterdir()] == ["toy.npz"]
    assert ddkit(*command, "--json").document["artifact"] == str(Path("runs", "dm-toy", "distilled.safetensors"))
    ddkit(*command).refused("runs/dm-toy", "--resume")
    assert ddkit(*command, "--resume").status == 0
    ddkit(*command, "--resume", "--minutes", "2").refused("started with no --minutes")


@pytest.mark.parametrize(
    "words",
    [
        ("distill", "--out", "x", "--method", "dm", "--data", ""),
        ("distill", "--out", "", "--method", "dm"),
        ("distill", "--out", "x", "--method", ""),
        ("distill", "--out", "x", "--method", "dm", "--data="),
        ("distill", "--out", "x", "--method", "dm", "--set", "model="),
        ("distill", "--out", "x", "--method", "dm", "--data", "  "),
        ("experts", "--out", "x", "--count", "1", "--data", ""),
        ("evaluate", "", "--repeats", "1"),
        ("evaluate", "x", "--arch", ""),
        ("recipe", "run", "quickstart", "--out", ""),
    ],
    ids=" ".join,
)
def test_empty_words_are_refused(words: tuple[str, ...], ddkit: Command, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = ddkit(*words)
    outcome.refused("leave it out")
    assert os.listdir(tmp_path) == []


def test_log_says_how_far_it_is_from_the_start_on(ddkit: Command, tmp_path: Path) -> None:
    data = write_toy(tmp_path / "toy.npz")
    done = ddkit(*TOY, "--data", data, "--out", tmp_path / "run")
    assert done.err.splitlines()[0].startswith("dm") and "0 of 3 steps" in done.err
    picked = ("--method", "herding", "--ipc", "2", "--set", "selection.epochs=1", *SMALL[:2])
    assert "picking images: 3 of 3" in ddkit("distill", *picked, "--data", data, "--out", tmp_path / "herding").err or (
        "picking images: 0 of 3" in ddkit("distill", *picked, "--data", data, "--out", tmp_path / "again").err
    )
    assert "network epochs" in ddkit("evaluate", tmp_path / "run", *EVALUATE).err


def test_lines_come_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], []
    monkeypatch.setattr("ddkit.base.progress.time.monotonic", lambda: now[0])
    lines = Lines(said.append, "steps")
    for second in range(200):
        now[0] = float(second)
        lines("work", second, 400)
    assert said[:2] == ["work: 0 of 400 steps", "work: 5 of 400 steps, about 395 s left".replace("395 s", "7 min")]
    assert [int(line.split()[1]) for line in said] == [0, 5, 15, 35, 75, 135, 195]


def test_commands_that_distill_prints_run_on_a_long_tail(ddkit: Command, tmp_path: Path) -> None:
    data = write_toy(tmp_path / "tail.npz", counts=(9, 2, 11))
    run = tmp_path / "run"
    done = ddkit(*TOY, "--ipc", "4", "--set", "init=noise", "--data", data, "--out", run)
    assert f"ddkit evaluate {run} --baseline random" in done.out
    baselines = ("random", "herding", "random-bytes", "class-mean")
    chosen = [word for kind in baselines for word in ("--baseline", kind)]
    evaluated = ddkit("evaluate", run, *EVALUATE, *chosen)
    assert evaluated.status == 0, evaluated.err
    assert "class '1' of" in evaluated.err and "has 2 images, fewer than the 4" in evaluated.err
    images = {one["label"]: one["result"]["train_images"] for one in read_evaluation(run)["results"]}
    assert images["random"] == images["herding"] == 4 + 2 + 4
    ddkit(
        *("distill", "--method", "random", "--ipc", "4", "--data", data, "--set", "init=noise"),
        *("--out", tmp_path / "coreset"),
    ).refused("class '1', which has 2 images", "ipc <= 2")


def test_real_images_in_as_many_bytes_stand_together(
    ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddkit.evaluation.baselines.all_forms", lambda: ["uniform:bits=4", "uniform:bits=2"])
    run = tmp_path / "run"
    ddkit(*TOY, "--data", write_toy(tmp_path / "toy.npz"), "--out", run)
    done = ddkit("evaluate", run, *EVALUATE, "--baseline", "bytes", "--json").document
    labels = [entry["label"] for entry in done["results"]]
    assert labels == ["dm", "random-bytes", "random-coded", "herding-coded", "random-best"]
    payloads = [entry["result"]["budget"]["payload"] for entry in done["results"]]
    assert payloads[0] == 3 * 64 * 4 == max(payloads) and min(payloads) > 0
    alone = ddkit("evaluate", run, *EVALUATE, "--baseline", "random-bytes")
    assert "random-coded is evaluated beside them" in alone.err
    rows = [line.split() for line in alone.out.splitlines() if line.startswith(("dm", "random"))]
    assert [row[0] for row in rows] == ["dm", "random-bytes", "random-coded"] and "768" in rows[0]
    pair = ddkit("evaluate", run, *EVALUATE, "--baseline", "random-coded", "--baseline", "random-bytes", "--json")
    assert "beside them" not in pair.err and len(pair.document["results"]) == 3
    small = tmp_path / "small.safetensors"
    ddkit("encode", run, "--codec", "uniform:bits=2", "--out", small)
    few = ddkit("evaluate", small, *EVALUATE, "--baseline", "random-bytes", "--data", tmp_path / "toy.npz")
    assert (
        few.status == 2 and "bytes do not hold one real image of each of 3 classes: 8 bits a value take 192" in few.err
    )


def test_read_only_run_is_evaluated_and_nothing_kept(
    ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    assert ddkit(*TOY, "--data", write_toy(tmp_path / "toy.npz"), "--out", run, "--json").status == 0
    monkeypatch.setattr("ddkit.cli.evaluate.is_writable", lambda folder: False)
    before = content(run)
    done = ddkit("evaluate", run, *EVALUATE)
    assert done.status == 0 and "cannot be written: the results are printed and not kept" in done.err
    assert content(run) == before


def test_table_can_be_printed_in_ascii(ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    from ddkit.cli.tables import print_table

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    print_table([{"accuracy": "97.1 ± 0.2", "class": "é"}])
    stream.flush()
    assert b"97.1 +- 0.2" in stream.buffer.getvalue()


def test_more_experts_than_the_disk_holds_are_refused_from_their_size_alone(ddkit: Command, tmp_path: Path) -> None:
    outcome = ddkit("experts", "--out", tmp_path / "e", "--count", str(10**12), "--json")
    outcome.refused("the experts take", "MB left")
    assert json.dumps(os.listdir(tmp_path)) == "[]"
