"""Files that an earlier layout of the code wrote: an artifact, and runs that were stopped after two of four steps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from ddkit import DistilledDataset, evaluate
from ddkit.testing.small import fit_small, toy_data

OLDER = Path(__file__).parent / "older"


def test_artifact_loads_and_trains() -> None:
    distilled = DistilledDataset.load(OLDER / "haba.safetensors")
    assert (distilled.synthesis, distilled.metadata["method"], distilled.ipc) == ("hallucinators", "haba", 4)
    assert distilled.to_bytes() == (OLDER / "haba.safetensors").read_bytes()
    result = evaluate(distilled, toy_data(seed=1, split="test"), repeats=1)
    assert 0 <= result.rows[0].mean <= 100


@pytest.mark.parametrize("method", ["dm", "itgan"])
def test_stopped_run_goes_on_to_the_result_of_a_whole_one(method: str, tmp_path: Path) -> None:
    shutil.copytree(OLDER / method, tmp_path / "run")
    resumed = fit_small(method, {}, out=tmp_path / "run", resume=True, checkpoint_every=1)
    whole = fit_small(method, {})
    assert resumed.metadata["config"] == whole.metadata["config"] and resumed.metadata["steps"] == 4
    # The first two steps were taken on another machine, whose sums may round otherwise.
    torch.testing.assert_close(resumed.images, whole.images, rtol=1e-3, atol=1e-3)
    assert torch.equal(resumed.labels, whole.labels)
