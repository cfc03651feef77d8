"""k-means coresets beside random and herded images, and `dream` beside `idc` at equal steps, on digits.

    OMP_NUM_THREADS=1 python benchmarks/dream.py [--data digits] [--ipc 1 10]

Three seeds, three networks each; the common recipe in batches of 64, the test images used once. The coresets take the
settings of their presets. For matching, images decode to one each, as 8x8 ones have no detail to spare; networks live
25 steps, so that a short run sees several ages, batches have 32 images, as 128 would be whole classes, and the learning
rate is that of the other short runs of IDC. `idc-i` from the start of `dream` tells the signal from the start.
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
from ddkit.base.config import merge
from ddkit.base.files import write_text
from ddkit.data.real import RealData
from ddkit.evaluation import common_recipe, evaluate
from ddkit.evaluation.statistics import summary
from ddkit.methods.idc import batched_momentum
from ddkit.training.judge import BATCH

RESULTS = Path(__file__).parent / "results" / "dream.json"
MODEL, STEPS, SEEDS, NETWORKS, PASSES = "convnet:width=32,depth=2", 150, 3, 3, 10_000
SHORT: dict[str, Any] = {
    "steps": STEPS,
    "synthesis": {"factor": 1},
    "objective": {"real_batch": 32},
    "networks": {"life": 25, "images": 256},
}
#: Methods and overrides by the name of their row.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("random", {}),
    "herding": ("herding", {}),
    "kmeans": ("kmeans", {}),
    "idc-i": ("idc-i", SHORT),
    "idc-i, init=kmeans": ("idc-i", merge(SHORT, {"init": "kmeans"})),
    "dream, factor=1": ("dream", SHORT),
    "dream, factor=1, half the steps": ("dream", merge(SHORT, {"steps": STEPS // 2})),
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
    for name in ROWS:
        for ipc in given.ipc:
            key = f"{name}, {given.data}, {ipc}"
            if key not in results:
                results[key] = _cell(name, ipc, train, test)
                write_text(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")
                print(key, results[key]["mean"], results[key]["cpu_seconds"], flush=True)


def _cell(name: str, ipc: int, train: RealData, test: RealData) -> dict[str, Any]:
    means, seconds, changes = [], [], dict(ROWS[name][1])
    if changes:
        changes["optimiser"] = batched_momentum(5e-3, train.num_classes)
    for seed in range(SEEDS):
        began = time.process_time()
        made = Distiller(ROWS[name][0], ipc, seed=seed, model=MODEL, **changes).fit(train)
        seconds.append(round(time.process_time() - began, 2))
        how = common_recipe(made).replace(epochs=max(20, PASSES // len(made)), batch_size=BATCH)
        means.append(evaluate(made, test, [MODEL], NETWORKS, how, seed).rows[0].mean)
    of = summary(means)
    return {
        "method": ROWS[name][0],
        "options": changes,
        "means": means,
        "mean": of.mean,
        "half_width95": of.half_width95,
        "cpu_seconds": seconds,
        "protocol": f"{MODEL}, {SEEDS} seeds, {NETWORKS} networks of {PASSES:,} images",
        "versions": {"ddkit": ddkit.__version__, "torch": torch.__version__},
    }


if __name__ == "__main__":
    main()
