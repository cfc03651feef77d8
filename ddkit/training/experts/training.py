"""How are experts trained, and what is kept of the way?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ddkit.base.precision import Precision
from ddkit.base.streams import Streams, derive_seed
from ddkit.errors import DivergedError
from ddkit.training.batches import Batches, TrainingSet
from ddkit.training.experts.flat import FlatLearner, flat
from ddkit.training.experts.measures import Sample
from ddkit.training.experts.settings import ExpertSettings
from ddkit.training.learners import Learner, Workload, create_learner
from ddkit.training.train import run_epochs, setting_of

#: Training images on which loss, accuracy and flatness are measured; all of a smaller set.
MEASURED_IMAGES = 1024


@dataclass
class Trajectory:
    """The way of one expert.

    Args:
        weights: E + 1 rows (P,) on the CPU, the initial weights first, in the order of ``module.parameters()``, each
            in row-major order.
        loss: E + 1 losses on a sample of the training images, without augmentation.
        accuracy: E + 1 accuracies on it.
        flatness: mean increase of the last loss under random perturbations, see :meth:`Sample.flatness`.
        seconds: that training took; a share of the time where several were trained together.
    """

    weights: list[Tensor] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)
    flatness: float = 0.0
    seconds: float = 0.0


def train_experts(
    data: TrainingSet,
    settings: ExpertSettings,
    experts: Sequence[int],
    *,
    precision: Precision | None = None,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> list[Trajectory]:
    """Train the experts of these numbers, side by side as stacked weights if there are several.

    Args:
        data: real training data with hard labels.
        settings: how to train.
        experts: numbers of the experts; a single one is trained without stacking.
        precision: number format of the passes, and whether they are compiled (a single expert only).
        on_epoch: called with the number of epochs done, from 1.

    Raises:
        DivergedError: a weight is not finite any more.
    """
    started, recipe, count = time.monotonic(), settings.recipe(), len(experts)
    seeds = [settings.seed_of(expert) for expert in experts]
    setting = setting_of(data, settings.spec, recipe, precision or Precision())
    learner = create_learner(setting, seeds, stacked=count > 1)
    if settings.rho:
        learner = FlatLearner(learner, count, rho=settings.rho, alpha=settings.alpha, adaptive=settings.adaptive)
    sample, trajectories = _sample(data, setting, settings.seed), [Trajectory() for _ in experts]
    _record(trajectories, learner, sample)

    def after_epoch(epoch: int) -> None:
        _require_finite(learner, experts, epoch, settings)
        _record(trajectories, learner, sample)
        _require_finite_losses(trajectories, experts, epoch, settings)
        on_epoch(epoch)

    batches = Batches(data, recipe, [Streams(seed) for seed in seeds], pad=setting.precision.compile)
    run_epochs(learner, batches, after_epoch)
    seconds = (time.monotonic() - started) / count
    for seed, trajectory, last in zip(seeds, trajectories, flat(learner.parameters, count), strict=True):
        trajectory.flatness = sample.flatness(last, Streams(seed)("flatness"))
        trajectory.seconds = seconds
    return trajectories


def _sample(data: TrainingSet, setting: Workload, seed: int) -> Sample:
    """Draw the measured images: the same for all experts of a buffer."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "measured"))
    index = torch.randperm(len(data), generator=generator)[:MEASURED_IMAGES].to(data.targets.device)
    return Sample(setting.build(seed=0), *data.batch(index))


def _record(trajectories: Sequence[Trajectory], learner: Learner, sample: Sample) -> None:
    """Keep copies of the present weights: a view of living ones would end as the last of them."""
    for trajectory, weights in zip(trajectories, flat(learner.parameters, len(trajectories)), strict=True):
        trajectory.weights.append(weights.to("cpu", copy=True))
        loss, accuracy = sample.loss_and_accuracy(weights)
        trajectory.loss.append(loss)
        trajectory.accuracy.append(accuracy)


def _require_finite(learner: Learner, experts: Sequence[int], epoch: int, settings: ExpertSettings) -> None:
    finite = flat(learner.parameters, len(experts)).isfinite().all(dim=1)
    for expert, good in zip(experts, finite.tolist(), strict=True):
        if not good:
            raise _diverged(expert, "its weights are not finite any more", epoch, settings)


def _require_finite_losses(
    trajectories: Sequence[Trajectory], experts: Sequence[int], epoch: int, settings: ExpertSettings
) -> None:
    for expert, trajectory in zip(experts, trajectories, strict=True):
        if not math.isfinite(trajectory.loss[-1]):
            raise _diverged(expert, f"its loss is {trajectory.loss[-1]}", epoch, settings)


def _diverged(expert: int, what: str, epoch: int, settings: ExpertSettings) -> DivergedError:
    flatness = f" or rho (now {settings.rho:g})" if settings.rho else ""
    return DivergedError(
        f"expert {expert} diverged in epoch {epoch} of {settings.epochs}, {what}: lower lr (now {settings.lr:g})"
        f"{flatness}; experts finished before are kept"
    )
