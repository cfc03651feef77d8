"""IDM: class means under networks in training, several training images a stored one, and a weighed cross-entropy."""

from __future__ import annotations

from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.methods.idc import LARGE, batched_momentum

#: Weights of the cross-entropy, per class and percent of accuracy, by images per class from which they hold.
WEIGHTS = {
    "cifar10": {1: 0.5, 10: 0.5, 50: 0.1},
    "cifar100": {1: 0.5, 10: 0.1, 50: 0.1},
    "tinyimagenet": {1: 0.5, 10: 0.5, 50: 0.8},
}
#: SGD steps that a network takes when it is trained, where they are not ten.
TRAINED = {("cifar100", 10): 50, ("cifar100", 50): 40, ("tinyimagenet", 50): 50}


def weight(data: RealData, ipc: int) -> float:
    """Return the published weight; that of subsets of ImageNet for large images, 0.5 for other data without any."""
    weights = WEIGHTS.get(known_as(data.name), {1: 3.0 if min(data.shape[1:]) >= LARGE else 0.5})
    return weights[max(number for number in weights if number <= ipc)]


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings, one outer step per pass over the classes: 20,000 steps of SGD, factor 2.

    Their rate is one of standardised pixels: times the variance on the [0, 1] scale of the stored images, which are
    clamped. They hold 100 networks, match a random one, train two in every step and replace one every 30 steps (5 at
    IPC 1). Here ten take turns and serve as many steps each, with as much training between two of them.
    """
    strategy = default_strategy(data.name)
    images = 2 * TRAINED.get((known_as(data.name), ipc), 10) * 256
    training = {"images": images, "batch_size": 256, "cutmix": 0.0, "augmentation": "none"}
    return {
        "steps": 20_000,
        "synthesis": {"name": "multi-formation", "factor": 2, "batch_images": 4 * ipc},
        "init": "real",
        "objective": {
            "name": "distribution",
            "real_batch": 5000 if ipc == 1 else 256,
            "ce_weight": data.num_classes * weight(data, ipc),
            "ce_by_accuracy": True,
        },
        "networks": {"name": "real-trained", "life": 5 if ipc == 1 else 30, "pool": 10, **training},
        "augmentation": strategy,
        "optimiser": batched_momentum(0.2 * data.preprocessing.variance, data.num_classes),
        "recipe": {"name": "dsa", "augmentation": strategy},
    }


IDM = register(
    Method(
        name="idm",
        title="Improved Distribution Matching",
        family="distribution matching",
        learns="images that decode to several (multi-formation)",
        paper="Zhao et al., CVPR 2023",
        url="https://arxiv.org/abs/2307.09742",
        cost="hours",
        defaults=defaults,
    )
)
