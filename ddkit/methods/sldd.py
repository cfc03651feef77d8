"""SLDD: dataset distillation with soft labels."""

from __future__ import annotations

from typing import Any

from ddkit.data.real import RealData
from ddkit.methods import dd
from ddkit.methods.base import Method, register


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """DD's settings with a learned row of labels per image, which starts one-hot and need not be a distribution.

    Deviation: labels follow the order of the images, class after class, where the published program repeats the list of
    classes; the two are the same up to the order of images within a batch.
    """
    return {**dd.defaults(data, ipc), "synthesis": {"name": "pixels", "labels": "free"}}


SLDD = register(
    Method(
        name="sldd",
        title="Soft-Label Dataset Distillation",
        family="meta-learning",
        learns="pixels, labels, learning rates",
        paper="Sucholutsky and Schonlau, IJCNN 2021",
        url="https://arxiv.org/abs/1910.02551",
        cost="hours",
        defaults=defaults,
    )
)
