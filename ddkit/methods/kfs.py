"""KFS: distribution matching on latent codes and decoders that all classes share."""

from __future__ import annotations

import math
from typing import Any

from ddkit.augment import default_strategy
from ddkit.data import RealData
from ddkit.methods.base import Method, register
from ddkit.synthesis import SharedDecoders
from ddkit.synthesis.latent import codes_that_fit, decoder_numbers

#: (decoders, hidden channels), the largest first.
LADDER = ((8, 16), (8, 8), (4, 8), (2, 8), (2, 4), (1, 4))
#: Largest share of the budget that decoders may take.
DECODER_SHARE = 0.25
#: Most images per class, as the cost of a step and of evaluation grows with them.
MOST_IMAGES = 200
#: Most channels of a code.
MOST_CHANNELS = 12


def sizes(shape: tuple[int, int, int], num_classes: int, ipc: int, smallest: int) -> dict[str, int | None]:
    """Choose the sizes of codes and decoders for a budget of ``ipc`` images per class.

    1. Codes have 2 channels for grey images and 3 for others.
    2. Decoders are the largest of ``LADDER`` that take at most a quarter of the budget (the smallest if none does).
    3. As many codes as fit. Where that makes more than 200 images per class, or more than there are real ones to start
       from, codes get more channels, up to 12, and after that decoders are halved, down to two.

    Args:
        shape: (C, H, W).
        num_classes: K.
        ipc: budget, in images per class.
        smallest: images in the smallest class.

    Returns:
        ``code_channels``, ``hidden``, ``decoders`` and ``codes`` of :class:`~ddkit.synthesis.SharedDecoders`; ``codes``
        is None, all that fit, unless real images are too few.
    """
    budget, least = ipc * num_classes * math.prod(shape), 2 if shape[0] == 1 else 3
    affordable = (
        pair for pair in LADDER if pair[0] * decoder_numbers(shape[0], least, pair[1]) <= DECODER_SHARE * budget
    )
    decoders, hidden = next(affordable, LADDER[-1])
    limit = min(MOST_IMAGES, smallest)
    fitting: tuple[int, int, int] | None = None  # the last choice that fits the budget
    for count in (decoders, *(m for m in (4, 2) if m < decoders)):
        for channels in range(least, MOST_CHANNELS + 1):
            codes = codes_that_fit(num_classes, ipc, shape, count, channels, hidden)
            if codes < 1:
                break
            fitting = (count, channels, codes)
            if codes * count <= limit:
                return {"code_channels": channels, "hidden": hidden, "decoders": count, "codes": None}
    if fitting is None:
        return {"code_channels": least, "hidden": hidden, "decoders": decoders, "codes": None}
    count, channels, codes = fitting
    few = codes * count > smallest
    return {
        "code_channels": channels,
        "hidden": hidden,
        "decoders": count,
        "codes": max(1, smallest // count) if few else None,
    }


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """ddkit's reading, not the paper's settings: 20,000 steps of DM with Adam on codes and decoders.

    MNIST at IPC 1: 6 codes of 2x7x7 per class and 4 decoders of 8 hidden channels (24 images per class from 7,452
    numbers); CIFAR-10: 12 codes of 3x8x8 and 8 decoders (96 images). See :func:`sizes` for the rule.

    The matching is DM's with fresh networks, without the improvements of the paper: do not expect its figures.
    Evaluated by the field's protocol, although 1000 epochs over n * m images per class are more SGD steps than over IPC
    images as soon as a set exceeds one mini-batch: lower ``recipe.epochs`` to compare at equal steps, and say so.
    """
    strategy = default_strategy(data.name)
    chosen = sizes(data.shape, data.num_classes, ipc, int(data.class_counts.min()))
    return {
        "steps": 20_000,
        "synthesis": {"name": "shared-decoders", "warm_steps": 200, **chosen},
        "objective": {"name": "distribution", "real_batch": 256},
        "networks": {"name": "fresh"},
        **SharedDecoders.defaults("distribution"),
        "augmentation": strategy,
        "recipe": {"name": "dsa", "augmentation": strategy},
    }


KFS = register(
    Method(
        name="kfs",
        title="Knowledge Factorization and Sharing (ddkit reading)",
        family="distribution matching",
        learns="latent codes and shared decoders",
        paper="Lee, Lee and Hwang, arXiv 2022",
        url="https://arxiv.org/abs/2208.10494",
        cost="hours",
        defaults=defaults,
    )
)
