"""M3D: all moments of the features of every class, by Gaussian kernels."""

from __future__ import annotations

from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.synthesis.formation import MultiFormation


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Settings of the paper's program, 5,000 steps, factor 2, a fresh network every five steps, without its rate.

    The program's rate (SGD, 0.005) is a common default whose values for single datasets were not found, and the
    gradients of a bounded loss are small: here it is Adam at the rate that ddkit's stored images have for such losses.
    """
    return {
        "steps": 5000,
        "synthesis": {"name": "multi-formation", "factor": 2, "batch_images": 200},
        "objective": {"name": "discrepancy", "real_batch": 128},
        "networks": {"name": "fresh", "serve": 5},
        "augmentation": "color+crop+cutout",
        **MultiFormation.defaults("kernel"),
        "recipe": {"name": "dsa", "augmentation": default_strategy(data.name), "batch_size": 64, "cutmix": 1.0},
    }


M3D = register(
    Method(
        name="m3d",
        title="Dataset Condensation by Minimizing Maximum Mean Discrepancy",
        family="distribution matching",
        learns="images that decode to several (multi-formation)",
        paper="Zhang et al., AAAI 2024",
        url="https://arxiv.org/abs/2312.15927",
        cost="minutes",
        defaults=defaults,
    )
)
