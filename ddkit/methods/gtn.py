"""GTN: a generator learns to make the batches of a short training."""

from __future__ import annotations

import math
from typing import Any

from ddkit.data.real import RealData
from ddkit.methods.base import Method, register

#: Published images of an inner step, B.
INNER_BATCH = 128
#: Fewest inner steps; batches are used again where IPC holds fewer of them.
FEWEST_STEPS = 4


def per_batch(num_classes: int, ipc: int) -> int:
    """Return the images of each class in an inner step: a divisor of ``ipc`` that makes at least four batches of it."""
    most = max(1, min(INNER_BATCH // num_classes, ipc // FEWEST_STEPS))
    return max(number for number in range(1, most + 1) if ipc % number == 0)


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings of the curriculum variant (CGTN) on MNIST: 2000 steps, Adam 0.02 annealed to a tenth.

    The learner starts at random, takes one step on each generated batch with a learned rate and momentum of its own
    (from 0.02 and 0.5), and is judged on real images after every step.

    GTN has no IPC: 64 batches of 128 are 819 images per class. Here IPC is cut into batches of up to 128 images, at
    least four of them; below IPC 4 the batches are used again until there are four steps. Small sets get a smaller
    generator.

    Deviations: the learner is ddkit's ConvNet with instance norm, narrower for small images, without the published
    weight norm and mean-only batch norm, whose statistics would couple test images to the last batch. It has to have a
    norm: on 8x8 digits at IPC 1 it reached 76.4 % after 200 steps, a plain MLP 57.2 % after 400. Momenta stay
    below 1 by a sigmoid (``objective.momentum_form=exp`` is the published form).
    """
    images = per_batch(data.num_classes, ipc)
    batches = ipc // images
    small = min(data.shape[1:]) < 16
    return {
        "steps": 2000,
        "synthesis": {
            "name": "generator",
            "per_batch": images,
            **({"noise": 16, "hidden": 256, "channels": 32} if small else {}),
        },
        "objective": {
            "name": "meta",
            "inner_steps": batches * math.ceil(FEWEST_STEPS / batches),
            "order": "fixed",
            "batches": batches,
            "lr": 0.02,
            "learn_lr": "per_step",
            "rate_form": "exp",
            "momentum": 0.5,
            "learn_momentum": True,
            "real_images": 128,
            "intermediate_every": 1,
        },
        "model": "convnet:width=32,depth=2" if small else "convnet",
        "init": "noise",
        "augmentation": "none",
        "optimiser": {"name": "adam", "lr": 0.02, "schedule": "cosine", "floor": 0.1},
        "recipe": {"name": "steps"},
    }


GTN = register(
    Method(
        name="gtn",
        title="Generative Teaching Networks: Learning to Teach by Generating Synthetic Training Data",
        family="meta-learning",
        learns="generator and noise, learning rates, momenta",
        paper="Such et al., ICML 2020",
        url="https://arxiv.org/abs/1912.07768",
        cost="hours",
        defaults=defaults,
    )
)
