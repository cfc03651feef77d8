"""With which settings do the accuracy benchmarks distil, and how are networks trained on the results?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experts import FLAT, buffer_for, part_of

from ddkit import Distiller
from ddkit.base.files import write_text
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import Callback
from ddkit.evaluation import recipe_of
from ddkit.synthesis.gan import save_generator, train_generator
from ddkit.training import OWN_RECIPES, TrainingRecipe, recipe

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


#: Networks and rates of short runs on a CPU, where the published widths are those of a GPU.
RFAD = {
    "model": "convnet:width=64,norm=none,init=ntk",
    "networks": {"bodies": 4},
    "objective": {"real_images": 512},
    "optimiser": {"name": "adam", "lr": 0.02, "groups": {"temperature": {"lr": 0.05}}},
}
FREPO = {
    "model": "convnet:width=32,growth=2,norm=none,norm_position=before,init=lecun",
    "objective": {"real_images": 256},
    "optimiser": {"lr": 0.005},
}
KIP = {"synthesis": {"labels": "centred"}, "optimiser": {"lr": 0.02}}
#: One image per class is learned for one initialisation, as published; ten for fresh ones. From noise nothing was
#: learned for fresh networks within a few hundred steps (20 to 30 % on MNIST after 300), so these start at real images.
BPTT_1 = {"networks": "fixed", "steps": 3000, "objective": {"real_images": 256}}
BPTT_10 = {
    "model": "mlp:width=128,init=xavier",
    "init": "real",
    "steps": 2000,
    "objective": {"real_images": 256, "lr": 0.05},
}
RTP = {
    "model": "convnet:width=16",
    "objective": {"inner_steps": 20, "batch_per_class": 4, "real_images": 160, "lr": 0.02},
    "optimiser": {"name": "adam", "lr": 0.01, "clip": 2.0},
}

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
    "dd-mnist-1": BPTT_1,
    "dd-mnist-10": BPTT_10,
    "sldd-mnist-1": BPTT_1,
    "sldd-mnist-10": BPTT_10,
    "ld-mnist-1": {"steps": 1500},
    "ld-mnist-10": {"steps": 1500},
    "gtn-mnist-1": {"model": "convnet:width=16", "steps": 400},
    "gtn-mnist-10": {"model": "convnet:width=16", "steps": 400},
    "rtp-mnist-1": {"steps": 200, **RTP},
    "rtp-mnist-10": {"steps": 200, **RTP},
    "kip-mnist-1": {"steps": 1000, **KIP},
    "kip-mnist-10": {"steps": 1500, **KIP},
    "rfad-mnist-1": {"steps": 300, **RFAD},
    "rfad-mnist-10": {"steps": 250, **RFAD},
    "frepo-mnist-1": {"steps": 600, **FREPO},
    "frepo-mnist-10": {"steps": 600, **FREPO},
    "rfad-cifar10-1": {"steps": 200, **RFAD},
    "rfad-cifar10-10": {"steps": 200, **RFAD},
    "frepo-cifar10-1": {"steps": 1500, **FREPO},
    "frepo-cifar10-10": {"steps": 1500, **FREPO},
    **{
        f"{method}-{cell}": trajectory_options(method, shared)
        for cell, shared in SEGMENTS.items()
        for method in TRAJECTORY
    },
}
#: Image passes and largest number of epochs of an evaluation.
PASSES, MOST_EPOCHS = 50_000, 1000
#: Rounds of the generator of IT-GAN, one for all cells of a dataset.
GENERATOR_STEPS = 1000


def distil(
    name: str,
    method: str,
    train: RealData,
    ipc: int,
    seed: int,
    callbacks: Sequence[Callback] = (),
    out: Path | None = None,
) -> DistilledDataset:
    """Run one distillation, by default in ``runs/accuracy``, going on where an earlier call stopped."""
    out = out or Path("runs/accuracy") / name
    options = dict(CELLS[name])
    if method in TRAJECTORY:
        train = part_of(train)
        buffer, _ = buffer_for(train, flat=method == "ftd")
        options["networks"] = {**options.get("networks", {}), "buffer": str(buffer)}
    if method == "itgan":
        options["synthesis"] = {"generator": str(shared_generator(train))}
    distiller = Distiller(method, ipc, seed=seed, callbacks=callbacks, **options)
    return distiller.fit(train, out=out, resume=out.exists(), data_spec=train.name)


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
    learned = {} if own.name in OWN_RECIPES else distilled.metadata.get("learned", {})
    if own.loss != "auto":
        learned = {**learned, "loss": own.loss}
    batch = 256 if images <= 100 else 64
    return recipe("dsa", data_name, epochs=epochs, batch_size=batch, views=own.views, **learned)
