"""DD: dataset distillation by back-propagation through a student's training."""

from __future__ import annotations

import math
from typing import Any

from ddkit.data.real import RealData
from ddkit.methods.base import Method, register

#: Published schedule: epochs of real batches of this size.
EPOCHS, REAL_IMAGES = 400, 1024
#: Outer steps below which small sets, whose epochs have few batches, are not distilled.
FEWEST_STEPS = 2000
#: Published number of distinct batches and of sweeps over them.
BATCHES, SWEEPS = 10, 3


def model(data: RealData) -> str:
    """Return the network: the published LeNet on grey images, and where it does not fit, those chosen here."""
    channels, *sides = data.shape
    if min(sides) < 12:
        return "mlp:width=64,init=xavier"
    return "lenet:init=xavier" if channels == 1 else "convnet"


def inner(ipc: int) -> dict[str, int]:
    """Return inner steps and number of batches: three sweeps over at most ten batches.

    One image of each class per step, as published, up to IPC 10. Beyond that, which was never published, a batch holds
    a share of the images such that at most ten batches are swept over in at most thirty steps.
    """
    batches = max(number for number in range(1, BATCHES + 1) if ipc % number == 0)
    sweeps = SWEEPS if ipc <= BATCHES else SWEEPS * BATCHES // batches
    return {"inner_steps": sweeps * batches, "batches": batches}


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings: one image of each class per step, three sweeps, a learned rate per step, Adam.

    400 epochs of real batches of 1024 (at least 2000 outer steps), the rates of Adam halved at each tenth of them, for
    networks with fresh initial weights; ``networks=fixed`` is the published variant for known ones. Trained on as it
    was learned: the same steps in the same order.

    Deviations: the published network of colour images (with local response normalisation) is the field's ConvNet here,
    with the published rate, and small images get a perceptron; the published crops and flips of real CIFAR images alone
    are left out, as an augmentation is shared by both sides here.
    """
    grey = data.shape[0] == 1
    return {
        "steps": max(FEWEST_STEPS, EPOCHS * math.ceil(len(data) / REAL_IMAGES)),
        "objective": {"name": "meta", **inner(ipc), "lr": 0.02 if grey else 0.001, "real_images": REAL_IMAGES},
        "networks": {"name": "fresh"},
        "init": "noise",
        "model": model(data),
        "optimiser": {
            "name": "adam",
            "lr": 0.01,
            "betas": (0.5, 0.999),
            "schedule": "milestones",
            "milestones": [tenth / 10 for tenth in range(1, 10)],
            "gamma": 0.5,
        },
        "recipe": {"name": "steps"},
    }


DD = register(
    Method(
        name="dd",
        title="Dataset Distillation",
        family="meta-learning",
        learns="pixels, learning rates",
        paper="Wang et al., 2018",
        url="https://arxiv.org/abs/1811.10959",
        cost="hours",
        defaults=defaults,
    )
)
