"""Fixtures of the report's tests: run folders as `ddkit distill` and `ddkit evaluate` leave them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing

MakeRun = Callable[..., Path]


def architecture_row(architecture: str, accuracies: list[float]) -> dict[str, Any]:
    mean = sum(accuracies) / len(accuracies)
    std = (sum((value - mean) ** 2 for value in accuracies) / len(accuracies)) ** 0.5
    interval = [mean - 0.004, mean + 0.004] if len(accuracies) > 1 else None
    return {
        "architecture": architecture,
        "accuracies": accuracies,
        "mean": mean,
        "std": std,
        "interval95": interval,
        "seconds": 12.5,
    }


def result(label: str, *rows: dict[str, Any], images: int = 30, stored: int | None = 7080) -> dict[str, Any]:
    budget = {"images": images, "decoded_images": images, "floats": 0, "bytes": stored} if stored else {}
    recipe = {"name": "dsa", "epochs": 1000, "lr": 0.01}
    content = {"rows": list(rows), "recipe": recipe, "label_kind": "hard", "budget": budget}
    return {"label": label, "result": {**content, "train_images": images}}


@pytest.fixture
def evaluation() -> dict[str, Any]:
    """Own set, two random draws and the whole set, on one architecture."""
    return {
        "results": [
            result("random", architecture_row("convnet", [0.90, 0.92]), stored=2160),
            result("random", architecture_row("convnet", [0.91, 0.93]), stored=2160),
            result("dm", architecture_row("convnet", [0.97, 0.98])),
            result("whole", architecture_row("convnet", [0.996]), images=60000, stored=None),
        ],
        "published": [],
        "command": "ddkit evaluate runs/dm --repeats 2",
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes a run folder; None leaves a file out."""

    def make(
        name: str = "dm-mnist",
        *,
        method: str = "dm",
        classes: int = 3,
        ipc: int = 10,
        class_names: list[str] | None = None,
        uint8: bool = False,
        artifact: bool = True,
        metadata: dict[str, Any] | None = None,
        evaluation: dict[str, Any] | None = None,
        metrics: str | None = None,
        info: dict[str, Any] | None = None,
    ) -> Path:
        run = tmp_path / name
        run.mkdir()
        config = {"method": method, "ipc": ipc, "seed": 7}
        data = {"spec": "mnist", "name": "mnist", "fingerprint": "ab" * 32}
        (run / "config.json").write_text(json.dumps({"config": config, "data": data}))
        if artifact:
            generator = torch.Generator().manual_seed(0)
            images = torch.randint(0, 256, (classes * ipc, 1, 8, 8), generator=generator, dtype=torch.uint8)
            preprocessing = Preprocessing(mean=(0.5,), std=(0.25,))
            source = {"name": "mnist", "split": "train", "count": 60000, "fingerprint": "ab" * 32}
            DistilledDataset(
                images if uint8 else preprocessing.apply(images),
                torch.arange(classes).repeat_interleave(ipc),
                class_names=class_names or [f"class {index}" for index in range(classes)],
                preprocessing=preprocessing,
                metadata={
                    "method": method,
                    "config": config,
                    "seed": 7,
                    "steps": 100,
                    "source": source,
                    "selection": "last step",
                    **(metadata or {}),
                },
            ).save(run)
        if metrics is None:
            lines = ({"step": step, "seconds": step / 10, "loss": 5.0 - step / 50} for step in range(0, 101, 20))
            metrics = "".join(json.dumps(line) + "\n" for line in lines)
        if metrics:
            (run / "metrics.jsonl").write_text(metrics)
        if evaluation is not None:
            (run / "evaluation.json").write_text(json.dumps(evaluation))
        if info is None:
            info = {
                "method": method,
                "seconds": 50.0,
                "steps": 100,
                "state": "finished",
                "versions": {"ddkit": "0.1.0", "torch": "2.9.0"},
                "hardware": {"cpu": "Test CPU", "threads": 2, "device": "cpu"},
                "peak_memory_bytes": 812_400_000,
                "command": "ddkit distill --method dm --data mnist --out 'runs/<dm>'",
            }
        if info:
            (run / "run.json").write_text(json.dumps(info))
        return run

    return make
