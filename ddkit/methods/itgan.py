"""IT-GAN: distribution matching on the latent codes of a frozen GAN."""

from __future__ import annotations

from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Settings for some codes per class: 2,000 steps of Adam at 0.01, codes inverted first.

    The rate was measured on small images in 150 to 300 steps.

    Deviates from the authors' runs, which learn a code for every training image (rate 0.001, 5,000 steps, 1,250 codes
    of a class per step) on networks above a known accuracy. Here a class has ``ipc`` codes, all in every step, and the
    networks are snapshots of short training runs. As in these runs, images are not held near their real partners
    (``objective.pair_weight=0``). Grey images are matched without augmentation, colour ones with Siamese augmentation.
    """
    strategy = default_strategy(data.name)
    return {
        "steps": 2000,
        "synthesis": {"name": "gan"},
        "init": "inverted",
        "objective": {"name": "distribution", "real_batch": 128},
        "networks": {"name": "pool", "runs": 3, "stages": 4, "steps": 300},
        "augmentation": "none" if data.shape[0] == 1 else strategy,
        "optimiser": {"name": "adam", "lr": 0.01},
        "recipe": {"name": "dsa", "augmentation": strategy},
    }


ITGAN = register(
    Method(
        name="itgan",
        title="Informative Training Samples with a GAN",
        family="distribution matching",
        learns="latent codes of a GAN",
        paper="Zhao and Bilen, NeurIPS workshop 2022",
        url="https://arxiv.org/abs/2204.07513",
        cost="hours",
        defaults=defaults,
    )
)
