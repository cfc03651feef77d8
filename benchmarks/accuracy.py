"""Accuracy of every method on real data, beside random real images under the same evaluation and published figures.

    DDKIT_DATA=... python benchmarks/accuracy.py --out benchmarks/results/accuracy-cpu.json [--only dm-mnist-1 ...]

Evaluation: ConvNet-D3 of width 128, the field's protocol with Siamese augmentation, the number of epochs stated in
every row, last epoch, full test set. Nothing is selected on the test set. Each cell is kept as soon as it is done, and
a second call goes on with the cells that are missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from ddkit import Distiller, data
from ddkit.artifact import DistilledDataset
from ddkit.data import RealData
from ddkit.engine import environment, peak_memory_bytes
from ddkit.evaluation import EvaluationResult, evaluate, published, recipe
from ddkit.files import write_text

#: Distillations: (method, data, ipc) -> overrides of the official schedule. What is not named is official.
REDUCED_GM = {"objective": {"real_batch": 128}}
CELLS: dict[str, dict[str, Any]] = {
    "dm-mnist-1": {"steps": 300},
    "dm-mnist-10": {"steps": 200},
    "dsa-mnist-1": {"steps": 200, **REDUCED_GM},
    "dc-mnist-1": {"steps": 200, **REDUCED_GM},
    "dsa-mnist-10": {"steps": 150, **REDUCED_GM, "networks": {"inner_epochs": 10}},
    "dc-mnist-10": {"steps": 100, **REDUCED_GM, "networks": {"inner_epochs": 10}, "init": "real"},
    "dm-cifar10-10": {"steps": 250},
}
#: Epochs of the evaluation by IPC: the published 1000, and half of them where a set is ten times larger.
EPOCHS = {1: 1000, 10: 500}
NETWORKS = 3
DRAWS = {1: 5, 10: 3}


def main() -> None:
    """Run the cells that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    loaded: dict[str, tuple[RealData, RealData]] = {}
    for name in arguments.only or [*CELLS, "random-mnist-1", "random-mnist-10", "random-cifar10-10"]:
        if name in results:
            continue
        method, source, ipc = name.split("-")
        if source not in loaded:
            loaded[source] = data.load_pair(source, download=False)
        results[name] = cell(name, method, *loaded[source], int(ipc), arguments.seed)
        results[name]["command"] = "python " + " ".join(sys.argv)
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")
        row = results[name]
        print(f"{name}: {row['mean']:.2f} +- {row['std']:.2f}  distil {row['distil_seconds']:.0f} s", flush=True)


def cell(name: str, method: str, train: RealData, test: RealData, ipc: int, seed: int) -> dict[str, Any]:
    """Distil (or draw) and evaluate one cell."""
    started, cpu_started = time.perf_counter(), time.process_time()
    if method == "random":
        sets = [Distiller("random", ipc, seed=seed + draw).fit(train) for draw in range(DRAWS[ipc])]
    else:
        sets = [distil(name, method, train, ipc, seed)]
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    networks = 1 if method == "random" else NETWORKS
    protocol = recipe("dsa", train.name, epochs=EPOCHS[ipc])
    outcomes: list[EvaluationResult] = [
        evaluate(one, test, repeats=networks, recipe=protocol, seed=seed + i, precision="bfloat16", compile=True)
        for i, one in enumerate(sets)
    ]
    values = [100 * a for outcome in outcomes for a in outcome.rows[0].accuracies]
    mean = sum(values) / len(values)
    figure = published(method, train.name, ipc)
    return {
        "method": method,
        "data": train.name,
        "ipc": ipc,
        "accuracies_percent": [round(v, 2) for v in values],
        "mean": round(mean, 2),
        "std": round((sum((v - mean) ** 2 for v in values) / len(values)) ** 0.5, 2),
        "sets": len(sets),
        "networks_per_set": networks,
        "published": None
        if figure is None
        else {"accuracy": figure.accuracy, "std": figure.std, "source": figure.source},
        "distil_seconds": round(seconds, 1),
        "distil_cpu_seconds": round(cpu_seconds, 1),
        "evaluation_seconds": round(sum(outcome.rows[0].seconds for outcome in outcomes), 1),
        "recipe": protocol.model_dump(mode="json"),
        "evaluation_precision": "bfloat16 training, float32 test pass",
        "config": sets[0].metadata["config"],
        "overrides": CELLS.get(name, {}),
        "seed": seed,
        "peak_memory_mib": peak_memory_bytes("cpu") // 2**20,
        **environment("cpu"),
    }


def distil(name: str, method: str, train: RealData, ipc: int, seed: int) -> DistilledDataset:
    """Run one distillation in ``runs/accuracy``, going on where an earlier call stopped."""
    out = Path("runs/accuracy") / name
    distiller = Distiller(method, ipc, seed=seed, **CELLS[name])
    return distiller.fit(train, out=out, resume=out.exists(), data_spec=train.name)


if __name__ == "__main__":
    main()
