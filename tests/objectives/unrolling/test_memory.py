"""How memory grows with the number of student steps, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bench_unroll.py"


def peak(method: str, steps: int) -> float:
    """Return the peak memory of one meta-gradient in MiB."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # memory that is freed is handed back
    command = [sys.executable, str(BENCHMARK), "--method", method, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(json.loads(done.stdout.splitlines()[-1])["peak_mib"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("method", "lowest", "highest"),
    [("full", 8, 100), ("adjoint", 0, 2.5), ("checkpointed", 0, 1.8), ("tesla", 0, 1.5)],
)
def test_only_the_full_unroll_needs_memory_for_every_step(method: str, lowest: float, highest: float) -> None:
    ratio = peak(method, 40) / peak(method, 1)
    assert lowest < ratio < highest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["", "-momentum"])
def test_checkpoints_need_less_memory_at_many_steps(kind: str) -> None:
    assert peak(f"checkpointed{kind}", 100) < 0.7 * peak(f"adjoint{kind}", 100)
