"""MTT: matching training trajectories, and the settings that FTD, TESLA and HaBa share with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ddkit.augment import default_strategy
from ddkit.data.names import known_as
from ddkit.data.real import RealData
from ddkit.methods.base import Method, register

Cell = TypeVar("Cell")

#: Published number of experts.
EXPERTS = 100
#: Real sets below this size get the settings of small sets, see :func:`small`.
SMALL_SET = 5000


@dataclass(frozen=True)
class Settings:
    """How one cell (dataset, IPC) is distilled.

    Args:
        student_steps: N, SGD steps of the student on synthetic images.
        expert_epochs: M, epochs of the expert that these steps should equal.
        max_start_epoch: segments start at one of so many epochs, from 0.
        rate: learning rate of the synthetic images.
        rate_of_lr: learning rate of the student's learning rate.
        lr: initial learning rate of the student.
        zca: whether pixels are whitened.
        batch: synthetic images per student step; None for all of them.
        expert_lr: learning rate of the experts.
        expert_batch: real images per step of an expert.
    """

    student_steps: int
    expert_epochs: int
    max_start_epoch: int
    rate: float
    rate_of_lr: float
    lr: float = 0.01
    zca: bool = False
    batch: int | None = None
    expert_lr: float = 0.01
    expert_batch: int = 256


#: Published cells by dataset and IPC (the authors' table; images of the ImageNet subsets have 128 pixels).
PUBLISHED: dict[str, dict[int, Settings]] = {
    "cifar10": {
        1: Settings(50, 2, 2, 100, 1e-7, zca=True),
        10: Settings(30, 2, 20, 100, 1e-5, lr=0.001, zca=True),
        50: Settings(30, 2, 40, 1000, 1e-5, lr=0.001),
    },
    "cifar100": {
        1: Settings(20, 3, 20, 1000, 1e-5, zca=True),
        10: Settings(20, 2, 20, 1000, 1e-5),
        50: Settings(80, 2, 40, 1000, 1e-5, zca=True, batch=125),
    },
    "tinyimagenet": {
        1: Settings(10, 2, 10, 10_000, 1e-4),
        10: Settings(20, 2, 40, 10_000, 1e-4, batch=200),
        50: Settings(20, 2, 40, 10_000, 1e-4, batch=300),
    },
}
#: Everything else; the published cells of MNIST, FashionMNIST and SVHN come from other programs, without settings.
OTHER = {
    1: Settings(20, 2, 5, 100, 1e-5),
    10: Settings(20, 2, 10, 1000, 1e-5),
    50: Settings(30, 2, 20, 1000, 1e-5, batch=250),
}
#: Small sets of small images: an epoch has few steps, so experts take larger ones.
SMALL = Settings(20, 2, 5, 10, 1e-3, lr=0.02, expert_lr=0.05, expert_batch=64)
#: Synthetic images of a student's step in short runs.
SHORT_BATCH = 50


def nearest(cells: Mapping[int, Cell], ipc: int) -> Cell:
    """Return the settings of the largest listed IPC that is not above ``ipc``."""
    return cells[max((listed for listed in cells if listed <= ipc), default=min(cells))]


def settings(data: RealData, ipc: int) -> Settings:
    """Return the settings of a cell: published ones where there are any, else those chosen here."""
    name = known_as(data.name)
    if name in PUBLISHED:
        return nearest(PUBLISHED[name], ipc)
    if len(data) < SMALL_SET:
        return SMALL
    return nearest(OTHER, ipc)


def trajectory_matching(
    chosen: Settings,
    data: RealData,
    ipc: int,
    *,
    steps: int,
    momentum: float = 0.5,
    objective: dict[str, Any] | None = None,
    networks: dict[str, Any] | None = None,
    recipe: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the configuration of trajectory matching for a cell.

    Args:
        chosen: the settings of the cell.
        data: the real data.
        ipc: images per class.
        steps: outer steps.
        momentum: of the synthetic images and of the student's learning rate.
        objective: further options of the objective.
        networks: further options of the experts.
        recipe: further options of the training recipe.
    """
    strategy = default_strategy(data.name)
    total = ipc * data.num_classes
    return {
        "steps": steps,
        "objective": {
            "name": "trajectory",
            "student_steps": chosen.student_steps,
            "expert_epochs": chosen.expert_epochs,
            "max_start_epoch": chosen.max_start_epoch,
            "batch_syn": chosen.batch if chosen.batch and chosen.batch < total else None,
            "lr": chosen.lr,
            **(objective or {}),
        },
        "networks": {
            "name": "experts",
            "count": EXPERTS,
            "lr": chosen.expert_lr,
            "batch_size": chosen.expert_batch,
            **(networks or {}),
        },
        "zca": "pixels" if chosen.zca else None,
        "init": "real",
        "augmentation": strategy,
        "optimiser": {
            "name": "sgd",
            "lr": chosen.rate,
            "momentum": momentum,
            "groups": {"student_lr": {"name": "sgd", "lr": chosen.rate_of_lr, "momentum": momentum}},
        },
        "recipe": {"name": "dsa", "augmentation": strategy, **(recipe or {})},
    }


def defaults(data: RealData, ipc: int) -> dict[str, Any]:
    """Official settings: 5000 steps, 100 experts, evaluated with the learned learning rate.

    Experts are trained for as many epochs as segments reach (``max_start_epoch`` - 1 + ``expert_epochs``) instead of
    the published 50: with their constant learning rate the epochs that are read are the same. The meta-gradient is the
    published unrolling where it takes little memory, else the exact recursion, which equals it. Datasets without
    published settings get those chosen here.
    """
    return trajectory_matching(settings(data, ipc), data, ipc, steps=5000)


def short(data: RealData, ipc: int) -> dict[str, Any]:
    """Settings for minutes on a CPU: networks of width 32, three experts; in large sets, an epoch of theirs is matched.

    MNIST, ten a class, 240 CPU seconds on one thread of which the experts take 155, 5,000 held-out training images:
    ``mtt`` 95.2 % after 17 steps, ``tesla`` 95.4 % after 49; with the published networks and segments, four experts of
    a sixth of the images and 30 steps, ``tesla`` gave 92.6 % of the test images after 1,250 s.
    """
    settings: dict[str, Any] = {"model": "convnet:width=32", "networks": {"count": 3}}
    if len(data) >= SMALL_SET:
        batch = SHORT_BATCH if ipc * data.num_classes > SHORT_BATCH else None
        settings["objective"] = {"expert_epochs": 1, "max_start_epoch": 3, "batch_syn": batch}
    return settings


MTT = register(
    Method(
        name="mtt",
        title="Dataset Distillation by Matching Training Trajectories",
        family="trajectory matching",
        learns="pixels, learning rate",
        paper="Cazenavette et al., CVPR 2022",
        url="https://arxiv.org/abs/2203.11932",
        cost="days",
        defaults=defaults,
        short=short,
    )
)
