"""Which expert trajectories do the accuracy benchmarks use, and what did they cost?

One buffer per dataset and kind (plain, flat), built on first use in ``runs/accuracy`` and shared by all cells.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch

from ddkit.augment import default_strategy
from ddkit.base.files import write_text
from ddkit.data import RealData
from ddkit.training.experts import ExpertSettings, build_buffer

#: Real images on which experts are trained and which trajectory matching distils: the first of a permutation.
IMAGES = 10_000
COUNT = 4
#: Epochs that segments reach, and batch and learning rate (twice the published one: an epoch has fewer steps).
EPOCHS = {"mnist": 6, "cifar10": 4}
BATCH, RATE = 128, 0.02
#: Flat experts: the ball is larger than the published one, which hardly changes an expert.
FLAT = {"rho": 0.5, "alpha": 0.3}
#: Datasets whose pixels are whitened, as published.
WHITENED = ("cifar10",)


def part_of(train: RealData) -> RealData:
    """Return the real images that trajectory cells see, whitened where the published cells are."""
    index = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:IMAGES]
    part = train.subset(index.sort().values)
    if train.name in WHITENED:
        part = part.whitened("pixels")
    return part


def buffer_for(part: RealData, flat: bool, device: str = "cpu") -> tuple[Path, dict[str, Any]]:
    """Return the buffer of a dataset and its card: settings, seconds, bytes."""
    path = Path("runs/accuracy") / f"experts-{part.name}{'-flat' if flat else ''}"
    card = path.with_suffix(".json")
    if not card.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = ExpertSettings(
            epochs=EPOCHS[part.name],
            lr=RATE,
            batch_size=BATCH,
            augmentation=default_strategy(part.name),
            **(FLAT if flat else {}),
        )
        started, cpu_started = time.perf_counter(), time.process_time()
        build_buffer(part, path, settings, COUNT, device=device)
        content = {
            "settings": settings.model_dump(mode="json"),
            "count": COUNT,
            "images": len(part),
            "seconds": round(time.perf_counter() - started, 1),
            "cpu_seconds": round(time.process_time() - cpu_started, 1),
            "bytes": sum(file.stat().st_size for file in path.iterdir()),
        }
        write_text(card, json.dumps(content, indent=1) + "\n")
    return path, dict(json.loads(card.read_text()))
