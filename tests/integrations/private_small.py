"""Small private sets, walls and settings that the tests of the private adapter share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddkit.data import Preprocessing, RealData
from ddkit.integrations.private import PrivacyBudget, PrivateData, Queries
from ddkit.integrations.private.mutants import Silence
from ddkit.integrations.private.noise import NoiseSource

TINY_MODEL = "convnet:width=4,depth=1"
#: Settings with which every method ends within a second.
TINY: dict[str, dict[str, Any]] = {
    "dp-dm": {"steps": 3, "networks": 2, "model": TINY_MODEL},
    "dp-dm-iterated": {"steps": 3, "batch": 10, "model": TINY_MODEL},
    "psg": {"steps": 3, "batch": 10, "model": TINY_MODEL},
    "dp-kip": {"steps": 3, "batch": 10},
}


def records(per_class: int = 12, classes: int = 3, seed: int = 0) -> RealData:
    """Return 8x8 grey images, each class with a pattern of its own."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(classes, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(classes).repeat_interleave(per_class)
    noise = torch.rand(len(labels), 1, 8, 8, generator=generator)
    return RealData.from_tensors((255 * (0.7 * patterns[labels] + 0.3 * noise)).to(torch.uint8), labels)


def wall(
    real: RealData | None = None,
    queries: Queries = Queries(1.0, 1.0, 1),
    noise: NoiseSource | None = None,
    **options: Any,
) -> PrivateData:
    """Return private data with an unlimited budget for ``queries``, silent unless told otherwise."""
    budget = PrivacyBudget(1e9, 1e-5)
    return PrivateData(real or records(), budget.plan(queries), noise=noise or Silence(), **options)


def pixels(images: Tensor, labels: Tensor) -> Tensor:
    """Return the pixels of every record as its row."""
    return images.flatten(1)


def with_public_constants(real: RealData) -> RealData:
    """Return a set with the default public normalisation."""
    channels = real.shape[0]
    return real.with_preprocessing(Preprocessing((0.5,) * channels, (0.5,) * channels))
