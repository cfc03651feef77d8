"""DM: dataset condensation with distribution matching."""

from __future__ import annotations

from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings: 20,000 steps of SGD, learning rate 1 (10 on CIFAR-10 from IPC 100 on), momentum 0.5.

    Initialised with real images: from noise only the class mean is constrained, and at IPC 10 the result falls below
    random real images. Evaluated with Siamese augmentation.
    """
    strategy = default_strategy(data.name)
    return {
        "steps": 20_000,
        "objective": {"name": "distribution", "real_batch": 256},
        "networks": {"name": "fresh"},
        "init": "real",
        "augmentation": strategy,
        "optimiser": {
            "name": "sgd",
            "lr": 10.0 if known_as(data.name) == "cifar10" and ipc >= 100 else 1.0,
            "momentum": 0.5,
        },
        "recipe": {"name": "dsa", "augmentation": strategy},
    }


DM = register(
    Method(
        name="dm",
        title="Dataset Condensation with Distribution Matching",
        family="distribution matching",
        learns="pixels",
        paper="Zhao and Bilen, WACV 2023",
        url="https://arxiv.org/abs/2110.04181",
        cost="minutes",
        defaults=defaults,
    )
)
