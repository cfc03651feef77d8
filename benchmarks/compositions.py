"""Accuracy for CPU seconds of short runs: compositions of distribution matching beside `dm`, at equal steps.

    DDKIT_DATA=... python benchmarks/compositions.py --data mnist --ipc 10 [--only NAME ...] [--steps 100 300]
    DDKIT_DATA=... python benchmarks/compositions.py --data mnist --ipc 10 --only auto --minutes 2.5

Each run has a process of its own on one thread, without cached kernels; its seconds are all CPU seconds of the process
and of the compilers it starts, from the interpreter's start to the finished set, networks that are trained for it
included. ``auto`` makes a set of as many bytes as so many 8-bit images take, in as many steps as fit the minutes. The
set is judged by three ConvNet-D3 of width 128, the field's augmentation, ``PASSES`` images each (large sets: 20 epochs)
in batches of 64, on the test images, which are used for nothing else: settings were chosen on held-out training images.
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
from pathlib import Path
from typing import Any

from ddkit import Distiller, data
from ddkit.base.config import merge
from ddkit.base.files import write_text
from ddkit.engine import environment
from ddkit.evaluation import common_recipe, evaluate
from ddkit.evaluation.statistics import summary
from ddkit.training.judge import BATCH

RESULTS = Path(__file__).parent / "results" / "compositions.json"
MODEL, JUDGE, NETWORKS, PASSES = "convnet:width=32", "convnet", 3, 60_000
_SHORT = {"model": MODEL, "optimiser": {"lr": 10.0, "schedule": "cosine"}}
#: What runs, by name: a preset, and what replaces its settings.
COMPOSITIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "dm": ("dm", _SHORT),
    "fast-dm": ("fast-dm", _SHORT),
    "fast-dm, four formations": (
        "fast-dm",
        {
            "model": MODEL,
            "synthesis": {"name": "multi-formation", "factor": 2},
            "init": "kmeans",
            "networks": {"count": 20},
            "signal": {"images": 64},
            "optimiser": {"name": "sgd", "lr": 0.3, "momentum": 0.5, "schedule": "cosine"},
        },
    ),
    "fast-dance": ("fast-dance", {}),
    "fast-kfs": ("fast-kfs", {}),
    "fast-kfs, width 32": ("fast-kfs", {"model": MODEL}),
    "auto": ("auto", {"model": MODEL}),
}


def main() -> None:
    """Run the cells that are not in the results yet, one process each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--ipc", type=int, required=True)
    parser.add_argument("--only", nargs="*", choices=sorted(COMPOSITIONS), default=sorted({*COMPOSITIONS} - {"auto"}))
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, nargs="+", default=[300])
    length.add_argument("--minutes", type=float)
    parser.add_argument("--root", default=os.environ.get("DDKIT_DATA"))
    parser.add_argument("--child", type=Path, help="write one cell there")
    given = parser.parse_args()
    if given.child:
        made = _cell(given.only[0], given.data, given.root, given.ipc, given.steps[0], given.minutes)
        write_text(given.child, json.dumps(made))
        return
    for name in given.only:
        for steps in given.steps if given.minutes is None else [None]:
            cell = f"{given.data}/{given.ipc}/{name}/{steps or f'{given.minutes:g} minutes'}"
            if cell in _results():
                continue
            with tempfile.TemporaryDirectory() as folder:
                part = Path(folder) / "part.json"
                what = {"data": given.data, "ipc": given.ipc, "only": name, "root": given.root}
                what |= {"steps": steps, "minutes": given.minutes}
                words = [word for key, value in what.items() if value for word in (f"--{key}", str(value))]
                alone = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
                environ = {**os.environ, **alone, "TORCHINDUCTOR_CACHE_DIR": folder}
                subprocess.run([sys.executable, __file__, "--child", str(part), *words], check=True, env=environ)
                found = json.loads(part.read_text())
            write_text(RESULTS, json.dumps({**_results(), cell: found}, indent=1, sort_keys=True) + "\n")
            print(cell, found["cpu_seconds"], found["mean"], found["half_width95"], flush=True)


def _results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def _cell(name: str, data_name: str, root: str | None, ipc: int, steps: int, minutes: float | None) -> dict[str, Any]:
    method, overrides = COMPOSITIONS[name]
    train, test = data.load_pair(data_name, root=root)
    if minutes is None and method != "random":
        overrides = merge(overrides, {"steps": steps})
    made = Distiller(method, ipc, minutes=minutes, seed=0, **overrides).fit(train)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + children.ru_utime + children.ru_stime
    how = common_recipe(made).replace(epochs=max(20, PASSES // len(made)), batch_size=BATCH)
    accuracies = evaluate(made, test, [JUDGE], NETWORKS, how, 0, precision="bfloat16", compile=True).rows[0].accuracies
    of = summary(accuracies)
    return {
        "accuracies": list(accuracies),
        "mean": of.mean,
        "half_width95": of.half_width95,
        "cpu_seconds": round(seconds, 1),
        "training_images": len(made),
        "payload": made.budget.payload,
        "config": made.metadata["config"],
        "protocol": f"{JUDGE}, {NETWORKS} networks of {PASSES:,} images in batches of {BATCH}",
        **environment("cpu"),
    }


if __name__ == "__main__":
    main()
