"""FRePo: dataset distillation using neural feature regression with pooling."""

from __future__ import annotations

import math
from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.data.whitening import MAXIMUM_ZCA_SIZE
from ddkit.methods.base import Method, register
from ddkit.methods.mtt import SMALL_SET, nearest

#: Published network: widths 128, 256, 512, batch norm in front of the later convolutions.
MODEL = "convnet:width=128,growth=2,norm=batch,norm_position=before,init=lecun"
#: Steps of the evaluation by number of synthetic images, after which networks are judged; and steps of its warm-up.
EVALUATION_STEPS = {10: 1000, 100: 2000, 200: 20_000, 400: 5000, 1000: 10_000, 2000: 40_000}
WARM_UP, EVALUATION_BATCH = 500, 500
#: Network of small sets.
SMALL_MODEL = "convnet:width=32,growth=2,norm=batch,norm_position=before,init=lecun"
#: Sets of many classes whose images are always mirrored, and the number of classes from which others never are.
MIRRORED, NEVER_MIRRORED = ("cub", "cub200", "cub2002011"), 1000


def flips(data: RealData, ipc: int) -> bool:
    """Return whether the support contains mirror images: never of grey images, digits or a thousand classes.

    Sets of 100 and more classes have them at IPC 1 alone, as their systems are large anyway.
    """
    if data.shape[0] == 1 or "flip" not in default_strategy(data.name) or data.num_classes >= NEVER_MIRRORED:
        return False
    return data.num_classes < 100 or ipc == 1 or known_as(data.name) in MIRRORED


def evaluation(images: int) -> dict[str, Any]:
    """Return the options of the training recipe for so many synthetic images: epochs, and the share of the warm-up."""
    steps = nearest(EVALUATION_STEPS, images)
    return {"epochs": max(1, steps // math.ceil(images / EVALUATION_BATCH)), "warmup": WARM_UP / steps}


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings, the same for all datasets: 500,000 steps of LAMB, ten networks that live for 101 updates.

    A step of LAMB moves the images by ``lr`` times their norm, 0.03 % here: runs of a few hundred steps need 3e-3 to
    1e-2. Small sets get ddkit's: 1000 steps with 1e-2 and a quarter of the width; after 60 steps one image per class of
    8x8 digits reaches 88.0 % by the kernel and 85.7 % with networks.

    Colour images are whitened. The result is judged on networks without norms, the model that its card has under
    ``networks.evaluation_model``.

    Deviations: the depth follows the image size, which is 3 at 28 and 32 pixels as published; images of more than
    12,288 values are not whitened, where the authors whiten sub-grids; networks are evaluated under the dataset's
    Siamese augmentation instead of the authors' own, and the result is that of the last step, theirs the best on the
    test set.
    """
    small = len(data) < SMALL_SET
    whitened = data.shape[0] > 1 and math.prod(data.shape) <= MAXIMUM_ZCA_SIZE
    return {
        "steps": 1000 if small else 500_000,
        "synthesis": {"name": "pixels", "labels": "centred", "label_scale": 1 / math.sqrt(data.num_classes / 10)},
        "init": "real",
        "objective": {
            "name": "kernel",
            "real_images": 1024,
            "balanced": False,
            "chunk": 1024,
            "regulariser": 1e-6,
            "loss": "sum",
            "margin": 1.0,
            "flip": flips(data, ipc),
        },
        "networks": {"name": "online-pool"},
        "zca": "standardised" if whitened else None,
        "model": SMALL_MODEL if small else MODEL,
        "optimiser": {"name": "lamb", "lr": 1e-2 if small else 3e-4, "schedule": "cosine", "floor": 0.1},
        "recipe": {"name": "frepo", **evaluation(ipc * data.num_classes)},
    }


FREPO = register(
    Method(
        name="frepo",
        title="Dataset Distillation using Neural Feature Regression",
        family="kernel ridge regression",
        learns="pixels, labels",
        paper="Zhou, Nezhadarya and Ba, NeurIPS 2022",
        url="https://arxiv.org/abs/2206.00719",
        cost="days",
        defaults=defaults,
    )
)
