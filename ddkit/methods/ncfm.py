"""NCFM: characteristic functions under blended networks, and the cross-entropy under trained ones."""

from __future__ import annotations

import math
from typing import Any

from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register

#: Epochs of evaluation on Tiny ImageNet by images per class, up to and including.
TINY_EPOCHS = {1: 2000, 10: 300, 50: 40}


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    r"""Official settings: 20,000 steps, factor 2, 20 networks trained for 60 epochs, 1,024 real images of a class.

    The authors take a step for the distance and one for the cross-entropy of every class, on all stored images; here
    one step of Adam takes all K classes and both terms, with :math:`\sqrt{2K}` times their rate, by which so many steps
    move an image. Their decay of pixels is left out, a cosine takes the place of a rule that halves the rate when the
    loss stands still, SGD on CIFAR-100 at IPC 10 is Adam as well. The rate of the networks' training stays constant.
    Theirs reads the first 1,024 images of a class in every step; here they are drawn. The 1,024 frequencies are the
    paper's, their files say 4,096; without the paper's sampling network (see the objective). The weights of a class,
    300 of the distance and 1 of the cross-entropy, become ``ce_weight`` = K / 300.

    Most of a short run is the networks' training: ``networks.runs=2 networks.steps=300`` is a start on a CPU.
    """
    tiny = known_as(data.name) == "tinyimagenet"
    epochs = next((epochs for most, epochs in TINY_EPOCHS.items() if ipc <= most), 40) if tiny else 2000
    return {
        "steps": 20_000,
        "synthesis": {"name": "multi-formation", "factor": 2, "batch_images": 4 * ipc},
        "init": "real",
        "objective": {
            "name": "characteristic",
            "frequencies": 1024,
            "real_batch": 1024,
            "ce_weight": data.num_classes / 300,
            "ce_network": "last",
        },
        "networks": {
            "name": "pool",
            "runs": 20,
            "stages": 2,
            "steps": 60 * math.ceil(len(data) / 128),
            "batch_size": 128,
            "cutmix": 0.5,
            "augmentation": "color+crop",
            "blend": True,
        },
        "augmentation": "color+crop+cutout",
        "optimiser": {"name": "adam", "lr": 1e-3 * math.sqrt(2 * data.num_classes), "schedule": "cosine"},
        "recipe": {"name": "ncfm", "epochs": epochs},
    }


NCFM = register(
    Method(
        name="ncfm",
        title="Neural Characteristic Function Matching",
        family="distribution matching",
        learns="images that decode to several (multi-formation)",
        paper="Wang et al., CVPR 2025",
        url="https://arxiv.org/abs/2502.20653",
        cost="hours",
        defaults=defaults,
    )
)
