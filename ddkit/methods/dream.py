"""DREAM: IDC whose real batches represent their classes, and whose images start at representatives."""

from __future__ import annotations

from typing import Any

from ddkit.base.config import merge
from ddkit.data.real import RealData
from ddkit.methods import idc
from ddkit.methods.base import Method, register


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Settings of IDC with 128 representatives a class, clustered again every ten steps of a network, and their start.

    The schedule is IDC's, as in the authors' program; their curve passes the end of random batches after about 140
    networks. They cluster images as they are under networks trained on standardised ones; here both see standardised
    ones. The start clusters pixels instead of features of a random network.
    """
    changes = {"init": "kmeans", "signal": {"name": "representative"}, "objective": {"real_batch": 128}}
    return merge(idc.defaults(data, ipc), changes)


DREAM = register(
    Method(
        name="dream",
        title="DREAM: Efficient Dataset Distillation by Representative Matching",
        family="gradient matching",
        learns="images that decode to several (multi-formation)",
        paper="Liu et al., ICCV 2023",
        url="https://arxiv.org/abs/2302.14416",
        cost="hours",
        defaults=defaults,
    )
)
