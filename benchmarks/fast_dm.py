"""`fast-dm` beside `dm` at equal steps: accuracy, CPU seconds of the whole run, seconds of a step.

    OMP_NUM_THREADS=1 python benchmarks/fast_dm.py [--data digits] [--ipc 1 10]

Three seeds of the distillation, three networks each; the common recipe in batches of 64, the test images used once.
Both methods take the settings of their presets but for the number of steps.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from small_cells import judged, run

from ddkit import Distiller
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine import Callback, Run

RESULTS = Path(__file__).parent / "results" / "fast-dm.json"
MODEL, STEPS, PASSES = "convnet:width=32", 300, 30_000


class StepSeconds(Callback):
    """CPU seconds of the process at the end of every step."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def on_step(self, run: Run) -> None:
        self.at.append(time.process_time())

    def late(self) -> float:
        """Return the mean of the last third, when every pair is known."""
        last = self.at[len(self.at) * 2 // 3 :]
        return (last[-1] - last[0]) / (len(last) - 1)


def cell(method: str, ipc: int, train: RealData, test: RealData) -> dict[str, Any]:
    """Distil by a method."""
    steps: list[float] = []

    def make(seed: int) -> DistilledDataset:
        watch = StepSeconds()
        made = Distiller(method, ipc, seed=seed, steps=STEPS, model=MODEL, callbacks=[watch]).fit(train)
        steps.append(round(watch.late(), 5))
        return made

    return {**judged(make, test, MODEL, PASSES, f"{STEPS} steps, "), "cpu_seconds_a_step": steps}


if __name__ == "__main__":
    run(__doc__, RESULTS, ("dm", "fast-dm"), cell)
