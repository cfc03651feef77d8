"""Does the command line refuse mistakes in one line, resume exactly, and print clean JSON?"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ddkit.cli import main
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import RunFolder
from ddkit.training import RECIPES, TrainingRecipe

MODEL = "convnet:width=4,depth=2"
SMALL = ("--set", f"model={MODEL}", "--set", "objective.real_batch=8", "--set", "recipe.epochs=2")
DISTIL = ("distill", "--method", "dm", "--data", "digits", "--ipc", "1", "--steps", "3", *SMALL)
EVALUATION = importlib.import_module("ddkit.evaluation.evaluate")  # the package holds a function of that name
EVALUATE = ("--repeats", "1", "--set", "epochs=2")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Standard output, which must be one JSON document."""
        return json.loads(self.out)

    def refused(self, *words: str, status: int = 2) -> None:
        """Expect one line on standard error that holds ``words``, and nothing on standard output."""
        assert (self.status, self.out) == (status, "")
        assert len(self.err.splitlines()) == 1, self.err
        for word in words:
            assert word in self.err


Command = Callable[..., Outcome]


@pytest.fixture
def ddkit(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: object) -> Outcome:
        status = 0
        capsys.readouterr()
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "dm"
    main([*DISTIL, "--out", str(folder), "--json"])
    return folder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to be damaged at will."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "ddkit.cli", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, **options)


# --- what works -----------------------------------------------------------------------------------------------------


def test_help_does_not_import_torch() -> None:
    code = (
        "import sys, ddkit.cli\n"
        "for arguments in (['--help'], ['distill', '-h'], ['evaluate', '-h'], []):\n"
        "    ddkit.cli.main(arguments)\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), 'heavy imports'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage: ddkit" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [("methods",), ("methods", "--pieces"), ("doctor",), ("recipe", "list"), ("recipe", "show", "quickstart")],
    ids=" ".join,
)
def test_commands_that_only_look_print_text_or_one_json_document(ddkit: Command, arguments: tuple[str, ...]) -> None:
    people, machine = ddkit(*arguments), ddkit(*arguments, "--json")
    assert people.status == machine.status == 0
    assert people.out and machine.document
    with pytest.raises(ValueError):
        json.loads(people.out)
    assert machine.err == ""


def test_doctor_shows_the_extra_to_install(ddkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddkit.cli.doctor.EXTRAS", {"ray": "a_module_that_nobody_has"})
    assert "pip install 'ddkit[ray]'" in ddkit("doctor").out


def test_a_run_goes_through_every_command(ddkit: Command, run: Path) -> None:
    measured = ddkit("evaluate", run, *EVALUATE, "--json")
    (entry,) = measured.document["results"]
    assert entry["label"] == "dm" and measured.err == ""
    assert ddkit("show", run, "--json").document == {"report": str(run / "report.html")}
    (row,) = ddkit("compare", run, "--json").document
    assert row["mean"] == entry["result"]["rows"][0]["accuracies"][0]
    for form in ("npz", "parquet", "imagefolder", "sheet"):
        exported = ddkit("export", run, "--format", form, "--json").document
        assert Path(exported["path"]).exists()
    assert "dm" in ddkit("compare", run).out
    assert "report.html" in ddkit("show", run).out


def test_distill_with_json_prints_one_document_and_no_bar(ddkit: Command, tmp_path: Path) -> None:
    done = ddkit(*DISTIL, "--out", tmp_path / "run", "--json")
    assert done.document["method"] == "dm" and done.document["budget"]["images"] == 10
    assert done.err == ""


def test_pieces_are_replaced_by_options(ddkit: Command, tmp_path: Path) -> None:
    pieces = (
        "--objective",
        "gradient:metric=cos",
        "--set",
        "objective.real_batch=4",
        "--synthesis",
        "pixels:labels=soft",
    )
    done = ddkit(*DISTIL, "--out", tmp_path / "run", *pieces, "--json")
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["objective"] == {"name": "gradient", "metric": "cos", "real_batch": 4}
    assert config["synthesis"] == {"name": "pixels", "labels": "soft"}


def test_a_number_of_bytes_is_kept_and_the_promise_is_said(ddkit: Command, tmp_path: Path) -> None:
    run = ("distill", "--bytes", "0.5KB", "--codec", "uniform:bits=2", "--steps", 3, *SMALL)
    rest = ("--out", tmp_path / "run", "--set", "optimiser.lr=0.5", "--networks", "fixed:count=2")
    done = ddkit(*run, *rest, "--json")
    assert done.status == 0, done.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["method"], config["bytes"], config["codec"]) == ("dm", 500, {"name": "uniform", "bits": 2})
    assert done.document["budget"]["payload"] <= 500
    assert done.document["promise"]["returned"] in ("distilled", "start")
    again = ddkit("distill", "--method", "auto", "--bytes", 500, *rest, "--resume")
    assert again.status == 0 and "held-out training images" in again.out and "codec uniform:bits=2" in again.out
    ddkit("distill", "--bytes", 600, *rest, "--resume").refused("bytes=500, not 600")


def test_run_records_what_the_user_typed(run: Path) -> None:
    recorded = json.loads((run / "run.json").read_text())["command"]
    assert recorded.startswith("ddkit distill --method dm --data digits --ipc 1")


def test_evaluating_twice_gives_the_same_accuracies(ddkit: Command, run: Path) -> None:
    arguments = ("evaluate", run, "--repeats", 2, "--set", "epochs=2", "--baseline", "random", "--json")
    first, second = (ddkit(*arguments).document["results"] for _ in range(2))
    accuracies = [[r["accuracies"] for entry in half for r in entry["result"]["rows"]] for half in (first, second)]
    assert accuracies[0] == accuracies[1]
    assert len(accuracies[0]) == 2 and all(len(row) == 2 for row in accuracies[0])
    assert len(json.loads((run / "evaluation.json").read_text())["results"]) == 2  # replaced, not appended


def test_evaluate_compares_with_the_whole_data_and_computes_scores(ddkit: Command, run: Path) -> None:
    done = ddkit("evaluate", run, *EVALUATE, "--baseline", "whole", "--scores", "--json").document
    labels = [entry["label"] for entry in done["results"]]
    assert labels == ["dm", "whole"]
    assert done["results"][1]["result"]["train_images"] == 1347
    assert set(done["scores"]["accuracies"]) >= {"whole", "distilled-hard", "random-plain"}
    assert json.loads((run / "evaluation.json").read_text())["scores"] == done["scores"]


# --- mistakes -------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "method": (("--method", "dmm"), ("'dmm'", "did you mean 'dm'?")),
    "data": (("--data", "digit"), ("'digit'", "did you mean 'digits'?")),
    "data path": (("--data", "./nothing.npz"), ("'./nothing.npz'", "give a path")),
    "ipc 0": (("--ipc", "0"), ("--ipc 0", "at least 1")),
    "ipc too large": (("--ipc", "5000"), ("ipc=5000", "131 images", "choose ipc")),
    "ipc no number": (("--ipc", "ten"), ("'ten'", "ddkit distill -h")),
    "seed": (("--seed", "-1"), ("-1", "--seed")),
    "no equals": (("--set", "steps"), ("'steps'", "key=value")),
    "key": (("--set", "stepz=3"), ("'stepz'", "did you mean 'steps'?")),
    "not a setting": (("--set", "callbacks=[1]"), ("unknown option 'callbacks'",)),
    "set ipc": (("--set", "ipc=3"), ("--set ipc=3", "write --ipc 3")),
    "type": (("--set", "ema=abc"), ("ema='abc'", "number")),
    "said twice": (("--set", "steps=4"), ("--set steps=4", "--steps 3")),
    "model": (("--set", "model=convnett"), ("'convnett'", "did you mean 'convnet'?")),
    "model option": (("--set", "model=convnet:widht=3"), ("'widht'", "did you mean 'width'?")),
    "piece option": (("--set", "objective.real_batc=3"), ("'real_batc'", "did you mean 'real_batch'?")),
    "piece": (("--synthesis", "pixel"), ("'pixel'", "did you mean 'pixels'?")),
    "option of a named piece": (("--objective", "gradient:metrik=cos"), ("'metrik'", "did you mean 'metric'?")),
    "piece without options": (("--networks", "fresh:"), ("'fresh:'", "write fresh")),
    "two pieces": (("--synthesis", "pixels", "--set", "synthesis=gan"), ("--set synthesis=gan", "--synthesis pixels")),
    "piece of a coreset": (("--method", "random", "--objective", "gradient"), ("picks real images", "leave that out")),
    "list for a piece": (("--set", "networks=[1]"), ("networks=[1]",)),
    "no objective": (("--set", "objective=null"), ("objective is missing", "choose one of")),
    "recipe": (("--set", "recipe=dsaa"), ("'dsaa'", "did you mean 'dsa'?")),
    "augmentation": (("--set", "augmentation=colour"), ("'colour'", "did you mean 'color'?")),
    "rate": (("--set", "optimiser.lr=-1"), ("optimiser.lr=-1",)),
    "device": (("--device", "gpu"), ("'gpu'", "choose auto")),
    "holdout": (("--holdout", "1.5"), ("--holdout 1.5", "[0, 1)")),
    "eval without holdout": (("--eval-every", "1"), ("add --holdout",)),
    "patience without eval": (("--patience", "1", "--holdout", "0.1"), ("--patience 1", "add --eval-every")),
    "patience 0": (("--patience", "0", "--eval-every", "1", "--holdout", "0.1"), ("--patience 0", "at least 1")),
    "pictures": (("--images-every", "0"), ("--images-every 0", "at least 1")),
    "checkpoints": (("--checkpoint-every", "0"), ("checkpoint_every=0", "at least 1")),
    "bytes": (("--bytes", "many"), ("size 'many'", "64KiB")),
    "bytes 0": (("--bytes", "0"), ("size '0'", "less than one byte")),
    "too few bytes": (("--bytes", "9", "--codec", "uniform"), ("--bytes 9 does not hold --ipc 1", "give more bytes")),
    "set bytes": (("--set", "bytes=3"), ("--set bytes=3", "write --bytes 3")),
    "codec": (("--codec", "unifrom:bits=3"), ("'unifrom'", "did you mean 'uniform'?")),
    "codec option": (("--codec", "uniform:bits=9"), ("bits=9",)),
    "codec that cannot hold": (("--codec", "palette"), ("several channels", "use uniform")),
    "bytes of real images": (("--method", "random", "--bytes", "900"), ("picks real images", "--ipc alone")),
    "option": (("--metod", "dm"), ("'--metod'", "--method")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_distill_refuses_a_mistake_before_it_writes(ddkit: Command, tmp_path: Path, mistake: str) -> None:
    arguments, words = MISTAKES[mistake]
    out = tmp_path / "run"
    ddkit(*DISTIL, "--out", out, *arguments, "--json").refused(*words)
    assert not out.exists()


def test_missing_options_are_named(ddkit: Command, tmp_path: Path) -> None:
    ddkit("encode", "--codec", "uniform").refused("RUN", "ddkit encode -h")
    ddkit("show").refused("RUNS")


def test_unknown_commands_get_a_suggestion(ddkit: Command) -> None:
    ddkit("distil").refused("'distil'", "Did you mean 'distill'?")
    ddkit("recipe", "rum").refused("'rum'", "Did you mean 'run'?")
    assert ddkit("distil").err.count("Did you mean") == 1


def test_an_output_that_is_taken_stays_as_it_is(ddkit: Command, run: Path, tmp_path: Path) -> None:
    before = content(run)
    ddkit(*DISTIL, "--out", run).refused(f"'{run}'", "--resume", "another --out")
    assert content(run) == before
    file, foreign = tmp_path / "file", tmp_path / "foreign"
    file.write_text("mine")
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    ddkit(*DISTIL, "--out", file).refused(f"'{file}' is a file")
    ddkit(*DISTIL, "--out", file / "below").refused(f"'{file}' is a file")
    ddkit(*DISTIL, "--out", foreign).refused(f"'{foreign}'", "holds no run")
    ddkit("show", run, "--out", file).refused(f"'{file}'", "another --out")
    ddkit("export", run, "--format", "npz", "--out", file).refused(f"'{file}' exists already")
    ddkit("recipe", "copy", "quickstart", file).refused("another folder")
    assert file.read_text() == "mine" and content(foreign) == {"mine.txt": b"mine"}


def test_a_folder_without_permission_is_refused_before_the_data_are_read(
    ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddkit.cli.common.os.access", lambda _, mode: not mode & os.W_OK)
    monkeypatch.setattr("ddkit.cli.runs.load", lambda *_, **__: pytest.fail("data were read"))
    ddkit(*DISTIL, "--out", tmp_path / "new").refused("no permission", "another folder")


def test_a_data_root_without_the_data_is_named(ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("ddkit.data.named.NamedSet.open", offline)
    root = tmp_path / "absent"
    arguments = (*DISTIL, "--out", tmp_path / "run", "--data", "mnist", "--data-root", root)
    ddkit(*arguments).refused("'mnist'", str(root), "--data-root")


EVALUATION_MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "baseline": (("--baseline", "randm"), ("'randm'", "did you mean 'random'?")),
    "baseline that does not apply": (("--baseline", "random-soft"), ("random-soft", "use 'random'")),
    "architecture": (("--arch", "convnett"), ("'convnett'", "did you mean 'convnet'?")),
    "architecture too deep": (("--arch", "lenet"), ("lenet", "1x8x8", "at least 12 px")),
    "recipe": (("--recipe", "dsaa"), ("'dsaa'", "did you mean 'dsa'?")),
    "field": (("--set", "epoch=3"), ("'epoch'", "did you mean 'epochs'?")),
    "type": (("--set", "epochs=x"), ("epochs='x'", "integer")),
    "repeats": (("--repeats", "0"), ("--repeats 0", "at least 1")),
    "precision": (("--precision", "fp16"), ("fp16", "auto, float32, bfloat16")),
    "executor": (("--executor", "rayy"), ("'rayy'", "did you mean 'ray'?")),
    "device": (("--device", "gpu"), ("'gpu'", "choose auto")),
    "data": (("--data", "digit"), ("'digit'", "did you mean 'digits'?")),
}


@pytest.mark.parametrize("mistake", EVALUATION_MISTAKES)
def test_evaluate_refuses_a_mistake_before_it_trains(
    ddkit: Command, run: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EVALUATION, "train_networks", lambda *_, **__: pytest.fail("trained"))
    arguments, words = EVALUATION_MISTAKES[mistake]
    ddkit("evaluate", run, *EVALUATE, *arguments).refused(*words)
    assert not (run / "evaluation.json").exists()


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b[:-3] + b"abc", lambda b: b"", lambda b: b"{}" * 99])
def test_a_damaged_artifact_is_refused_everywhere(ddkit: Command, run: Path, damage: Callable[[bytes], bytes]) -> None:
    artifact = run / "distilled.safetensors"
    artifact.write_bytes(damage(artifact.read_bytes()))
    before = content(run)
    for arguments in (("evaluate", run), ("show", run), ("compare", run), ("export", run, "--format", "npz")):
        ddkit(*arguments, "--json").refused(str(run))
    ddkit("distill", "--out", run, "--resume").refused(str(run))
    assert content(run) == before


@pytest.mark.parametrize("text", ["{", "[]", '{"results": [3]}', '{"results": 3}', "\x00"])
def test_a_damaged_evaluation_is_refused_before_training(
    ddkit: Command, run: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EVALUATION, "train_networks", lambda *_, **__: pytest.fail("trained"))
    (run / "evaluation.json").write_text(text)
    ddkit("evaluate", run, *EVALUATE).refused("evaluation.json", "delete it")
    assert (run / "evaluation.json").read_text() == text


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": {"ipc": "x"}, "data": {"spec": "digits"}}'])
def test_a_damaged_configuration_is_refused(ddkit: Command, run: Path, text: str) -> None:
    (run / "config.json").write_text(text)
    ddkit("distill", "--out", run, "--resume").refused("config.json", "damaged")
    ddkit("evaluate", run, *EVALUATE).refused("config.json", "damaged")


@pytest.mark.parametrize("key, value", [("options", {"zca": "perhaps"}), ("options", 3), ("options", {"colour": 1})])
def test_damaged_data_options_are_refused(ddkit: Command, run: Path, key: str, value: object) -> None:
    stored = json.loads((run / "config.json").read_text())
    stored["data"][key] = value
    (run / "config.json").write_text(json.dumps(stored))
    ddkit("distill", "--out", run, "--resume").refused("config.json", "damaged")


def test_an_unexpected_error_is_one_line_and_v_shows_the_traceback(
    ddkit: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("something\nbroke")

    monkeypatch.setattr("ddkit.evaluation.report.compare.comparison_table", broken)
    ddkit("compare", run).refused("RuntimeError: something broke", "-v", status=1)
    assert "Traceback" in ddkit("compare", run, "-v").err


def test_ctrl_c_outside_a_run_exits_with_130(ddkit: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ddkit.evaluation.report.compare.comparison_table", pressed)
    ddkit("compare", run, "--json").refused("interrupted", status=130)


# --- resume ---------------------------------------------------------------------------------------------------------


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Press Ctrl-C, once, during step number ``steps``."""
    from ddkit.engine.session import Session

    original, count = Session.step, iter(range(1, 10_000))

    def step(self: Session, *arguments: Any, **options: Any) -> dict[str, float]:
        if next(count) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Session, "step", step)


def test_ctrl_c_exits_with_130_and_resume_gives_the_same_bytes(ddkit: Command, tmp_path: Path) -> None:
    arguments = (*DISTIL, "--steps", "40", "--images-every", "1000", "--set", "precision=float32")
    folder, whole = RunFolder(tmp_path / "interrupted"), RunFolder(tmp_path / "whole")
    command = [sys.executable, "-m", "ddkit.cli", *arguments, "--out", str(folder.path)]
    slow = {**os.environ, "OMP_NUM_THREADS": "1"}
    slow_steps = (
        f"import time; from ddkit.engine.session import Session as S; old = S.step\n"
        "S.step = lambda self, *a, **k: (time.sleep(0.05), old(self, *a, **k))[1]\n"
        f"import sys; from ddkit.cli import main; main({command[3:]!r})"
    )
    with subprocess.Popen([sys.executable, "-c", slow_steps], env=slow, stderr=subprocess.PIPE, text=True) as child:
        deadline = time.monotonic() + 120
        while not (folder.metrics.is_file() and len(folder.metrics.read_text().splitlines()) >= 3):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=120)
    assert child.returncode == 130
    last = err.strip().splitlines()[-1]
    assert last.startswith("interrupted after step") and f"ddkit distill --out {folder.path} --resume" in last
    assert not folder.finished
    resumed = process("distill", "--out", folder.path, "--resume", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["steps"] == 40
    assert process(*arguments, "--out", whole.path, "--json").returncode == 0
    assert folder.artifact.read_bytes() == whole.artifact.read_bytes()


def test_resume_remembers_data_and_callbacks(ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RECIPES, "quick", lambda _: TrainingRecipe(name="quick", epochs=1))
    watched = ("--holdout", "0.2", "--eval-every", "1", "--patience", "1", "--zca", "--seed", "3", "--steps", "30")
    whole, folder = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "interrupted")
    arguments = (*DISTIL, *watched, "--set", "optimiser.lr=0.001", "--json")
    assert ddkit(*arguments, "--out", whole.path).status == 0
    steps = DistilledDataset.load(whole.path).metadata["steps"]
    assert steps < 30  # it did stop early
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        ddkit(*arguments, "--out", folder.path).refused("interrupted after step 1", "--resume", status=130)
    stored = folder.read()
    assert stored["data"]["options"] == {"root": None, "zca": True, "holdout": 0.2}
    assert stored["callbacks"]["eval_every"] == stored["callbacks"]["patience"] == 1
    assert ddkit("distill", "--out", folder.path, "--resume", "--json").document["steps"] == steps
    assert folder.artifact.read_bytes() == whole.artifact.read_bytes()


def test_resume_refuses_changed_data(ddkit: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    from ddkit.testing import toy_data

    train, test = toy_data(), toy_data(seed=1, split="test")
    path = tmp_path / "toy.npz"

    def write(offset: int) -> None:
        arrays = {"x_train": train.images, "y_train": train.labels, "x_test": test.images, "y_test": test.labels}
        numbers = {name: np.asarray(value) for name, value in arrays.items()}
        numbers["x_train"] = numbers["x_train"] // 2 + offset
        np.savez(path, **numbers)

    write(0)
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        arguments = (*DISTIL, "--out", out, "--data", path, "--set", "augmentation=none", "--json")
        ddkit(*arguments).refused("interrupted", status=130)
    write(1)
    before = content(out)
    ddkit("distill", "--out", out, "--resume").refused("other data", str(path))
    assert content(out) == before
    write(0)
    assert ddkit("distill", "--out", out, "--resume", "--json").status == 0


@pytest.mark.parametrize(
    "option",
    ["--method dc", "--data mnist", "--ipc 2", "--seed 9", "--holdout 0.5", "--zca", "--patience 3", "--eval-every 2"],
)
def test_resume_refuses_another_setting(ddkit: Command, run: Path, option: str) -> None:
    before = content(run)
    ddkit("distill", "--out", run, "--resume", *option.split()).refused("was started with", option.split()[0])
    assert content(run) == before


def test_resume_refuses_other_steps_and_settings(ddkit: Command, run: Path) -> None:
    ddkit("distill", "--out", run, "--resume", "--steps", "9").refused("steps=3, not 9")
    ddkit("distill", "--out", run, "--resume", "--set", "optimiser.lr=9").refused("was started with optimiser")


def test_resume_of_a_finished_run_changes_nothing(ddkit: Command, run: Path) -> None:
    before = content(run)
    done = ddkit("distill", "--out", run, "--resume", "--method", "dm", "--ipc", "1")
    assert done.status == 0 and "finished already" in done.out
    assert content(run) == before


def test_resume_without_a_run_is_refused(ddkit: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    ddkit("distill", "--out", tmp_path / "empty", "--resume").refused("holds no run", "--method")
    ddkit("distill", "--out", tmp_path / "none", "--resume").refused("holds no run", "--method")
    assert not (tmp_path / "none").exists()
