"""RTP: back-propagation through a training with momentum, into a memory that all classes address."""

from __future__ import annotations

from typing import Any

from ddkit.data import RealData
from ddkit.methods.base import Method, register
from ddkit.methods.mtt import SMALL_SET
from ddkit.synthesis import AddressedMemory
from ddkit.synthesis.addressed_memory import default_bases, rows_that_fit

#: Images of each class in an inner step, and real ones in the outer loss.
INNER_ROWS, REAL_PER_CLASS = 32, 64
#: The published optimiser, and that of small sets.
OPTIMISER: dict[str, Any] = {"name": "sgd", "lr": 0.1, "momentum": 0.5}
SMALL_SET_OPTIMISER: dict[str, Any] = {"name": "adam", "lr": 0.02}


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings of the addressed memory on CIFAR-10: 500,000 steps of 150 inner ones with momentum 0.9.

    A fresh network at every step, SGD with rate 0.1, momentum 0.5 and gradients clipped to norm 2. IPC is a budget of
    numbers, see :class:`~ddkit.synthesis.AddressedMemory`; settings of other data and budgets are unpublished, so bases
    take the same share everywhere. Small sets get ddkit's: a small ConvNet, 20 inner steps with rate 0.05 on 4 images
    of each class, and 800 outer steps of Adam, which after 100 steps at IPC 1 of 8x8 digits had reached 58.4 %, the
    published SGD 26.9 %. Learners have to standardise every image, as instance norm does: the first images are tiny,
    and an MLP on these digits learned nothing from them (19 %, against 87 % with a standardisation).

    The variant without a memory is ``synthesis=pixels``. Deviation: the penalty on coefficients is left out; in the
    authors' program it is part of the inner loss and changes nothing.
    """
    small = len(data) < SMALL_SET
    options = AddressedMemory.options_for(data, ipc)
    downsample = options["downsample"]
    bases = default_bases(data.num_classes, ipc, downsample)
    fitting = rows_that_fit(data.num_classes, ipc, data.shape, bases, downsample)
    return {
        "steps": 800 if small else 500_000,
        "synthesis": {"name": "addressed-memory", "bases": bases, **options},
        "objective": {
            "name": "meta",
            "inner_steps": 20 if small else 150,
            "order": "random",
            "batch_per_class": max(1, min(4 if small else INNER_ROWS, fitting)),
            "lr": 0.05 if small else 0.01,
            "learn_lr": "none",
            "momentum": 0.9,
            "real_images": (32 if small else REAL_PER_CLASS) * data.num_classes,
            "balanced": True,
        },
        "model": "convnet:width=16,depth=2" if small else "convnet",
        "init": "noise",
        "augmentation": "none",
        "optimiser": {**(SMALL_SET_OPTIMISER if small else OPTIMISER), "clip": 2.0},
        "recipe": {
            "name": "steps",
            "epochs": 300,
            "lr": 0.05 if small else 0.01,
            "momentum": 0.9,
            "batch_size": 64 * data.num_classes,
        },
    }


RTP = register(
    Method(
        name="rtp",
        title="Remember the Past: Distilling Datasets into Addressable Memories for Neural Networks",
        family="meta-learning",
        learns="shared bases and addressing matrices",
        paper="Deng and Russakovsky, NeurIPS 2022",
        url="https://arxiv.org/abs/2206.02916",
        cost="days",
        defaults=defaults,
    )
)
