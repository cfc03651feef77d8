"""How is a set distilled from the global model's own trajectory, without any image?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddkit.base.config import merge
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine.distiller import Distiller
from ddkit.errors import ConfigError
from ddkit.integrations.federated.task import Task
from ddkit.networks.experts import Segment
from ddkit.networks.network import Network
from ddkit.networks.sources import NetworkSource
from ddkit.synthesis.base import Synthesizer


class GlobalTrajectory(NetworkSource):
    """The global model after each of the first rounds, as the one expert of trajectory matching.

    Args:
        weights: W + 1 vectors (P,), the initial weights first.
    """

    def __init__(self, weights: list[Tensor]) -> None:
        self.points = weights
        self.count, self.epochs = 1, len(weights) - 1

    def require_epochs(self, last: int) -> None:
        """Refuse a segment that ends after the last round kept."""
        if last > self.epochs:
            raise ConfigError(
                f"round {last} of the global model is read, {self.epochs} were kept: raise warmup_rounds, or lower "
                f"objective.max_start_epoch or objective.expert_epochs"
            )

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Return the global weights (P,) after a round, 0 for the initial ones."""
        return self.points[epoch]

    def segment(self, max_start: int, length: int) -> Segment:
        """Draw a start below ``max_start``, uniformly; the target is ``length`` rounds later."""
        self.require_epochs(max_start - 1 + length)
        start = int(torch.randint(max_start, (1,), generator=self.streams("experts")))
        return Segment(self.points[start], self.points[start + length], 0, start)

    def current(self) -> Network:
        """Return the network with its present weights: trajectories alone are matched."""
        return self.network

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Keep the trajectory as it is."""

    def metadata(self) -> dict[str, Any]:
        """Return the number of rounds."""
        return {"rounds": self.epochs}


def distil_trajectory(
    task: Task,
    model: str,
    trajectory: list[Tensor],
    ipc: int,
    seed: int,
    *,
    method: str = "mtt",
    options: Mapping[str, Any] | None = None,
) -> DistilledDataset:
    """Distil a set that retraces the global model's way (Pi et al. 2023, "DynaFed", CVPR), without any real image.

    Images start from noise, labels are soft and learned, as in the paper. Real images play no part: the data that the
    distiller is given say only how many classes of which shape there are.

    Args:
        task: what the federation learns.
        model: the global model.
        trajectory: W + 1 weight vectors (P,).
        ipc: images per class.
        seed: of the distillation.
        method: a method of trajectory matching.
        options: overrides of its preset.

    Raises:
        ConfigError: options that do not suit, or too short a trajectory.
    """
    rounds = len(trajectory) - 1
    length = min(2, rounds)
    defaults: dict[str, Any] = {
        "model": model,
        "init": "noise",
        "augmentation": "none",
        "synthesis": {"name": "pixels", "labels": "learned"},
        "objective": {"student_steps": 10, "expert_epochs": length, "max_start_epoch": rounds - length + 1},
        "steps": 200,
        "optimiser": {"name": "adam", "lr": 0.05, "groups": {"student_lr": {"name": "adam", "lr": 1e-3}}},
    }
    blank = torch.zeros(task.num_classes, *task.shape, dtype=torch.uint8)
    nobody = RealData.from_tensors(
        blank,
        torch.arange(task.num_classes),
        class_names=task.class_names,
        preprocessing=task.preprocessing,
        name=f"global model over {rounds} rounds",
    )
    settings = merge(defaults, options or {})
    return Distiller(method, ipc, seed=seed, networks=GlobalTrajectory(trajectory), **settings).fit(nobody)
