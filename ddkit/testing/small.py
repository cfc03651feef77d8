"""On what, and with which small settings, does the contract suite run a method?"""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ddkit import methods, networks, objectives, synthesis
from ddkit.base.config import merge
from ddkit.base.registry import Registry
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine.distiller import Distiller


def toy_data(
    shape: tuple[int, int, int] = (1, 8, 8),
    counts: tuple[int, ...] = (9, 14, 11),
    seed: int = 0,
    split: str = "train",
) -> RealData:
    """Return a small, unbalanced, learnable dataset: each class has its own pattern under noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(len(counts), *shape, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.rand(len(labels), *shape, generator=generator)
    images = ((0.7 * patterns[labels] + 0.3 * noise) * 255).to(torch.uint8)
    names = [f"class-{number}" for number in range(len(counts))]
    return RealData.from_tensors(images, labels, class_names=names, name="toy", split=split)


#: Values that shrink the options of these names to what a run of a second can afford, by piece.
SMALL: dict[str, dict[str, Any]] = {
    "objective": {
        "real_batch": 5,
        "warmup_networks": 1,
        "warmup_steps": 1,
        "student_steps": 2,
        "expert_epochs": 1,
        "max_start_epoch": 2,
        "inner_steps": 2,
        "real_images": 12,
        "chunk": 8,
    },
    "networks": {
        "outer_loop": 2,
        "inner_epochs": 2,
        "life": 2,
        "images": 6,
        "batch_size": 4,
        "pretrain_epochs": 0,
        "runs": 1,
        "stages": 2,
        "steps": 4,
        "query": 3,
        "window": 2,
        "max_inner_epochs": 2,
        "max_updates": 2,
        "gap": 1,
        "size": 2,
        "bodies": 2,
        "evaluation_bodies": 2,
        "count": 2,
        "epochs": 2,
    },
    "synthesis": {
        "generator_steps": 2,
        "generator_batch": 4,
        "inversion_steps": 2,
        "feature_steps": 2,
        "code_size": 4,
        "width": 4,
        "codes": 2,
        "decoders": 2,
        "hidden": 2,
        "code_channels": 1,
        "warm_steps": 2,
        "hallucinators": 2,
        "noise": 4,
        "channels": 4,
    },
    "selection": {"epochs": 1},
}


def small_options(kind: str, name: str) -> dict[str, Any]:
    """Return the values of ``SMALL`` for the options that the piece called ``name`` has."""
    registries: dict[str, Registry[Any]] = {
        "objective": objectives.registry,
        "networks": networks.registry,
        "synthesis": synthesis.registry,
    }
    if kind not in registries or name not in registries[kind]:
        return {}
    taken = inspect.signature(registries[kind].get(name)).parameters
    # A warm-up belongs to a level that a composition does not have by itself.
    return {key: value for key, value in SMALL[kind].items() if key in taken and not key.startswith("warmup")}


def small_overrides(method: str, data: RealData, ipc: int = 2) -> dict[str, Any]:
    """Return overrides that shrink a preset to a run of a second, touching only options that its pieces have."""
    preset = methods.get(method).configure(data, ipc).as_dict()
    small: dict[str, Any] = {
        "model": "convnet:width=4,depth=2",
        "precision": "float32",
        "compile": False,
        "device": "cpu",
    }
    if preset["steps"]:
        small["steps"] = 4
    for kind in SMALL:
        have = preset.get(kind) or {}
        present = {key: value for key, value in SMALL[kind].items() if key in have}
        present |= small_options(kind, have.get("name", "")) if preset["steps"] else {}
        if present:
            small[kind] = present
    return small


def fit_small(method: str, overrides: Mapping[str, Any], data: RealData | None = None, **fit: Any) -> DistilledDataset:
    """Distil small through the preset of ``method``; ``fit`` goes to the distiller (callbacks) and its ``fit``."""
    data = data or toy_data()
    options = merge(small_overrides(method, data), overrides)
    ipc, seed = options.pop("ipc", 2), options.pop("seed", 0)
    callbacks, every = fit.pop("callbacks", ()), fit.pop("checkpoint_every", None)
    distiller = Distiller(method, ipc, seed=seed, callbacks=callbacks, checkpoint_every=every, **options)
    return distiller.fit(data, **fit)


def artifact_bytes(distilled: DistilledDataset) -> bytes:
    """Return the bytes of the file that ``distilled`` saves."""
    with tempfile.TemporaryDirectory() as folder:
        return distilled.save(Path(folder) / "a.safetensors").read_bytes()


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError with ``message`` unless ``condition`` holds; optimised away by no interpreter flag."""
    if not condition:
        raise AssertionError(message)
