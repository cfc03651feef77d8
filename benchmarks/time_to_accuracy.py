"""CPU seconds until each method's ten images per class train networks to 90, 95 and 97 % on MNIST.

    DDKIT_DATA=... python benchmarks/time_to_accuracy.py --out benchmarks/results/time-to-accuracy.json [--only dm ...]
    python benchmarks/time_to_accuracy.py --out benchmarks/results/time-to-accuracy.json \
        --cells benchmarks/results/accuracy-cpu.json --figure docs/images/time-to-accuracy.png

Every method runs in a fresh process, on one thread and without cached kernels, with the settings of its cell in
``cells.py``. Its clock counts the CPU seconds of that process and of the compilers it starts (interpreter, imports,
data, compilation, starting point), without those of evaluations; experts and generators, which are trained once and
shared, are added in full. At each of ``STOPS`` seconds and at the end, which is the last of the stops or the method's
last step, the present set is evaluated: by one ConvNet-D3 of width 32 (the common protocol with 50,000 image passes),
and as the method defines it where that is another way: by the kernel it was learned for, else by networks trained its
own way. An accuracy counts as reached at the first stop where any of them reaches it, so seconds are upper bounds. A
method that is below 95 % after ``PATIENCE`` seconds ends there: it is not known what it would reach later. Nothing is
selected.

``--cells`` adds methods that were not run here, and accuracies that were not reached here, by what ``accuracy.py``
measured at the end of their cell: one point, by its own larger networks, at the CPU seconds of the distillation and of
what is shared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import CELLS, TRAJECTORY, distil, generator_seconds, how_to_train, shared_generator
from experts import buffer_for, part_of

from ddkit import Distiller, data, methods
from ddkit.base.files import write_text
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import Callback, Run, environment
from ddkit.engine.session import result_metadata
from ddkit.evaluation import evaluate, evaluate_kernel, kernel_of, own_model, recipe_of
from ddkit.models.kernels import NetworkFeatures
from ddkit.training import TrainingRecipe
from ddkit.training.named import OWN_RECIPES

DATA, IPC = "mnist", 10
#: Seconds of a method's own clock at which its set is evaluated; the last one ends it.
STOPS = (60.0, 120.0, 240.0)
#: Seconds after which a method that has not reached the middle one of ``THRESHOLDS`` ends.
PATIENCE = 120.0
PASSES = 50_000
NETWORK = "convnet:width=32"
CORESETS = ("random", "herding")
THRESHOLDS = (90, 95, 97)


class Clock:
    """CPU seconds of this process and of the compilers it started, from its start, without :meth:`forget` parts."""

    def __init__(self) -> None:
        self.apart = 0.0

    def read(self) -> float:
        """Return seconds."""
        return self._all() - self.apart

    def forget(self, since: float) -> None:
        """Take out what passed since :meth:`read` returned ``since``."""
        self.apart += self.read() - since

    @staticmethod
    def _all() -> float:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.process_time() + children.ru_utime + children.ru_stime


class Curve(Callback):
    """Evaluates the present set when the clock passes a stop."""

    def __init__(self, clock: Clock, train: RealData, test: RealData, offset: float) -> None:
        self.clock, self.train, self.test, self.offset = clock, train, test, offset
        self.left = list(STOPS)
        self.points: list[dict[str, Any]] = []

    def on_step(self, run: Run) -> None:
        """Evaluate at each stop and at the last step."""
        now = self.clock.read()
        due = run.step == run.config.steps
        while self.left and now >= self.left[0]:
            self.left.pop(0)
            due = True
        if not self.left:
            run.stop = "the last stop was reached"
        if due:
            metadata = result_metadata(run.config, run.real, run.synthesizer.neighbouring_views)
            self.evaluate(run.materialise(metadata), run.step)
            if now >= PATIENCE and max(map(best, self.points)) < THRESHOLDS[1]:
                run.stop = f"below {THRESHOLDS[1]} % after {PATIENCE:g} seconds"

    def evaluate(self, present: DistilledDataset, step: int) -> None:
        """Append a point."""
        now = self.clock.read()
        protocol = how_to_train(self.train.name, present)
        images = len(present) // protocol.views
        protocol = protocol.replace(epochs=max(1, PASSES // images))
        row = evaluate(
            present, self.test, (NETWORK,), recipe=protocol, repeats=1, precision="bfloat16", compile=True
        ).rows[0]
        point: dict[str, Any] = {
            "step": step,
            "seconds": round(now + self.offset, 1),
            "network_percent": round(100 * row.mean, 2),
        }
        if (kernel := kernel_of(present)) is not None and kernel.kernel["name"] != NetworkFeatures.name:
            point["kernel_percent"] = round(100 * evaluate_kernel(present, self.test, repeats=1).rows[0].mean, 2)
        elif (own := recipe_of(present)).name in OWN_RECIPES:
            point["own_percent"] = round(100 * self.own_way(present, own), 2)
        self.points.append(point)
        print(f"{point}", file=sys.stderr, flush=True)
        self.clock.forget(now)

    def own_way(self, present: DistilledDataset, own: TrainingRecipe) -> float:
        """Return the mean accuracy of networks trained as the method defines it: five by learned steps, else one."""
        if own.schedule == "given":
            return evaluate(present, self.test, (own_model(present),), recipe=own, repeats=5).rows[0].mean
        own = own.replace(epochs=max(1, min(own.epochs, PASSES // len(present))))
        fast: dict[str, Any] = {"precision": "bfloat16", "compile": True} if own.head == "linear" else {}
        return evaluate(present, self.test, (own_model(present),), recipe=own, repeats=1, **fast).rows[0].mean


def child(method: str) -> dict[str, Any]:
    """Run one method in this process and return its curve."""
    clock = Clock()
    train, test = data.load_pair(DATA, download=False)
    name = f"{method}-{DATA}-{IPC}"
    now, shared = clock.read(), 0.0
    if method in TRAJECTORY:
        shared = float(buffer_for(part_of(train), flat=method == "ftd")[1]["cpu_seconds"])
    elif method == "itgan":
        shared_generator(train)
        shared = generator_seconds(train)
    clock.forget(now)
    curve = Curve(clock, train, test, shared)
    if methods.get(method).is_coreset:
        curve.evaluate(Distiller(method, IPC, seed=0).fit(train), 0)
    else:
        with tempfile.TemporaryDirectory() as folder:
            distil(name, method, train, IPC, 0, callbacks=[curve], out=Path(folder) / "run")
    return {
        "method": method,
        "points": curve.points,
        "shared_seconds": round(shared, 1),
        "reached": {str(threshold): reached(curve.points, threshold) for threshold in THRESHOLDS},
        "overrides": CELLS.get(name, {}),
        **environment("cpu"),
    }


def shared_seconds(row: Mapping[str, Any]) -> float:
    """Return the CPU seconds of what a cell of ``accuracy.py`` shares with others: experts, a generator."""
    return float((row.get("experts") or {}).get("cpu_seconds", 0.0) + row.get("generator_cpu_seconds", 0.0))


def from_cell(method: str, row: dict[str, Any]) -> dict[str, Any]:
    """Return the end of a cell of ``accuracy.py`` as a curve of one point."""
    shared = shared_seconds(row)
    point = {"step": row["config"]["steps"], "seconds": round(row["distil_cpu_seconds"] + shared, 1)}
    point["network_percent"] = row["mean"]
    for key in ("own", "kernel"):
        if key in row:
            point[f"{key}_percent"] = row[key]["mean"]
    return {
        "method": method,
        "points": [point],
        "shared_seconds": round(shared, 1),
        "reached": {str(threshold): reached([point], threshold) for threshold in THRESHOLDS},
        "from_cell": True,
    }


def best(point: Mapping[str, Any]) -> float:
    """Return the largest accuracy of a point."""
    return max(value for key, value in point.items() if key.endswith("_percent"))


def reached(points: list[dict[str, Any]], threshold: float) -> float | None:
    """Return the seconds of the first point at or above ``threshold``, or None."""
    return next((point["seconds"] for point in points if best(point) >= threshold), None)


def figure(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy against seconds, a line per method; the methods that reach most are named in the legend first."""
    from matplotlib import pyplot as plt

    _, axes = plt.subplots(figsize=(9, 5.5))
    order = sorted(results.values(), key=lambda result: -max(best(point) for point in result["points"]))
    colours = plt.colormaps["tab20"]
    for number, result in enumerate(order):
        points = result["points"]
        axes.plot(
            [point["seconds"] for point in points],
            [best(point) for point in points],
            marker="o" if number < len(order) // 2 else "s",
            markersize=5,
            markerfacecolor="none" if "from_cell" in result else colours(number % 20),
            color=colours(number % 20),
            label=result["method"],
        )
    for threshold in THRESHOLDS:
        axes.axhline(threshold, color="0.8", linewidth=0.8, zorder=0)
    axes.set(xscale="log", xlabel="CPU seconds, whole process", ylabel="test accuracy (%)", ylim=(75, 99))
    axes.set_title("MNIST, ten images per class (hollow: the end of a longer run)")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=130, bbox_inches="tight")


def main() -> None:
    """Run the methods that are missing, one process each; or draw what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--cells", type=Path)
    parser.add_argument("--child", metavar="METHOD")
    arguments = parser.parse_args()
    if arguments.child:
        content = child(arguments.child)
        write_text(arguments.out, json.dumps(content, indent=1) + "\n")
        return
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    suffix = f"-{DATA}-{IPC}"
    if arguments.cells:
        for name, row in json.loads(arguments.cells.read_text()).items():
            method = name.removesuffix(suffix)
            if name not in CELLS or not name.endswith(suffix):
                continue
            end = from_cell(method, row)
            if method not in results or "from_cell" in results[method]:
                results[method] = end
            elif end["points"][0]["seconds"] > results[method]["points"][-1]["seconds"]:
                results[method]["reached_in_cell"] = end["reached"]
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    if arguments.figure:
        figure(results, arguments.figure)
    if arguments.cells or arguments.figure:
        return
    with_cells = [name.removesuffix(suffix) for name in CELLS if name.endswith(suffix)]
    for method in arguments.only or [*CORESETS, *with_cells]:
        if method in results:
            continue
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / "part.json"
            command = [sys.executable, __file__, "--out", str(part), "--child", method]
            alone = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": folder}
            subprocess.run(command, check=True, env={**os.environ, **alone})
            results[method] = json.loads(part.read_text())
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
