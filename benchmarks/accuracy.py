"""Accuracy of every method on real data, beside random real images under the same evaluation and published figures.

    DDKIT_DATA=... python benchmarks/accuracy.py --out benchmarks/results/accuracy-cpu.json [--only dm-mnist-1 ...]

Evaluation: ConvNet-D3 of width 128, the field's protocol with Siamese augmentation, last epoch, full test set. Every
set is trained on for the same number of image passes (50,000, but at most 1000 epochs), sets of more than 100 images
in batches of 64; epochs and batch are stated in every row. Nothing is selected on the test set. Each cell is kept as
soon as it is done, and a second call goes on with the cells that are missing.

Cells are named method-data-ipc. ``random`` is real images at equal IPC, ``random@bytes`` as many 8-bit real images as
float32 pixels of that IPC take, ``random@METHOD`` as many as the result of METHOD takes, ``start@METHOD`` the starting
point of a method that decodes its images (its control: nothing was matched).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

from experts import FLAT, buffer_for, part_of

from ddkit import Distiller, data
from ddkit.artifact import DistilledDataset
from ddkit.data import RealData
from ddkit.engine import environment, peak_memory_bytes
from ddkit.evaluation import EvaluationResult, TrainingRecipe, evaluate, published, recipe, recipe_of
from ddkit.files import write_text
from ddkit.streams import Streams
from ddkit.synthesis.gan import save_generator, train_generator

#: Distillations: (method, data, ipc) -> overrides of the official schedule. What is not named is official.
REDUCED_GM = {"objective": {"real_batch": 128}}
# The published rate at IPC 1; five times as much at IPC 10, where the gradient of an image is a tenth.
CAFE_1, CAFE_10 = (
    {
        "init": "real",
        "networks": {"query": 32},
        "optimiser": {"lr": rate, "schedule": "constant", "milestones": []},
    }
    for rate in (0.1, 0.5)
)
# Chosen on held-out training images at width 32 (IPC 1, 100 steps): the published rates are those of 200,000 steps.
IDC_SCHEDULE = {
    "networks": {"images": 500, "life": 25},
    "optimiser": {"name": "adam", "lr": 0.02},
}
#: Trajectory cells by data and IPC: what all four methods share; experts are those of ``experts.py``.
SEGMENTS: dict[str, dict[str, Any]] = {
    "mnist-1": {"steps": 120, "student_steps": 20, "expert_epochs": 2, "max_start_epoch": 5, "rate": 1000.0},
    "mnist-10": {
        "steps": 30,
        "student_steps": 20,
        "expert_epochs": 2,
        "max_start_epoch": 5,
        "rate": 1000.0,
        "batch": 50,
    },
    "cifar10-1": {"steps": 80, "student_steps": 30, "expert_epochs": 2, "max_start_epoch": 3, "rate": 100.0},
}
TRAJECTORY = ("mtt", "tesla", "ftd", "haba")


def trajectory_options(method: str, cell: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides of a trajectory cell."""
    options: dict[str, Any] = {
        "steps": cell["steps"],
        "objective": {
            "student_steps": cell["student_steps"],
            "expert_epochs": cell["expert_epochs"],
            "max_start_epoch": cell["max_start_epoch"],
            "batch_syn": cell.get("batch"),
            "lr": 0.02,
        },
        "optimiser": {"lr": cell["rate"], "momentum": 0.5, "groups": {"student_lr": {"lr": 1e-5, "momentum": 0.5}}},
        "zca": None,  # the data are whitened already
    }
    if method == "haba":
        options["optimiser"]["lr"] = cell["rate"] / 10
        options["optimiser"]["groups"]["style"] = {"lr": cell["rate"] / 1000}
    if method == "ftd":
        options["ema"] = round(0.04 ** (1 / cell["steps"]), 3)  # 4 % of the start is left
        options["networks"] = {**FLAT, "adaptive": True}
    return options


CELLS: dict[str, dict[str, Any]] = {
    "dm-mnist-1": {"steps": 300},
    "dm-mnist-10": {"steps": 200},
    "dsa-mnist-1": {"steps": 200, **REDUCED_GM},
    "dc-mnist-1": {"steps": 200, **REDUCED_GM},
    "dsa-mnist-10": {"steps": 150, **REDUCED_GM, "networks": {"inner_epochs": 10}},
    "dc-mnist-10": {"steps": 100, **REDUCED_GM, "networks": {"inner_epochs": 10}, "init": "real"},
    "dm-cifar10-10": {"steps": 250},
    "dc-cifar10-10": {"steps": 80, **REDUCED_GM, "networks": {"inner_epochs": 10}, "init": "real"},
    "dsa-cifar10-10": {"steps": 80, **REDUCED_GM, "networks": {"inner_epochs": 10}},
    "dsac-mnist-1": {"steps": 150, "objective": {"real_batch": 128, "warmup_networks": 4}},
    "dsac-mnist-10": {
        "steps": 80,
        "objective": {"real_batch": 128, "warmup_networks": 2},
        "networks": {"inner_epochs": 10},
    },
    "dsac-cifar10-10": {
        "steps": 60,
        "objective": {"real_batch": 128, "warmup_networks": 2},
        "networks": {"inner_epochs": 10},
    },
    "idc-mnist-1": {"steps": 150, **IDC_SCHEDULE},
    "idc-mnist-10": {"steps": 60, **IDC_SCHEDULE},
    "idc-cifar10-10": {"steps": 60, **IDC_SCHEDULE},
    "cafe-dsa-mnist-1": {"steps": 80, **CAFE_1},
    "cafe-dsa-mnist-10": {"steps": 50, **CAFE_10},
    "cafe-dsa-cifar10-10": {"steps": 50, **CAFE_10},
    "itgan-mnist-1": {"steps": 200, "networks": {"name": "fresh"}},
    "itgan-mnist-10": {"steps": 150, "networks": {"name": "fresh"}},
    "itgan-cifar10-10": {"steps": 150, "networks": {"name": "fresh"}},
    "kfs-mnist-1": {"steps": 200},
    "kfs-mnist-10": {"steps": 150, "synthesis": {"batch_decoders": 2}},
    "kfs-cifar10-10": {"steps": 150, "synthesis": {"batch_decoders": 2}},
    **{
        f"{method}-{cell}": trajectory_options(method, shared)
        for cell, shared in SEGMENTS.items()
        for method in TRAJECTORY
    },
}
CONTROLS = tuple(
    f"{control}-{cell}"
    for control in ("random", "random@bytes")
    for cell in ("mnist-1", "mnist-10", "cifar10-1", "cifar10-10")
)
#: Image passes and largest number of epochs of an evaluation.
PASSES, MOST_EPOCHS = 50_000, 1000
NETWORKS = 3
#: Rounds of the generator of IT-GAN, one for all cells of a dataset.
GENERATOR_STEPS = 1000
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
    if method.startswith("random"):
        count = ipc if method == "random" else images_for_bytes(method, name, train, ipc)
        sets = [Distiller("random", count, seed=seed + draw).fit(train) for draw in range(DRAWS[ipc])]
    elif method.startswith("start@"):
        of = name.removeprefix("start@")
        sets = [Distiller(method.removeprefix("start@"), ipc, seed=seed, **{**CELLS[of], "steps": 0}).fit(train)]
    else:
        sets = [distil(name, method, train, ipc, seed)]
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    networks = 1 if method.startswith("random") else NETWORKS
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
        "distil_seconds": round(seconds, 1),
        "distil_cpu_seconds": round(cpu_seconds, 1),
        "generator_cpu_seconds": generator_seconds(train) if method == "itgan" else 0.0,
        "experts": buffer_for(part_of(train), flat=method == "ftd")[1] if method in TRAJECTORY else None,
        "evaluation_seconds": round(sum(outcome.rows[0].seconds for outcome in outcomes), 1),
        "recipe": protocol.model_dump(mode="json"),
        "evaluation_precision": "bfloat16 training, float32 test pass",
        "config": sets[0].metadata["config"],
        "overrides": CELLS.get(name, {}),
        "seed": seed,
        "peak_memory_mib": peak_memory_bytes("cpu") // 2**20,
        **environment("cpu"),
    }


def shared_generator(train: RealData) -> Path:
    """Train the generator of a dataset once for all its cells; every row states its seconds."""
    path = Path("runs/accuracy") / f"generator-{train.name}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.process_time()
        save_generator(train_generator(train, Streams(0)("generator"), steps=GENERATOR_STEPS), path)
        write_text(path.with_suffix(".seconds"), f"{time.process_time() - started:.0f}\n")
    return path


def generator_seconds(train: RealData) -> float:
    """Return what training the generator of a dataset took, in CPU seconds."""
    return float((Path("runs/accuracy") / f"generator-{train.name}.seconds").read_text())


def how_to_train(data_name: str, distilled: DistilledDataset) -> TrainingRecipe:
    """Return the augmented protocol with the same image passes for every set, with what was learned along with it."""
    own = recipe_of(distilled)
    images = len(distilled) // own.views
    epochs = max(1, min(MOST_EPOCHS, PASSES // images))
    learned = distilled.metadata.get("learned", {})
    batch = 256 if images <= 100 else 64
    return recipe("dsa", data_name, epochs=epochs, batch_size=batch, views=own.views, **learned)


def images_for_bytes(method: str, name: str, train: RealData, ipc: int) -> int:
    """Return how many 8-bit real images per class fit the bytes of float32 pixels, or of a method's result."""
    numbers = math.prod(train.shape)
    of = method.removeprefix("random@")
    if of == "bytes":
        size = ipc * train.num_classes * (4 * numbers + 8)
    else:
        cell = Path("runs/accuracy") / f"{of}-{name.split('-', 1)[1]}"
        size = DistilledDataset.load(cell / "distilled.safetensors").budget.bytes
    return max(1, size // (train.num_classes * (numbers + 8)))


def distil(name: str, method: str, train: RealData, ipc: int, seed: int) -> DistilledDataset:
    """Run one distillation in ``runs/accuracy``, going on where an earlier call stopped."""
    out = Path("runs/accuracy") / name
    options = dict(CELLS[name])
    if method in TRAJECTORY:
        train = part_of(train)
        buffer, _ = buffer_for(train, flat=method == "ftd")
        options["networks"] = {**options.get("networks", {}), "buffer": str(buffer)}
    if method == "itgan":
        options["synthesis"] = {"generator": str(shared_generator(train))}
    distiller = Distiller(method, ipc, seed=seed, **options)
    return distiller.fit(train, out=out, resume=out.exists(), data_spec=train.name)


if __name__ == "__main__":
    main()
