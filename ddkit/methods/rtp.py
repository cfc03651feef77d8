"""RTP: back-propagation through a training with momentum, into a memory that all classes address."""

from __future__ import annotations

from typing import Any

from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.methods.mtt import SMALL_SET
from ddkit.synthesis.addressed_memory import AddressedMemory, default_bases, rows_that_fit

#: Images of each class in an inner step, and real ones in the outer loss.
INNER_ROWS, REAL_PER_CLASS = 32, 64
#: The published optimiser, and that of small sets.
OPTIMISER: dict[str, Any] = {"name": "sgd", "lr": 0.1, "momentum": 0.5}
SMALL_SET_OPTIMISER: dict[str, Any] = {"name": "adam", "lr": 0.01}


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings of the addressed memory on CIFAR-10: 500,000 steps of 150 inner ones with momentum 0.9.

    A fresh network at every step, SGD with rate 0.1, momentum 0.5 and gradients clipped to norm 2. IPC is a budget of
    numbers, see :class:`~ddkit.synthesis.AddressedMemory`; settings of other data and budgets are unpublished, so bases
    take the same share everywhere. Small sets get ddkit's: 30 inner steps with rate 0.05 on 8 images of each class, and
    400 outer steps of Adam. Learners have to standardise every image, as instance norm does: the first images are tiny,
    and a plain MLP on 8x8 digits learned nothing from them (19 %, against 87 % with a standardisation).

    The variant without a memory is ``synthesis=pixels``. Deviation: the penalty on coefficients is left out; in the
    authors' program it is part of the inner loss and changes nothing.
    """
    small = len(data) < SMALL_SET
    options = AddressedMemory.options_for(data, ipc)
    downsample = options["downsample"]
    bases = default_bases(data.num_classes, ipc, downsample)
    fitting = rows_that_fit(data.num_classes, ipc, data.shape, bases, downsample)
    return {
        "steps": 400 if small else 500_000,
        "synthesis": {"name": "addressed-memory", "bases": bases, **options},
        "objective": {
            "name": "meta",
            "inner_steps": 30 if small else 150,
            "order": "random",
            "batch_per_class": max(1, min(8 if small else INNER_ROWS, fitting)),
            "lr": 0.05 if small else 0.01,
            "learn_lr": "none",
            "momentum": 0.9,
            "real_images": (32 if small else REAL_PER_CLASS) * data.num_classes,
            "balanced": True,
        },
        "model": "mlp:width=64,standardise=true" if small and min(data.shape[1:]) < 16 else "convnet",
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
