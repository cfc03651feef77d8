"""k-means coresets beside random and herded images, and `dream` beside `idc` at equal steps, on digits.

    OMP_NUM_THREADS=1 python benchmarks/dream.py [--data digits] [--ipc 1 10]

Three seeds, three networks each; the common recipe in batches of 64, the test images used once. The coresets take the
settings of their presets. For matching, images decode to one each, as 8x8 ones have no detail to spare; networks live
25 steps, so that a short run sees several ages, batches have 32 images, as 128 would be whole classes, and the learning
rate is that of the other short runs of IDC. `idc-i` from the start of `dream` tells the signal from the start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from small_cells import judged, run

from ddkit import Distiller
from ddkit.base.config import merge
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.methods.idc import batched_momentum

RESULTS = Path(__file__).parent / "results" / "dream.json"
MODEL, STEPS, PASSES = "convnet:width=32,depth=2", 150, 10_000
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


def cell(name: str, ipc: int, train: RealData, test: RealData) -> dict[str, Any]:
    """Pick images, or match."""
    method, changes = ROWS[name]
    if changes:
        changes = {**changes, "optimiser": batched_momentum(5e-3, train.num_classes)}

    def make(seed: int) -> DistilledDataset:
        return Distiller(method, ipc, seed=seed, model=MODEL, **changes).fit(train)

    return {"method": method, "options": changes, **judged(make, test, MODEL, PASSES)}


if __name__ == "__main__":
    run(__doc__, RESULTS, ROWS, cell)
