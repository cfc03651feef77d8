"""What the small benchmarks share: cells of a name and a number of images a class, judged over seeds.

Three networks a set, the common recipe in batches of 64, the test images used once; seconds are the CPU's.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import ddkit
from ddkit import data
from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.evaluation import common_recipe, evaluate
from ddkit.evaluation.statistics import summary
from ddkit.training.judge import BATCH

SEEDS, NETWORKS = 3, 3
#: Returns what is kept of a cell: name, images a class, training and test data.
Cell = Callable[[str, int, RealData, RealData], dict[str, Any]]


def run(description: str | None, path: Path, names: Iterable[str], cell: Cell) -> None:
    """Run the cells that are not in the results yet."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root", default=os.environ.get("DDKIT_DATA"))
    parser.add_argument("--ipc", type=int, nargs="+", default=[1, 10])
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = data.load_pair(given.data, root=given.root)
    results = json.loads(path.read_text()) if path.is_file() else {}
    for name in names:
        for ipc in given.ipc:
            key = f"{name}-{given.data}-{ipc}"
            if key not in results:
                results[key] = cell(name, ipc, train, test)
                write_text(path, json.dumps(results, indent=1, sort_keys=True) + "\n")
                print(key, results[key], flush=True)


def judged(
    make: Callable[[int], DistilledDataset], test: RealData, model: str, passes: int, what: str = ""
) -> dict[str, Any]:
    """Make a set for every seed and train networks on it.

    Args:
        make: from a seed to a set; its CPU seconds are kept.
        test: on which networks are judged, once.
        model: of the networks.
        passes: images that each network sees.
        what: said of the sets in the protocol.
    """
    means, seconds = [], []
    for seed in range(SEEDS):
        began = time.process_time()
        made = make(seed)
        seconds.append(round(time.process_time() - began, 2))
        how = common_recipe(made).replace(epochs=max(20, passes // len(made)), batch_size=BATCH)
        means.append(evaluate(made, test, [model], NETWORKS, how, seed).rows[0].mean)
    of = summary(means)
    return {
        "means": means,
        "mean": of.mean,
        "half_width95": of.half_width95,
        "cpu_seconds": seconds,
        "protocol": f"{model}, {what}{SEEDS} seeds, {NETWORKS} networks of {passes:,} images",
        "versions": {"ddkit": ddkit.__version__, "torch": torch.__version__},
    }
