"""What few bits cost four kinds of methods: sets coded from the start and after the run, beside float32.

    python benchmarks/coded_methods.py [--only dm idc kfs frepo]

8x8 digits, ten a class, short runs of ``convnet:width=32``, settings as they are in the short runs of the other
benchmarks; every set is judged by the same networks on the test images, which nothing was chosen on. ``through`` is a
run that is optimised through the codec, ``after`` the float32 result, coded. What does not look like an image
(decoders, learned rows of labels) takes 16 or 8 bits in all of them.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import ddkit
from ddkit import Distiller, data
from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.evaluation import common_recipe, evaluate
from ddkit.evaluation.statistics import summary
from ddkit.training.judge import BATCH

RESULTS = Path(__file__).parent / "results" / "coded-methods.json"
MODEL, IPC, NETWORKS, PASSES = "convnet:width=32", 10, 3, 60_000
BITS = (8, 4, 3, 2)
METHODS: dict[str, dict[str, Any]] = {
    "dm": {"steps": 300, "objective": {"real_batch": 64}},
    "idc": {"steps": 150, "objective": {"real_batch": 32}, "networks": {"life": 25, "images": 256}},
    "kfs": {"steps": 150, "augmentation": "none", "objective": {"real_batch": 64}},
    "frepo": {
        "steps": 600,
        "model": "convnet:width=32,growth=2,norm=none,norm_position=before,init=lecun",
        "objective": {"real_images": 256},
        "optimiser": {"lr": 0.005},
    },
}


def main() -> None:
    """Run the methods that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = data.load_pair("digits")
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for method in given.only:
        if method not in results:
            results[method] = _rows(method, train, test, given.seed)
            write_text(RESULTS, json.dumps(results, indent=1, sort_keys=True) + "\n")


def _rows(method: str, train: RealData, test: RealData, seed: int) -> dict[str, Any]:
    def run(codec: str | None) -> tuple[DistilledDataset, float]:
        began = time.process_time()
        options = {"model": MODEL, **METHODS[method], **({} if codec is None else {"codec": codec})}
        return Distiller(method, IPC, seed=seed, **options).fit(train), time.process_time() - began

    whole, seconds = run(None)
    rows = {"float32": _row(whole, test, seed) | {"cpu_seconds": round(seconds, 1)}}
    for bits in BITS:
        codec = f"uniform:bits={bits}"
        through, seconds = run(codec)
        rows[f"{codec} through"] = _row(through, test, seed) | {"cpu_seconds": round(seconds, 1)}
        rows[f"{codec} after"] = _row(whole.coded(codec), test, seed)
    return {
        "rows": rows,
        "settings": METHODS[method],
        "protocol": f"digits, {IPC} a class, {MODEL}, common recipe in batches of {BATCH}, {PASSES:,} images a "
        f"network, {NETWORKS} networks",
        "versions": {"ddkit": ddkit.__version__, "torch": torch.__version__},
    }


def _row(one: DistilledDataset, test: RealData, seed: int) -> dict[str, Any]:
    how = common_recipe(one).replace(epochs=max(20, PASSES // len(one)), batch_size=BATCH)
    accuracies = evaluate(one, test, [MODEL], NETWORKS, how, seed).rows[0].accuracies
    of = summary(accuracies)
    payload = one.budget.payload or one.budget.bytes
    print(one.metadata.get("method"), one.coding.codec if one.coding else "float32", payload, of.mean, flush=True)
    return {"accuracies": list(accuracies), "mean": of.mean, "half_width95": of.half_width95, "payload": payload}


if __name__ == "__main__":
    main()
