"""Coresets as methods: random, herding, k-center and k-means pick real images; nothing is synthesised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register


def _selecting(name: str, **options: Any) -> Callable[[RealData, int], dict[str, Any]]:
    def defaults(data: RealData, ipc: int) -> dict[str, Any]:
        """Pick ``ipc`` images per class; evaluated as the distilled sets they are compared with."""
        return {
            "steps": 0,
            "selection": {"name": name, **options},
            "augmentation": "none",
            "recipe": {"name": "dsa", "augmentation": default_strategy(data.name)},
        }

    return defaults


RANDOM = register(
    Method(
        name="random",
        title="Random real images",
        family="coreset",
        learns="nothing",
        paper="the control of every distillation",
        url="https://arxiv.org/abs/2301.05603",
        cost="seconds",
        defaults=_selecting("random"),
    )
)

HERDING = register(
    Method(
        name="herding",
        title="Herding",
        family="coreset",
        learns="nothing",
        paper="Welling, ICML 2009; Rebuffi et al., CVPR 2017",
        url="https://arxiv.org/abs/1611.07725",
        cost="minutes",
        defaults=_selecting("herding", features="network", epochs=30),
    )
)

KCENTER = register(
    Method(
        name="kcenter",
        title="Greedy k-center",
        family="coreset",
        learns="nothing",
        paper="Sener and Savarese, ICLR 2018; Gonzalez 1985",
        url="https://arxiv.org/abs/1708.00489",
        cost="minutes",
        defaults=_selecting("kcenter", features="network", epochs=30, start="mean"),
    )
)

KMEANS = register(
    Method(
        name="kmeans",
        title="Images nearest to k-means centres",
        family="coreset",
        learns="nothing",
        paper="the start of DREAM: Liu et al., ICCV 2023",
        url="https://arxiv.org/abs/2302.14416",
        cost="minutes",
        defaults=_selecting("kmeans", features="network", epochs=30),
    )
)
