"""Small runs that the engine's tests share; importable from a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ddkit.base.config import merge
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import Callback, Distiller, EarlyStop, PeriodicEvaluation, Run
from ddkit.testing import toy_data

SMALL: dict[str, Any] = {
    "model": "convnet:width=4,depth=2",
    "precision": "float32",
    "compile": False,
    "device": "cpu",
    "steps": 9,
    "objective": {"real_batch": 5},
    "optimiser": {"lr": 0.5},
}
#: Outer loops of four steps: a checkpoint usually falls in the middle of one.
LOOPS = {"networks": {"outer_loop": 4, "inner_epochs": 2, "batch_size": 4}}
LEARNED = {"synthesis": {"labels": "learned"}, "optimiser": {"groups": {"labels": {"lr": 5.0, "momentum": 0.9}}}}
ADAM = {"optimiser": {"name": "adam", "lr": 0.05}}

#: Runs whose continuation has something to remember, by name: (method, overrides).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "dm": ("dm", {}),
    "dc-inside-an-outer-loop": ("dc", LOOPS),
    "dsa-with-average": ("dsa", {**LOOPS, "ema": 0.8}),
    "dc-learned-labels-adam": ("dc", merge(merge(LOOPS, LEARNED), ADAM)),
    "dm-adam": ("dm", ADAM),
    "dc-batch-norm": ("dc", {**LOOPS, "model": "convnet:width=4,depth=2,norm=batch"}),
    "dm-evaluated-and-stopped": ("dm", {"steps": 40}),
}


class Kill(Callback):
    """Ends a run from outside after a step, before the checkpoint of that step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt


def callbacks_of(case: str) -> list[Callback]:
    if not case.endswith("stopped"):
        return []
    return [PeriodicEvaluation(toy_data(seed=3), every=2), EarlyStop(8, "loss", min_delta=1e9, smoothing=0.5)]


def loops_of(method: str) -> dict[str, Any]:
    """The small loops where the method has an inner loop at all."""
    return {} if method == "dm" else LOOPS


def small(method: str = "dm", ipc: int = 2, **options: Any) -> Distiller:
    return Distiller(method, ipc, **merge(SMALL, options))


def run_case(case: str, out: Path | str | None = None, *extra: Callback, every: int | None = 1) -> DistilledDataset:
    """Run a case, going on with the run in ``out`` when there is one."""
    torch.set_num_threads(1)
    method, options = CASES[case]
    distiller = small(method, callbacks=[*callbacks_of(case), *extra], checkpoint_every=every, **options)
    resume = out is not None and (Path(out) / "config.json").is_file()
    return distiller.fit(toy_data(), out=out, resume=resume)


def run_in_folder(case: str, out: str) -> None:
    """Entry point of a process that is to be killed."""
    run_case(case, out)


def steps_of(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def leftovers(out: Path) -> list[str]:
    return sorted(path.name for path in out.rglob("*.tmp"))
