"""TESLA: trajectory matching with two passes of constant memory, and labels assigned by the experts."""

from __future__ import annotations

from typing import Any

from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.methods.mtt import Settings, settings, short, trajectory_matching

#: Published cells. Rates of images are half of the published ones: the authors' program leaves out a factor of 2.
PUBLISHED: dict[tuple[str, int], Settings] = {
    ("cifar10", 1): Settings(50, 2, 5, 500, 1e-7),
    ("cifar100", 50): Settings(80, 2, 40, 500, 1e-5, zca=True, batch=125),
}
#: Classes from which on labels are assigned by the experts, as published for ImageNet-1K.
MANY_CLASSES = 1000
IMAGENET_EXPERTS = 50
IMAGENET = Settings(10, 3, 10, 5000, 1e-4, batch=100)


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings: 10,000 steps; labels are hard, but for a thousand classes and more (ImageNet-1K).

    The meta-gradient is the published one, which leaves out how an image changes the weights at which later gradients
    are taken; ``objective.meta_gradient=adjoint`` is exact at the same cost. Unpublished cells get MTT's settings.
    """
    chosen = PUBLISHED.get((known_as(data.name), ipc)) or settings(data, ipc)
    soft = data.num_classes >= MANY_CLASSES
    chosen = IMAGENET if soft else chosen
    objective = {"meta_gradient": "tesla", "soft_labels": "per_segment" if soft else "none"}
    networks = {"count": IMAGENET_EXPERTS} if soft else {}
    return {
        **trajectory_matching(chosen, data, ipc, steps=10_000, objective=objective, networks=networks),
        **({"synthesis": {"name": "pixels", "labels": "assigned"}} if soft else {}),
    }


TESLA = register(
    Method(
        name="tesla",
        title="Scaling Up Dataset Distillation to ImageNet-1K with Constant Memory",
        family="trajectory matching",
        learns="pixels, learning rate (labels from experts)",
        paper="Cui et al., ICML 2023",
        url="https://arxiv.org/abs/2211.10586",
        cost="days",
        defaults=defaults,
        short=short,
    )
)
