"""Three distances between real and synthetic features on the same frozen networks: accuracy and CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/distances.py [--data digits] [--ipc 1 10]

Class means (`distribution`), characteristic functions (`characteristic`) and Gaussian kernels (`discrepancy`) from the
same real images, under ten random networks and whole classes, without augmentation, beside random real images.
Three seeds of the distillation, three networks each; the common recipe in batches of 64, the test images used once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_cells import judged, run

from ddkit import Distiller
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData

RESULTS = Path(__file__).parent / "results" / "distances.json"
MODEL, STEPS, PASSES = "convnet:width=32,depth=2", 80, 30_000
POOL = {"networks": {"name": "fixed", "count": 10}, "augmentation": "none", "optimiser": {"name": "adam", "lr": 0.05}}
CACHED = {"name": "cached", "images": None}
#: What is learned from, by name; no steps leave the real images of the start.
WAYS: dict[str, dict[str, Any]] = {
    "random": {"steps": 0},
    "means": {"signal": CACHED},
    "characteristic": {"signal": CACHED, "objective": "characteristic"},
    "gaussian kernels": {"objective": {"name": "discrepancy", "real_batch": 10_000}},
}


def cell(way: str, ipc: int, train: RealData, test: RealData) -> dict[str, Any]:
    """Match by a distance."""

    def make(seed: int) -> DistilledDataset:
        return Distiller("dm", ipc, seed=seed, **{"model": MODEL, "steps": STEPS, **POOL, **WAYS[way]}).fit(train)

    return judged(make, test, MODEL, PASSES, f"{STEPS} steps, ")


if __name__ == "__main__":
    run(__doc__, RESULTS, WAYS, cell)
