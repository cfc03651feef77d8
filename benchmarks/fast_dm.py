"""`fast-dm` beside `dm` at equal steps: accuracy, CPU seconds of the whole run, seconds of a step.

    OMP_NUM_THREADS=1 python benchmarks/fast_dm.py [--data digits] [--ipc 1 10]

Three seeds of the distillation, three networks each; the common recipe in batches of 64, the test images used once.
Both methods take the settings of their presets but for the number of steps.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

import ddkit
from ddkit import Distiller, data
from ddkit.base.files import write_text
from ddkit.data.real import RealData
from ddkit.engine import Callback, Run
from ddkit.evaluation import common_recipe, evaluate
from ddkit.evaluation.statistics import summary
from ddkit.training.judge import BATCH

RESULTS = Path(__file__).parent / "results" / "fast-dm.json"
MODEL, STEPS, SEEDS, NETWORKS, PASSES = "convnet:width=32", 300, 3, 3, 30_000


class StepSeconds(Callback):
    """CPU seconds of the process at the end of every step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step(self, run: Run) -> None:
        self.at.append(time.process_time())

    def late(self) -> float:
        """Return the mean of the last third, when every pair is known."""
        last = self.at[len(self.at) * 2 // 3 :]
        return (last[-1] - last[0]) / (len(last) - 1)


def main() -> None:
    """Run the cells that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root", default=os.environ.get("DDKIT_DATA"))
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = data.load_pair(given.data, root=given.root)
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for ipc in given.ipc:
        for method in ("dm", "fast-dm"):
            key = f"{method}-{given.data}-{ipc}"
            if key not in results:
                results[key] = _cell(method, ipc, train, test)
                write_text(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
                print(key, results[key], flush=True)


def _cell(method: str, ipc: int, train: RealData, test: RealData) -> dict[str, Any]:
    means, seconds, steps = [], [], []
    for seed in range(SEEDS):
        watch, began = StepSeconds(), time.process_time()
        made = Distiller(method, ipc, seed=seed, steps=STEPS, model=MODEL, callbacks=[watch]).fit(train)
        seconds.append(time.process_time() - began)
        steps.append(watch.late())
        how = common_recipe(made).replace(epochs=max(20, PASSES // len(made)), batch_size=BATCH)
        means.append(evaluate(made, test, [MODEL], NETWORKS, how, seed).rows[0].mean)
    of = summary(means)
    return {
        "means": means,
        "mean": of.mean,
        "half_width95": of.half_width95,
        "cpu_seconds": [round(value, 2) for value in seconds],
        "cpu_seconds_a_step": [round(value, 5) for value in steps],
        "protocol": f"{MODEL}, {STEPS} steps, {SEEDS} seeds, {NETWORKS} networks of {PASSES:,} images",
        "versions": {"ddkit": ddkit.__version__, "torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
