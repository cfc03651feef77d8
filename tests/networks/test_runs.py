"""Whole runs with every network source that is trained: killed and resumed, they give the same file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.engine import Distiller
from ddkit.testing import small_overrides, toy_data
from tests.engine.runs import Kill

POOL = {"name": "pool", "runs": 2, "stages": 3, "steps": 4, "batch_size": 8}
REAL = {"name": "real-trained", "life": 3, "images": 8, "batch_size": 4}
DYNAMIC = {"name": "dynamic", "window": 2, "query": 4, "max_inner_epochs": 3, "max_updates": 3, "lr": 0.1}
CASES = {
    "dm-fresh-serving-twice": ("dm", {"name": "fresh", "serve": 2}),
    "dm-pool": ("dm", POOL),
    "dm-blended": ("dm", {**POOL, "stages": 2, "blend": True}),
    "dm-real-trained": ("dm", REAL),
    "dsa-real-trained": ("dsa", REAL),
    "dsa-real-trained-pool-of-two": ("dsa", {**REAL, "pool": 2}),
    "dm-dynamic": ("dm", DYNAMIC),
    "dc-dynamic": ("dc", DYNAMIC),
}


def run(case: str, **fit: Any) -> DistilledDataset:
    method, networks = CASES[case]
    options = {**small_overrides(method, toy_data(), ipc=1), "networks": networks, "steps": 6}
    callbacks = fit.pop("callbacks", ())
    return Distiller(method, 1, callbacks=callbacks, checkpoint_every=1, **options).fit(toy_data(), **fit)


@pytest.mark.parametrize("case", CASES)
def test_run_killed_and_resumed_gives_the_same_file(case: str, tmp_path: Path) -> None:
    whole = run(case, out=tmp_path / "whole")
    assert torch.isfinite(whole.images).all()
    for step in (1, 4):
        out = tmp_path / str(step)
        with suppress(KeyboardInterrupt):
            run(case, out=out, callbacks=[Kill(step)])
        resumed = run(case, out=out, resume=True)
        assert torch.equal(resumed.images, whole.images)


def test_sources_give_different_results() -> None:
    results = [run(case).images for case in ("dm-pool", "dm-blended", "dm-real-trained", "dm-dynamic")]
    assert not any(torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])
