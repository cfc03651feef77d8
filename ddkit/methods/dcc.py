"""DCC and DSAC: gradient matching of all classes together, so that what separates classes is not drowned."""

from __future__ import annotations

from typing import Any

from ddkit.data.real import RealData
from ddkit.methods import dc, dsa
from ddkit.methods.base import Method, register

#: Published (outer steps per network, epochs between them) by IPC: DC's, but at IPC 1 the network is trained a little,
#: as the gradient of the whole batch says little on an untrained one.
LOOPS = {**dc.LOOPS, 1: (10, 5)}
#: Share of the networks (250 of the published 1000), and outer steps of each of them, matched class by class first.
WARMUP = (0.25, 10)


def contrastive(ipc: int) -> dict[str, Any]:
    """Settings that DCC and DSAC share: 1000 networks, batch-level matching after the bi-level warm-up.

    The warm-up covers a step that is among the first 10 of its network and whose network is among the first quarter. A
    network serves at most 10 steps up to IPC 10, so there it is a matter of networks alone. For an IPC without a
    published value the loops are those of DC (:func:`ddkit.methods.dc.loops`).
    """
    settings = dc.gradient_matching(ipc, LOOPS.get(ipc))
    networks, steps = WARMUP
    level = {"level": "batch", "warmup_networks": networks, "warmup_steps": steps}
    return {**settings, "objective": {**settings["objective"], **level}, "init": "real"}


def dcc_defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings of DCC: real images to start from, no augmentation while distilling, evaluated as DC.

    The authors normalise CIFAR-100 with the statistics of CIFAR-10; ddkit takes those of the data.
    """
    return {**dc.defaults(data, ipc), **contrastive(ipc)}


def dsac_defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings of DSAC: those of DCC with DSA's augmentation, one per class shared by both sides."""
    return {**dsa.defaults(data, ipc), **contrastive(ipc)}


_PAPER: dict[str, Any] = {
    "family": "gradient matching",
    "learns": "pixels",
    "paper": "Lee, Chun, Jung, Yun and Yoon, ICML 2022",
    "url": "https://arxiv.org/abs/2202.02916",
}

DCC = register(
    Method(
        name="dcc",
        title="Dataset Condensation with Contrastive Signals",
        cost="hours",
        defaults=dcc_defaults,
        **_PAPER,
    )
)
DSAC = register(
    Method(
        name="dsac",
        title="Dataset Condensation with Contrastive Signals and Differentiable Siamese Augmentation",
        cost="hours",
        defaults=dsac_defaults,
        **_PAPER,
    )
)
