"""Does ``ddkit experts`` say the size first, train, extend, verify, and refuse mistakes in one line?"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ddkit.cli import main
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import Session
from ddkit.training.experts import ExpertBuffer, build

Command = Callable[..., tuple[int, str, str]]
SMALL = ("--data", "digits", "--model", "convnet:width=4,depth=2", "--epochs", "1")


@pytest.fixture
def ddkit(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> tuple[int, str, str]:
        status = 0
        capsys.readouterr()
        try:
            main(["experts", *(str(argument) for argument in arguments)])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def refused(outcome: tuple[int, str, str], *words: str) -> None:
    status, out, err = outcome
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1, err
    assert all(word in err for word in words), err


def test_buffer_is_trained_extended_and_verified(ddkit: Command, tmp_path: Path) -> None:
    out = tmp_path / "experts"
    status, text, told = ddkit(*SMALL, "--count", 1, "--out", out)
    assert status == 0
    assert "1 expert of convnet(depth=2,width=4), 1 epochs each on 1,347 images of digits, plain SGD" in told
    assert "MB in float32" in told and "free" in told
    assert "flatness" in text
    assert "next: ddkit distill --method mtt --data digits --ipc 1" in text and f"networks.buffer={out}" in text
    status, text, _ = ddkit(*SMALL, "--count", 2, "--out", out, "--json")
    document = json.loads(text)
    assert (status, document["experts"], len(document["table"])) == (0, 2, 2)
    status, text, told = ddkit("--out", out, "--verify", "--json")
    assert (status, json.loads(text)["digest"], told) == (0, document["digest"], "")
    assert ExpertBuffer(out).settings.augmentation == "color_crop_cutout_scale_rotate"


def test_extending_takes_what_is_left_out_from_the_experts_that_are_there(ddkit: Command, tmp_path: Path) -> None:
    out = tmp_path / "experts"
    given = ("--lr", 0.03, "--momentum", 0.5, "--weight-decay", 0.001, "--batch-size", 77, "--half", "--seed", 4)
    assert ddkit(*SMALL, *given, "--zca", "pixels", "--count", 1, "--out", out)[0] == 0
    assert ddkit("--count", 2, "--out", out)[0] == 0
    buffer = ExpertBuffer(out)
    buffer.verify()
    settings = buffer.settings
    assert (buffer.count, settings.seed, settings.batch_size, settings.dtype) == (2, 4, 77, "float16")
    assert (settings.lr, settings.momentum, settings.weight_decay) == (0.03, 0.5, 0.001)
    refused(ddkit("--count", 3, "--out", out, "--lr", 0.5), "lr=0.03, not 0.5")


def test_all_options_reach_the_settings(ddkit: Command, tmp_path: Path) -> None:
    options = ("--lr", 0.02, "--batch-size", 99, "--augmentation", "crop", "--rho", 0.5, "--alpha", 0.3, "--seed", 4)
    more = ("--no-adaptive", "--half", "--zca", "pixels", "--no-compile", "--count", 1)
    status, text, _ = ddkit(*SMALL, *options, *more, "--out", tmp_path / "x", "--json", "--dry-run")
    settings = json.loads(text)["settings"]
    assert status == 0
    expected = {"lr": 0.02, "batch_size": 99, "augmentation": "crop", "rho": 0.5, "alpha": 0.3, "seed": 4}
    assert json.loads(text)["compiled"] is False
    assert expected | {"adaptive": False, "dtype": "float16", "epochs": 1} == {
        key: settings[key] for key in (*expected, "adaptive", "dtype", "epochs")
    }


def test_command_that_is_printed_takes_the_experts(ddkit: Command, tmp_path: Path) -> None:
    out, run = tmp_path / "my experts", tmp_path / "run"
    data = ("--zca", "pixels", "--holdout", 0.5, "--seed", 3, "--epochs", 6)
    status, text, _ = ddkit(*SMALL, *data, "--count", 1, "--out", out, "--json")
    assert status == 0
    words = shlex.split(json.loads(text)["use"])[1:]
    words[words.index("--out") + 1] = str(run)
    main([*words, "--steps", "1", "--json"])
    assert DistilledDataset.load(run).preprocessing.zca_matrix is not None


def test_what_is_left_out_is_what_the_method_asks_for(ddkit: Command, tmp_path: Path) -> None:
    plan = ("--data", "digits", "--count", 1, "--out", tmp_path / "x", "--dry-run", "--json")
    settings = json.loads(ddkit(*plan)[1])["settings"]
    assert (settings["lr"], settings["batch_size"], settings["epochs"], settings["rho"]) == (0.05, 64, 6, 0)
    flat = json.loads(ddkit(*plan, "--method", "ftd")[1])["settings"]
    assert (flat["rho"], flat["alpha"]) == (0.01, 1.0)
    refused(ddkit(*plan, "--method", "dm"), "--method dm follows no experts")
    refused(ddkit(*plan, "--alpha", 1), "--alpha 1.0 has no effect")


def test_dry_run_looks_into_the_folder(ddkit: Command, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    assert ddkit(*SMALL, *out, "--count", 1, "--json")[0] == 0
    facts = json.loads(ddkit(*SMALL, *out, "--count", 3, "--dry-run", "--json")[1])
    assert (facts["experts"], facts["missing"]) == (3, 2)
    refused(ddkit(*SMALL, *out, "--count", 3, "--lr", 0.3, "--dry-run"), "lr=0.05, not 0.3")


def test_run_goes_on_with_experts_that_have_moved_and_keeps_its_first_command(
    ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ddkit(*SMALL, "--epochs", 6, "--count", 1, "--out", tmp_path / "here")[0] == 0
    monkeypatch.chdir(tmp_path)
    run = ("distill", "--method", "mtt", "--ipc", "1", "--out", "run", "--checkpoint-every", "1", "--steps", "2")
    model = ("--set", "model=convnet:width=4,depth=2", "--set", "objective.student_steps=2")
    with monkeypatch.context() as patch:
        patch.setattr(Session, "step", killed(Session.step))
        with pytest.raises(SystemExit):
            main([*run, *model, "--set", "networks.buffer=here", "--json"])
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path.parent)
    folder = str(tmp_path / "run")
    main(["distill", "--out", folder, "--resume", "--set", f"networks.buffer={tmp_path / 'there'}", "--json"])
    summary = json.loads((tmp_path / "run" / "run.json").read_text())
    assert summary["steps"] == 2 and "--method mtt" in summary["command"]
    (tmp_path / "there").rename(tmp_path / "gone")
    main(["distill", "--out", folder, "--resume", "--json"])  # finished: nothing is needed any more


def killed(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that presses Ctrl-C once the first one is done."""

    def press(session: Session, number: int) -> Any:
        if number > 1:
            raise KeyboardInterrupt
        return step(session, number)

    return press


def test_dry_run_writes_nothing(ddkit: Command, tmp_path: Path) -> None:
    status, text, _ = ddkit(*SMALL, "--count", 100, "--out", tmp_path / "x", "--dry-run", "--json")
    facts = json.loads(text)
    assert status == 0
    assert facts["bytes"] > 100_000 and facts["free_bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_refused_in_one_line(ddkit: Command, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    refused(ddkit(*SMALL, *out), "--count is missing")
    refused(ddkit(*SMALL, *out, "--count", 0), "--count 0")
    refused(ddkit(*SMALL, *out, "--count", 1, "--rho", -1), "rho=-1.0")
    refused(ddkit(*SMALL, *out, "--count", 1, "--model", "convnt"), "did you mean 'convnet'")
    refused(ddkit(*SMALL, *out, "--count", 1, "--model", "convnet:norm=batch"), "uses batch norm")
    refused(ddkit(*SMALL, *out, "--count", 1, "--executor", "rays", "--json"), "ray")
    refused(ddkit(*SMALL, *out, "--count", 1, "--zca", "yes"), "--zca yes", "standardised, pixels or none")
    refused(ddkit(*SMALL, *out, "--count", 1, "--holdout", 1.5), "--holdout 1.5")
    refused(ddkit(*SMALL, *out, "--count", 1, "--precision", "half"), "--precision half")
    refused(ddkit(*out, "--verify"), "holds no experts")
    refused(ddkit(*out, "--verify", "--dry-run"), "exclude each other")
    assert list(tmp_path.iterdir()) == []


def test_interruption_says_how_many_are_finished(
    ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = build.build_buffer

    def interrupted(*arguments: object, **options: object) -> None:
        original(arguments[0], arguments[1], arguments[2], 1)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_buffer", interrupted)
    status, _, told = ddkit(*SMALL, "--count", 3, "--out", tmp_path / "x", "--json")
    assert status == 130
    assert "1 of 3 experts" in told and "are finished and kept; go on with `ddkit experts" in told
