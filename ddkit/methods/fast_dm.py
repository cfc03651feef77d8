"""fast-dm: distribution matching from a pool of networks whose real statistics are computed once."""

from __future__ import annotations

import math
from typing import Any

from ddkit.base.config import merge
from ddkit.data.real import RealData
from ddkit.methods import dm
from ddkit.methods.base import Method, register

#: Features of the default networks for images of 28 or more pixels a side.
_FEATURES = 2048
#: Pairs for every pair that it takes at least, and the fewest and the most of them.
_TIMES, _FEWEST, _MOST = 3, 20, 300


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Settings of DM, with three times as many networks as there are unknowns to fit, 20 to 300."""
    channels, height, width = data.shape
    pairs = _TIMES * math.ceil(ipc * channels * height * width / _FEATURES)
    networks = {"name": "fixed", "count": min(max(pairs, _FEWEST), _MOST)}
    return merge(dm.defaults(data, ipc), {"networks": networks, "signal": {"name": "cached"}})


FAST_DM = register(
    Method(
        name="fast-dm",
        title="Distribution matching from a pool of networks, real statistics computed once",
        family="distribution matching",
        learns="pixels",
        paper="Zhao and Bilen, WACV 2023",
        url="https://arxiv.org/abs/2110.04181",
        cost="minutes",
        defaults=defaults,
    )
)
