"""Accuracy at a number of bytes: what ``Distiller(bytes=...)`` returns beside real images in as many bytes.

    python benchmarks/rate_accuracy.py --data digits --images 0.1 0.25 1 2.5 [--minutes 10]

For every budget, given in float32 images a class: the set, and the controls ``random-bytes``, ``random-coded``,
``herding-coded`` and ``random-best``, each judged by networks that see the same number of images. Everything is chosen
on held-out training images; the test images are used once, for the figures. Without ``--minutes`` the set takes what
``auto`` takes by itself, which for large budgets is an hour and more. Runs and finished cells are kept and not computed
again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import torch

import ddkit
from ddkit import Distiller, data
from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine import ProgressLines
from ddkit.errors import ConfigError
from ddkit.evaluation.assess import merge_draws
from ddkit.evaluation.baselines import AT_EQUAL_BYTES, baseline_sets
from ddkit.evaluation.evaluate import evaluate
from ddkit.evaluation.statistics import summary
from ddkit.training.judge import BATCH
from ddkit.training.named import recipe

RESULTS = Path(__file__).parent / "results" / "rate-accuracy.json"
MODEL = "convnet:width=32"
#: Images that each network sees; the fewest epochs, which for large sets are more images, and the most of these.
PASSES, EPOCHS, MOST = 60_000, 20, 250_000
NETWORKS = 3


def main() -> None:
    """Run the cells that are not in the results yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--root", default=os.environ.get("DDKIT_DATA"))
    parser.add_argument("--images", type=float, nargs="+", required=True, help="budgets, in float32 images a class")
    parser.add_argument("--minutes", type=float, help="for the set: choosing, learning and comparing with its start")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/rate-accuracy"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = data.load_pair(given.data, root=given.root)
    for images in given.images:
        available = int(4 * math.prod(train.shape) * images * train.num_classes)
        key = f"{given.data}/{available}/{given.seed}"
        if key not in _results():
            out = given.runs / key.replace("/", "-")
            _keep(key, _cell(train, test, available, given.seed, given.minutes, out))


def _results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}


def _keep(key: str, cell: dict[str, Any]) -> None:
    write_text(RESULTS, json.dumps({**_results(), key: cell}, indent=1, sort_keys=True) + "\n")


def _cell(
    train: RealData, test: RealData, available: int, seed: int, minutes: float | None, out: Path
) -> dict[str, Any]:
    began = time.process_time()
    distiller = Distiller(bytes=available, minutes=minutes, seed=seed, model=MODEL, callbacks=[ProgressLines()])
    distilled = distiller.fit(train, out=out, resume=True)
    card, seconds = distilled.card, time.process_time() - began
    rows = {"ddkit": _row([distilled], test, seed)}
    kinds = [kind for kind in AT_EQUAL_BYTES if kind != "random-bytes" or available >= math.prod(train.shape) * 10]
    for kind in kinds:
        try:
            members = baseline_sets(train, distilled, [kind], seed, NETWORKS, passes=PASSES)[kind]
        except ConfigError as error:
            print(kind, error, flush=True)
            continue
        assert isinstance(members, list)
        rows[kind] = _row(members, test, seed)
    assert distilled.coding is not None and card.promise is not None
    return {
        "rows": rows,
        "available": available,
        "codec": distilled.coding.codec,
        "images_per_class": len(distilled) // train.num_classes,
        "rate": distilled.metadata["config"]["optimiser"]["lr"],
        "promise": card.promise.model_dump(),
        "cpu_seconds_of_the_set": round(seconds, 1),
        "minutes": minutes,
        "protocol": f"{MODEL}, dsa recipe in batches of {BATCH}, {PASSES:,} images a network "
        f"(at least {EPOCHS} epochs, of at most {MOST:,} images), {NETWORKS} networks",
        "versions": {"ddkit": ddkit.__version__, "torch": torch.__version__},
    }


def _row(members: list[DistilledDataset], test: RealData, seed: int) -> dict[str, Any]:
    results = []
    for draw, one in enumerate(members):
        epochs = max(1, min(max(EPOCHS, round(PASSES / len(one))), MOST // len(one)))
        how = recipe("dsa", test.name, epochs=epochs, batch_size=BATCH)
        networks = NETWORKS // len(members)
        pays = test.shape[1] > 8 and len(one) >= BATCH
        fast: dict[str, Any] = {"precision": "bfloat16", "compile": True, "stacked": False} if pays else {}
        results.append(evaluate(one, test, [MODEL], networks, how, seed + draw, **fast))
        print(one.metadata.get("method"), len(one), one.budget.payload, results[-1].rows[0].accuracies, flush=True)
    accuracies = merge_draws(results).rows[0].accuracies
    of = summary(accuracies)
    return {
        "accuracies": list(accuracies),
        "mean": of.mean,
        "half_width95": of.half_width95,
        "images": [len(one) for one in members],
        "payload": [one.budget.payload for one in members],
        "form": members[0].metadata.get("form"),
    }


if __name__ == "__main__":
    main()
