"""Every method, every signal, every stage: a run that was stopped goes on to the bytes of one that was not.

Processes are forked from this one, which has imported everything, and send the signal to themselves at the stage.
"""

from __future__ import annotations

import json
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from ddkit import methods
from ddkit.base import stages as stages_module
from ddkit.base.interrupt import Interrupt
from ddkit.engine.selection import CoresetSession
from ddkit.engine.session import Session
from ddkit.errors import DDKitError
from ddkit.evaluation import assess, read_evaluation, write_evaluation
from ddkit.evaluation.finished import Finished
from ddkit.testing import small_overrides, toy_data
from ddkit.testing.small import fit_small
from ddkit.training import TrainingRecipe
from ddkit.training.experts import ExpertSettings, build_buffer

pytestmark = pytest.mark.forks
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: Functions in which a run is stopped before they do anything, by stage, with the number of the call.
PLACES: dict[str, tuple[str, int]] = {
    "preparation": ("ddkit.engine.session.Session.prepare", 1),
    "starting point": ("ddkit.engine.session.Session.start", 1),
    "first step": ("ddkit.engine.session.Session.step", 1),
    "middle step": ("ddkit.engine.session.Session.step", 3),
    "last step": ("ddkit.engine.session.Session.step", 4),
    "experts": ("ddkit.training.experts.build.write_expert", 2),
    "generator": ("ddkit.synthesis.gan.codes.train_generator", 1),
    "generator round": ("ddkit.synthesis.gan.training._step", 3),
    "decoders": ("ddkit.synthesis.decoders.decode_pairs", 2),
    "inversion": ("ddkit.synthesis.gan.codes.invert", 1),
    "selection": ("ddkit.engine.selection.CoresetSession.run", 1),
}
#: Files whose writing is stopped when their temporary copy is complete, by stage.
FILES = {"checkpoint": "checkpoint.safetensors", "result": "distilled.safetensors", "summary": "run.json"}
QUICK = [
    ("dm", "middle step"),
    ("dc", "checkpoint"),
    ("mtt", "experts"),
    ("itgan", "generator round"),
    ("herding", "result"),
]


def stages(method: str) -> list[str]:
    """Return the stages that a method goes through."""
    data = toy_data()
    configured = methods.get(method).configure(data, 2, 0, small_overrides(method, data))
    if configured.selection:
        return ["selection", "result", "summary"]
    found = ["preparation", "starting point", "first step", "middle step", "last step", *FILES]
    found += ["experts"] if configured.networks.name == "experts" else []
    found += ["generator", "generator round", "inversion"] if configured.synthesis.name == "gan" else []
    return found + (["decoders"] if configured.synthesis.name == "shared-decoders" else [])


@contextmanager
def stopped_at(stage: str, number: int) -> Iterator[None]:
    """Send signal ``number`` to this process at a stage."""
    if stage in FILES:
        original = Path.replace

        def replace(self: Path, target: Any) -> Path:
            if Path(target).name == FILES[stage]:
                os.kill(os.getpid(), number)
            return original(self, target)

        with mock.patch.object(Path, "replace", replace):
            yield
        return
    place, call = PLACES[stage]
    calls = iter(range(1, 10**6))
    module, _, name = place.rpartition(".")
    owner = {"Session": Session, "CoresetSession": CoresetSession}.get(module.rpartition(".")[2]) or _imported(module)
    work = getattr(owner, name)

    def stop(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), number)
        return work(*arguments, **options)

    with mock.patch.object(owner, name, stop):
        yield


def _imported(name: str) -> Any:
    import importlib

    return importlib.import_module(name)


def in_a_process(work: Callable[[], object], log: Path) -> int:
    """Fork a process that does ``work``; return its exit status, negative for a signal. Errors go to ``log``."""
    number = os.fork()
    if number == 0:
        status = 99
        try:
            stages_module.INTERVAL_SECONDS = -1.0  # what is long in a real run
            torch.set_num_threads(1)  # threads of OpenMP do not survive a fork
            for one in SIGNALS[1:]:
                signal.signal(one, signal.default_int_handler if one == signal.SIGINT else signal.SIG_DFL)
            work()
            status = 0
        except DDKitError as error:
            log.write_text(str(error))
            status = error.exit_status
        except BaseException:
            log.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def distil(method: str, out: Path) -> None:
    fit_small(method, {}, out=out, resume=True, checkpoint_every=1)


def content(folder: Path) -> dict[str, Any]:
    """Return what has to be equal: the names of all files, the steps and losses, the bytes of the artifacts."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] if steps(folder) else []
    return {
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
        "artifacts": [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))],
        "metrics": [{key: value for key, value in line.items() if key != "seconds"} for line in lines],
    }


def steps(folder: Path) -> bool:
    return (folder / "metrics.jsonl").is_file()


@cache
def reference(method: str, base: Path) -> dict[str, Any]:
    out = base / f"whole-{method}"
    assert in_a_process(lambda: distil(method, out), base / "log") == 0, (base / "log").read_text()
    return content(out)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fit_small("itgan", {})  # what is imported on first use is imported once, before processes are forked
    return tmp_path_factory.mktemp("kills")


def check(method: str, stage: str, number: signal.Signals, base: Path, tmp_path: Path) -> None:
    whole, out, log = reference(method, base), tmp_path / f"{number.name}", tmp_path / "log"

    def stopped() -> None:
        with stopped_at(stage, number):
            distil(method, out)

    status, said = in_a_process(stopped, log), log.read_text() if log.exists() else ""
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL, said
    elif stage in ("result", "summary"):  # what is left of the run is finished first
        assert status == 0, said
    else:
        assert status == 130 and said.startswith("interrupted") and "\n" not in said, said
        assert f"go on with `ddkit distill --out {out} --resume`" in said
    log.unlink(missing_ok=True)
    assert in_a_process(lambda: distil(method, out), log) == 0, log.read_text()
    assert content(out) == whole


@pytest.mark.parametrize(("method", "stage"), QUICK)
def test_stopped_run_goes_on_to_the_same_bytes(method: str, stage: str, base: Path, tmp_path: Path) -> None:
    for number in (signal.SIGKILL, signal.SIGTERM):
        check(method, stage, number, base, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("method", methods.available())
def test_every_signal_at_every_stage_of_every_method(method: str, base: Path, tmp_path: Path) -> None:
    for stage in stages(method):
        for number in SIGNALS:
            folder = tmp_path / stage.replace(" ", "-")
            folder.mkdir(exist_ok=True)
            check(method, stage, number, base, folder)


def measured(folder: Path) -> None:
    """Evaluate a set of random images with two baselines, as the command does."""
    train, test = toy_data(), toy_data(seed=1, split="test")
    picked = fit_small("random", {}, train, out=folder / "set", resume=True)
    finished, options = Finished(folder / "evaluating"), {"stacked": False}
    with Interrupt():
        assess(
            picked,
            test,
            train=train,
            baselines=["random", "class-mean"],
            architectures=["convnet:width=4,depth=2"],
            repeats=3,
            recipe=TrainingRecipe(name="short", epochs=2),
            on_results=lambda found: write_evaluation(folder, found),
            finished=finished,
            **options,
        )
    finished.clear()


def accuracies(folder: Path) -> list[Any]:
    found = read_evaluation(folder)["results"]
    return [(one["label"], row["accuracies"], row["seeds"]) for one in found for row in one["result"]["rows"]]


@pytest.mark.parametrize("call", [2, 5])
def test_stopped_evaluation_keeps_its_networks_and_goes_on_to_the_same_accuracies(
    call: int, base: Path, tmp_path: Path
) -> None:
    whole, folder, log = tmp_path / "whole", tmp_path / "stopped", tmp_path / "log"
    assert in_a_process(lambda: measured(whole), log) == 0, log.read_text()
    trained = tmp_path / "trained"
    evaluation = _imported("ddkit.evaluation.evaluate")

    def counted(stop: int) -> None:
        original, calls = evaluation.train_networks, iter(range(1, 100))

        def train(*arguments: Any, **options: Any) -> Any:
            count = next(calls)
            trained.write_text(str(count))
            if count == stop:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        with mock.patch.object(evaluation, "train_networks", train):
            measured(folder)

    assert in_a_process(lambda: counted(call), log) == -signal.SIGKILL
    kept = list((folder / "evaluating").glob("*.json"))
    assert len(kept) == call - 1
    assert all(len(row[1]) == 3 for row in (accuracies(folder) if call > 4 else []))  # a result is whole or not there
    assert in_a_process(lambda: counted(0), log) == 0, log.read_text()
    assert int(trained.read_text()) == len(accuracies(whole)) * 3 - (call - 1)
    assert accuracies(folder) == accuracies(whole)
    assert not (folder / "evaluating").exists()


@pytest.mark.parametrize("number", SIGNALS)
def test_stopped_experts_go_on_to_the_same_experts(number: signal.Signals, base: Path, tmp_path: Path) -> None:
    settings = ExpertSettings(model="convnet:width=4,depth=2", epochs=2, lr=0.01, batch_size=16)

    def train(folder: Path) -> None:
        build_buffer(toy_data(), folder, settings, 3)

    def stopped() -> None:
        with stopped_at("experts", number), Interrupt():
            train(tmp_path / "stopped")

    log = tmp_path / "log"
    assert in_a_process(lambda: train(tmp_path / "whole"), log) == 0, log.read_text()
    assert in_a_process(stopped, log) == (-signal.SIGKILL if number == signal.SIGKILL else 99)
    assert in_a_process(lambda: train(tmp_path / "stopped"), log) == 0, log.read_text()
    found = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("whole", "stopped")]
    assert found[0] == found[1]
    read = _imported("ddkit.training.experts").ExpertBuffer
    assert read(tmp_path / "whole").digest() == read(tmp_path / "stopped").digest()


def test_generator_goes_on_where_it_was_stopped(base: Path, tmp_path: Path) -> None:
    training, log = _imported("ddkit.synthesis.gan.training"), tmp_path / "log"

    def stopped() -> None:
        with stopped_at("generator round", signal.SIGTERM):
            distil("itgan", tmp_path / "run")

    assert in_a_process(stopped, log) == 130
    assert (tmp_path / "run" / "preparation.safetensors").is_file()
    with mock.patch.object(training, "_step", wraps=training._step) as counted:
        distil("itgan", tmp_path / "run")
    assert counted.call_count == 2  # of the second of two rounds; the first is not repeated
    assert not (tmp_path / "run" / "preparation.safetensors").exists()
