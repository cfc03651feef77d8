"""Accuracy of every method on real data, beside random real images under the same evaluation and published figures.

    DDKIT_DATA=... python benchmarks/accuracy.py --out benchmarks/results/accuracy-cpu.json [--only dm-mnist-1 ...]

Evaluation: ConvNet-D3 of width 128, the field's protocol with Siamese augmentation, last epoch, full test set. Every
set is trained on for the same number of image passes (50,000, but at most 1000 epochs), sets of more than 100 images
in batches of 64; epochs and batch are stated in every row. Nothing is selected on the test set. Each cell is kept as
soon as it is done, and a second call goes on with the cells that are missing.

A set whose method has a way of its own (learned steps, Adam on squared errors, a kernel) is also evaluated that way:
``own`` and ``kernel`` stand beside the common protocol in its row.

Cells are named method-data-ipc. ``random`` is real images at equal IPC, ``random@bytes`` as many 8-bit real images as
float32 pixels of that IPC take, ``random@METHOD`` as many as the result of METHOD takes; ``coded@`` and ``best@`` in
place of ``random@`` are as many as fit in the codec of the set and in the form in which they are worth most, chosen on
held-out training images. ``start@METHOD`` is the starting point of a method that decodes its images (its control:
nothing was matched).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from cells import CELLS, PASSES, TRAJECTORY, distil, generator_seconds, how_to_train
from experts import buffer_for, part_of

from ddkit import Distiller, data
from ddkit.base.files import write_text
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import environment, peak_memory_bytes
from ddkit.evaluation import (
    EvaluationResult,
    baseline_sets,
    evaluate,
    evaluate_kernel,
    kernel_of,
    own_model,
    published,
    recipe_for_others,
    recipe_of,
)
from ddkit.models.kernels import NetworkFeatures
from ddkit.training import OWN_RECIPES

CONTROLS = tuple(
    f"{control}-{cell}"
    for control in ("random", "random@bytes", "coded@bytes", "best@bytes")
    for cell in ("mnist-1", "mnist-10", "cifar10-1", "cifar10-10")
)
#: Baselines at equal bytes, by the prefix of their cells.
AT_EQUAL_BYTES = {"random": "random-bytes", "coded": "random-coded", "best": "random-best"}
NETWORKS = 3
#: Networks of evaluations of a few steps.
OWN_NETWORKS = 20
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
    for name in arguments.only or [*CELLS, *CONTROLS]:
        if name in results:
            continue
        method, source, ipc = name.rsplit("-", 2)
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
    control, _, of = method.partition("@")
    if method == "random":
        sets = [Distiller("random", ipc, seed=seed + draw).fit(train) for draw in range(DRAWS[ipc])]
    elif control in AT_EQUAL_BYTES:
        sets = at_equal_bytes(AT_EQUAL_BYTES[control], of, name.split("-", 1)[1], train, ipc, seed)
    elif method.startswith("start@"):
        of = name.removeprefix("start@")
        sets = [Distiller(method.removeprefix("start@"), ipc, seed=seed, **{**CELLS[of], "steps": 0}).fit(train)]
    else:
        sets = [distil(name, method, train, ipc, seed)]
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    networks = 1 if control in AT_EQUAL_BYTES else NETWORKS
    protocol = how_to_train(train.name, sets[0])
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
        "decoded_images": len(sets[0]),
        "stored": sets[0].budget.as_dict(),
        "sets": len(sets),
        "networks_per_set": networks,
        "published": None
        if figure is None
        else {"accuracy": figure.accuracy, "std": figure.std, "source": figure.source},
        **own_ways(sets[0], test, seed),
        "distil_seconds": round(seconds, 1),
        "distil_cpu_seconds": round(cpu_seconds, 1),
        "generator_cpu_seconds": generator_seconds(train) if method == "itgan" else 0.0,
        "experts": buffer_for(part_of(train), flat=method == "ftd")[1] if method in TRAJECTORY else None,
        "evaluation_seconds": round(sum(outcome.rows[0].seconds for outcome in outcomes), 1),
        "recipe": protocol.model_dump(mode="json"),
        "evaluation_precision": "bfloat16 training, float32 test pass",
        "config": sets[0].metadata.get("config"),
        "form": sets[0].metadata.get("form"),
        "overrides": CELLS.get(name, {}),
        "seed": seed,
        "peak_memory_mib": peak_memory_bytes("cpu") // 2**20,
        **environment("cpu"),
    }


def own_ways(distilled: DistilledDataset, test: RealData, seed: int) -> dict[str, Any]:
    """Evaluate a set as its method defines it, where that is not the common protocol."""
    found: dict[str, Any] = {}
    own = recipe_of(distilled)
    if own.name in OWN_RECIPES:
        model = own_model(distilled)
        if own.schedule == "given":
            result = evaluate(distilled, test, (model,), repeats=OWN_NETWORKS, recipe=own, seed=seed)
        else:
            own = own.replace(epochs=max(1, min(own.epochs, PASSES // len(distilled))))
            fast: dict[str, Any] = {"precision": "bfloat16", "compile": True} if own.head == "linear" else {}
            result = evaluate(distilled, test, (model,), repeats=NETWORKS, recipe=own, seed=seed, **fast)
        found["own"] = figures(result)
        found["own"]["recipe"] = own.model_dump(mode="json")
    if (kernel := kernel_of(distilled)) is not None and kernel.kernel["name"] != NetworkFeatures.name:
        found["kernel"] = figures(evaluate_kernel(distilled, test, repeats=NETWORKS, seed=seed))
    return found


def figures(outcome: EvaluationResult) -> dict[str, Any]:
    """Return what one evaluation found, in percent."""
    row = outcome.rows[0]
    return {
        "architecture": row.architecture,
        "accuracies_percent": [round(100 * value, 2) for value in row.accuracies],
        "mean": round(100 * row.mean, 2),
        "std": round(100 * row.std, 2),
        "seconds": round(row.seconds, 1),
    }


def at_equal_bytes(kind: str, of: str, setting: str, train: RealData, ipc: int, seed: int) -> list[DistilledDataset]:
    """Return draws of real images that fit the bytes of float32 pixels, or of the result of a method."""
    if of == "bytes":
        images = Distiller("random", ipc, seed=seed).fit(train)
        beside = DistilledDataset(
            images.tensors()[0],
            images.labels,
            class_names=images.class_names,
            preprocessing=images.preprocessing,
            metadata=images.metadata,
        )
    else:
        beside = DistilledDataset.load(Path("runs/accuracy") / f"{of}-{setting}")
    protocol = recipe_for_others(beside, how_to_train(train.name, beside))
    sets = baseline_sets(train, beside, (kind,), seed, DRAWS[ipc], model="convnet", recipe=protocol)[kind]
    assert isinstance(sets, list)
    return sets


if __name__ == "__main__":
    main()
