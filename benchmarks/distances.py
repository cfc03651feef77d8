"""Three distances between real and synthetic features on the same frozen networks: accuracy and CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/distances.py [--data digits] [--ipc 1 10]

Class means (`distribution`), characteristic functions (`characteristic`) and Gaussian kernels (`discrepancy`) from the
same real images, under ten random networks and whole classes, without augmentation, beside random real images.
Three seeds of the distillation, three networks each; the common recipe in batches of 64, the test images used once.
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
from ddkit.evaluation import common_recipe, evaluate
from ddkit.evaluation.statistics import summary
from ddkit.training.judge import BATCH

RESULTS = Path(__file__).parent / "results" / "distances.json"
MODEL, STEPS, SEEDS, NETWORKS, PASSES = "convnet:width=32,depth=2", 80, 3, 3, 30_000
POOL = {"networks": {"name": "fixed", "count": 10}, "augmentation": "none", "optimiser": {"name": "adam", "lr": 0.05}}
CACHED = {"name": "cached", "images": None}
#: What is learned from, by name; no steps leave the real images of the start.
WAYS: dict[str, dict[str, Any]] = {
    "random": {"steps": 0},
    "means": {"signal": CACHED},
    "characteristic": {"signal": CACHED, "objective": "characteristic"},
    "gaussian kernels": {"objective": {"name": "discrepancy", "real_batch": 10_000}},
}


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
        for way in WAYS:
            key = f"{way}-{given.data}-{ipc}"
            if key not in results:
                results[key] = _cell(way, ipc, train, test)
                write_text(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
                print(key, results[key], flush=True)


def _cell(way: str, ipc: int, train: RealData, test: RealData) -> dict[str, Any]:
    means, seconds = [], []
    for seed in range(SEEDS):
        began = time.process_time()
        made = Distiller("dm", ipc, seed=seed, **{"model": MODEL, "steps": STEPS, **POOL, **WAYS[way]}).fit(train)
        seconds.append(time.process_time() - began)
        how = common_recipe(made).replace(epochs=max(20, PASSES // len(made)), batch_size=BATCH)
        means.append(evaluate(made, test, [MODEL], NETWORKS, how, seed).rows[0].mean)
    of = summary(means)
    return {
        "means": means,
        "mean": of.mean,
        "half_width95": of.half_width95,
        "cpu_seconds": [round(value, 2) for value in seconds],
        "protocol": f"{MODEL}, {STEPS} steps, {SEEDS} seeds, {NETWORKS} networks of {PASSES:,} images",
        "versions": {"ddkit": ddkit.__version__, "torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
