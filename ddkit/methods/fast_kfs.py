"""fast-kfs: shared decoders under the networks of fast-dance."""

from __future__ import annotations

from typing import Any

from ddkit.base.config import merge
from ddkit.data.real import RealData
from ddkit.methods import fast_dance, kfs
from ddkit.methods.base import Method, register

#: What decides how long a step takes and what it matches.
_TAKEN = ("model", "networks", "signal", "objective")


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Settings for minutes on a CPU: ``kfs`` with two decoders a step, 400 steps, under what ``fast-dance`` matches.

    The decoders make many images of each class (180 of CIFAR-10 at ten a class), so a set trains better than
    formations, and every step costs more. CIFAR-10, ten a class, 150 steps, 5,000 held-out training images by networks
    of width 128: 57.8 % after 245 CPU seconds on one thread, where ``fast-dance`` gave 55.1 % after 102.
    """
    matching = {name: value for name, value in fast_dance.defaults(data, ipc).items() if name in _TAKEN}
    settings = merge(kfs.defaults(data, ipc), {**matching, "steps": 400})
    settings["synthesis"]["batch_decoders"] = min(2, settings["synthesis"]["decoders"])
    return settings


FAST_KFS = register(
    Method(
        name="fast-kfs",
        title="Knowledge Factorization and Sharing under a pool of networks, real statistics computed once",
        family="distribution matching",
        learns="latent codes and shared decoders",
        paper="Lee, Lee and Hwang, arXiv 2022",
        url="https://arxiv.org/abs/2208.10494",
        cost="minutes",
        defaults=defaults,
    )
)
