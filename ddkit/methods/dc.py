"""DC: dataset condensation with gradient matching."""

from __future__ import annotations

from typing import Any

from ddkit.data import RealData
from ddkit.methods.base import Method, register

#: Published (outer steps per network, epochs between them) by IPC.
LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
#: Networks drawn in a full schedule.
ITERATIONS = 1000


def loops(ipc: int) -> tuple[int, int]:
    """Return the outer and inner loop for ``ipc``: published where there is a value, else min(ipc, 50) and 500/ipc."""
    return LOOPS.get(ipc, (min(ipc, 50), max(1, round(500 / ipc))))


def gradient_matching(ipc: int) -> dict[str, Any]:
    """Settings that DC and DSA share: 1000 networks, each with ``loops(ipc)`` outer steps and inner epochs."""
    outer, inner = loops(ipc)
    return {
        "steps": ITERATIONS * outer,
        "objective": {"name": "gradient", "metric": "ours", "real_batch": 256},
        "networks": {"name": "synthetic-trained", "outer_loop": outer, "inner_epochs": inner, "lr": 0.01},
        "optimiser": {"name": "sgd", "lr": 0.1, "momentum": 0.5},
    }


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings: noise initialisation, no augmentation while distilling.

    Evaluated without augmentation for 300 epochs. The authors evaluate MNIST with a random crop, scale or rotation for
    1000 epochs; here the Siamese families of the same name take that place.
    """
    recipe = {"name": "dsa", "augmentation": "crop_scale_rotate"} if data.name == "mnist" else {"name": "dc"}
    return {**gradient_matching(ipc), "init": "noise", "augmentation": "none", "recipe": recipe}


DC = register(
    Method(
        name="dc",
        title="Dataset Condensation with Gradient Matching",
        family="gradient matching",
        learns="pixels",
        paper="Zhao, Mopuri and Bilen, ICLR 2021",
        url="https://arxiv.org/abs/2006.05929",
        cost="hours",
        defaults=defaults,
    )
)
