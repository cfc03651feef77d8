"""KFS: distribution matching on latent codes and decoders that all classes share."""

from __future__ import annotations

from typing import Any

from ddkit.augment import default_strategy
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.synthesis.decoders import SharedDecoders


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """ddkit's reading, not the paper's settings: 20,000 steps of DM with Adam on codes and decoders.

    MNIST at IPC 1: 6 codes of 2x7x7 per class and 4 decoders of 8 hidden channels (24 images per class from 7,452
    numbers); CIFAR-10: 12 codes of 3x8x8 and 8 decoders (96 images). See :func:`ddkit.synthesis.latent.sizes` for the
    rule.

    The matching is DM's with fresh networks, without the improvements of the paper: do not expect its figures.
    Evaluated by the field's protocol, although 1000 epochs over n * m images per class are more SGD steps than over IPC
    images as soon as a set exceeds one mini-batch: lower ``recipe.epochs`` to compare at equal steps, and say so.
    """
    strategy = default_strategy(data.name)
    chosen = SharedDecoders.options_for(data, ipc)
    return {
        "steps": 20_000,
        "synthesis": {"name": "shared-decoders", "warm_steps": 200, **chosen},
        "objective": {"name": "distribution", "real_batch": 256},
        "networks": {"name": "fresh"},
        **SharedDecoders.defaults("feature"),
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
