"""DSA: gradient matching with differentiable Siamese augmentation."""

from __future__ import annotations

from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.methods.dc import gradient_matching


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """DC's official settings, initialised with real images, one augmentation shared by both sides of a class."""
    strategy = default_strategy(data.name)
    loops = (100, 2) if ipc == 100 else None  # the authors' advice for 100 images per class
    return {
        **gradient_matching(ipc, loops),
        "init": "real",
        "augmentation": strategy,
        "recipe": {"name": "dsa", "augmentation": strategy},
    }


DSA = register(
    Method(
        name="dsa",
        title="Dataset Condensation with Differentiable Siamese Augmentation",
        family="gradient matching",
        learns="pixels",
        paper="Zhao and Bilen, ICML 2021",
        url="https://arxiv.org/abs/2102.08259",
        cost="hours",
        defaults=defaults,
    )
)
