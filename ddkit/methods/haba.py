"""HaBa: trajectory matching of images that shared hallucinators make from bases."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register
from ddkit.methods.mtt import Settings, nearest, settings, short, trajectory_matching

#: Published number of hallucinators.
HALLUCINATORS = 5
#: Published learning rate of bases and hallucinators, and momenta.
RATE, MOMENTUM, LR_MOMENTUM = 100.0, 0.95, 0.9
#: The student's learning rate is not let below this.
LEAST_LR = 0.001
CIFAR10 = {
    1: Settings(50, 2, 2, RATE, 1e-7, zca=True),
    10: Settings(30, 2, 20, RATE, 1e-5, lr=0.001, zca=True),
    50: Settings(30, 2, 20, RATE, 1e-5, zca=True),
}
#: Rates of the hallucinators relative to those of the bases on small sets.
SMALL_STYLE = 0.01


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings: 15,000 steps, five hallucinators, the adversarial contrastive constraint.

    IPC counts bases per class: the hallucinators' floats come on top, see the budget of the result. Published for
    CIFAR-10 only; other data get MTT's settings with HaBa's learning rate, except small sets, which keep MTT's rate
    and momentum and a hundredth of that rate for hallucinators (measured on digits). An epoch of the evaluation shows
    one hallucination of each base.

    Deviation: images are not standardised batch by batch as in the authors' program, where the accuracy of a test
    image depends on its batch.
    """
    published = known_as(data.name) == "cifar10"
    chosen = nearest(CIFAR10, ipc) if published else settings(data, ipc)
    small = chosen.rate < RATE
    if not small:
        chosen = replace(chosen, rate=RATE)
    result = trajectory_matching(
        chosen,
        data,
        ipc,
        steps=15_000,
        momentum=0.5 if small else MOMENTUM,
        objective={"lr_range": [LEAST_LR, 100.0]},
        recipe={"views": "own"},
    )
    groups = result["optimiser"]["groups"]
    groups["student_lr"]["momentum"] = 0.5 if small else LR_MOMENTUM
    if small:
        groups["style"] = {"lr": chosen.rate * SMALL_STYLE}
    return {
        **result,
        "synthesis": {"name": "hallucinators", "hallucinators": HALLUCINATORS},
        "constraint": {"name": "contrast"},
    }


HABA = register(
    Method(
        name="haba",
        title="Dataset Distillation via Factorization",
        family="trajectory matching",
        learns="bases and hallucinators, learning rate",
        paper="Liu et al., NeurIPS 2022",
        url="https://arxiv.org/abs/2210.16774",
        cost="days",
        defaults=defaults,
        short=short,
    )
)
