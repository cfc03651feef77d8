"""LD: the labels of a few real images are learned, the images stay as they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.methods.mtt import SMALL_SET

#: Real images per step.
TARGET_IMAGES = 1024
#: Fewest steps, for sets of which an epoch is a step or two.
FEWEST_STEPS = 4000


def inner_batch(num_classes: int, ipc: int) -> int:
    """Return b, images of an inner step: 10, 10, 25, 50 and 50 for IPC 1, 2, 5, 10 and 50 of ten classes."""
    images = num_classes * ipc
    if ipc <= 2:
        return num_classes
    return images // 2 if ipc < 10 else min(images, max(50, num_classes))


def gap(num_classes: int, ipc: int) -> int:
    """Return G, the steps of the moving average of the restart rule."""
    if num_classes > 10:
        return 100
    return 200 if num_classes * ipc > 100 else 50


def architecture(data: RealData) -> str:
    """Return the network: LeNet for grey images, AlexNet for others, an MLP for those that are too small."""
    side = min(data.shape[1:])
    if data.shape[0] == 1 and side >= 12:
        return "lenet"
    return "alexnet" if data.shape[0] > 1 and side >= 8 else "mlp:width=64"


def common(data: RealData, ipc: int) -> dict[str, Any]:
    """Return the official settings that both variants share: Adam with 0.001 for labels and network.

    400 epochs of batches of 1024 real images (800 for more than 100 images or classes), at least 4000 steps.

    Deviations: the network is the field's AlexNet where LD has a smaller one of the same kind, or an MLP for images
    that are too small for both it and LeNet. Results are not chosen among epochs on a validation split unless images
    are held out.
    """
    many = data.num_classes * ipc > 100 or data.num_classes >= 100
    return {
        "steps": max(FEWEST_STEPS, (800 if many else 400) * math.ceil(len(data) / TARGET_IMAGES)),
        "synthesis": {"name": "labels-only"},
        "networks": {"name": "online", "gap": gap(data.num_classes, ipc)},
        "model": architecture(data),
        "init": "real",
        "augmentation": "none",
        "optimiser": {"name": "adam", "lr": 0.001},
        "recipe": {"name": "adam"},
    }


def batches(data: RealData, ipc: int) -> dict[str, Any]:
    """Return the sizes of synthetic and real batches; real ones are smaller where the set is."""
    real_images = min(TARGET_IMAGES, max(256, len(data) // 4))
    return {"batch_syn": inner_batch(data.num_classes, ipc), "real_images": real_images}


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings of LD-RR, whose look-ahead is a ridge regression on the features of the online network.

    It is the default of the two variants as it gained more on 8x8 digits (MLP, 4000 steps). Images of five classes
    only, 20 of each: 83.0 % against 47.6 % with true labels, which cannot pass 50 (LD-OR2 with a rate of 0.1: 82.3 %).
    One image of each class, three seeds: 72.5, 66.8 and 65.6 % against 66.6, 66.3 and 58.5 % (LD-OR2 on the first set
    and Xavier weights: 63.5 against 63.9 %).

    Evaluation: networks are trained and tested by the running regression in place of a last layer (``recipe.head``), as
    published. On ten images with Xavier weights that gives 76.8 and 78.5 % for two seeds, against 65.2 and 66.8 % with
    true labels; the figures above are for a usual last layer.
    """
    return {**common(data, ipc), "objective": {"name": "ridge", **batches(data, ipc)}}


def defaults_or2(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings of LD-OR2, whose look-ahead is one step of plain gradient descent with a fixed rate of 0.01.

    Small sets get a rate of 0.1, with which labels are learned faster.
    """
    rate = 0.1 if len(data) < SMALL_SET else 0.01
    objective = {"name": "meta", "inner_steps": 1, "order": "shuffled", "learn_lr": "none", "lr": rate}
    return {**common(data, ipc), "objective": {**objective, **batches(data, ipc)}}


def _register(name: str, variant: str, settings: Callable[[RealData, int], dict[str, Any]]) -> Method:
    return register(
        Method(
            name=name,
            title=f"Flexible Dataset Distillation: Learn Labels Instead of Images ({variant})",
            family="meta-learning",
            learns="labels",
            paper="Bohdal, Yang and Hospedales, NeurIPS Meta-Learning Workshop 2020",
            url="https://arxiv.org/abs/2006.08572",
            cost="minutes",
            defaults=settings,
        )
    )


LD = _register("ld", "ridge regression", defaults)
LD_OR2 = _register("ld-or2", "one look-ahead step", defaults_or2)
