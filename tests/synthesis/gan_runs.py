"""GAN codes small enough for tests, with a generator of one's own and runs through the engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ddkit import Distiller
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.models.spec import seeded
from ddkit.synthesis import GANCodes
from ddkit.testing import toy_data

TINY: dict[str, Any] = {"code_size": 3, "width": 4, "generator_steps": 2, "generator_batch": 4}
TINY |= {"inversion_steps": 3, "feature_steps": 2}


class Linear(nn.Module):
    """A generator of one's own: images are linear in the code, with an offset per class."""

    def __init__(self, code_size: int = 3, shape: tuple[int, int, int] = (1, 8, 8), num_classes: int = 3) -> None:
        super().__init__()
        self.shape = shape
        with seeded(0):
            self.linear = nn.Linear(code_size, shape[0] * shape[1] * shape[2])
            self.offset = nn.Embedding(num_classes, 1)
        self.eval().requires_grad_(False)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return (0.1 * self.linear(z) + 0.1 * self.offset(labels)).tanh().view(-1, *self.shape)


def started(
    how: str = "inverted", ipc: int = 2, data: RealData | None = None, seed: int = 0, **options: Any
) -> GANCodes:
    data = data or toy_data()
    result = GANCodes(data.num_classes, ipc, data.shape, **{**TINY, **options})
    result.initialise(data, how, torch.Generator().manual_seed(seed))
    return result


def artifact(of: GANCodes, data: RealData | None = None) -> DistilledDataset:
    data = data or toy_data()
    return of.materialise(data.preprocessing, data.class_names, {"method": "test"})


def fit(data: RealData, **options: Any) -> DistilledDataset:
    settings: dict[str, Any] = {"steps": 3, "model": "convnet:width=4,depth=2", "networks": "fresh", "device": "cpu"}
    callbacks = {name: options.pop(name) for name in ("out", "resume") if name in options}
    if "synthesizer" not in options:
        settings["synthesis"] = TINY
    return Distiller("itgan", 2, **{**settings, **options}).fit(data, **callbacks)
