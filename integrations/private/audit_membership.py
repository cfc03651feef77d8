"""Does a released set tell who was in the training data? Distances, losses and shadow sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.private.audit_bounds import Curve, curve, one_run_bound
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

#: Makes a set from the members of run number r.
Maker = Callable[[RealData, int], DistilledDataset]
#: Fewer sets leave records without a set that they are in, or not in.
LEAST_RUNS = 4
_FLOOR = 1e-3


@dataclass(frozen=True)
class Membership:
    """What attacks on released sets achieved.

    Args:
        runs: sets, each of a random half of the records.
        records: attacked in every run.
        distance: score: how near the record is to a released image of its class.
        loss: score: how well a network trained on the released set classifies it.
        calibrated_distance: the first, relative to the sets that were made without the record (LiRA-lite).
        calibrated_loss: the second, likewise.
        one_run_epsilon: largest lower bound on epsilon of one run, by distance or by loss, at joint 95 % confidence.
    """

    runs: int
    records: int
    distance: Curve
    loss: Curve
    calibrated_distance: Curve
    calibrated_loss: Curve
    one_run_epsilon: float

    @property
    def best(self) -> Curve:
        """The attack with the largest true positive rate at 0.1 % false positives."""
        every = (self.distance, self.loss, self.calibrated_distance, self.calibrated_loss)
        return max(every, key=lambda one: (one.tpr_at_001, one.tpr_at_01, one.auc))

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return asdict(self)


def attack(
    make: Maker,
    real: RealData,
    *,
    delta: float,
    runs: int = 8,
    seed: int = 0,
    model: str = "convnet:width=16",
    epochs: int = 60,
) -> Membership:
    """Make sets from random halves of ``real`` and guess from each of them who was in it.

    Every set serves as shadow for the others: a record's score is compared with the scores that it gets from sets made
    without it. Averages hide what matters, so true positives are reported at few false ones.

    Args:
        make: makes the set of a run; it must not depend on anything but its arguments.
        real: records to choose members from.
        delta: of the claim, for the bound.
        runs: number of sets, at least 4.
        seed: of membership and networks.
        model: trained on the released sets for the loss.
        epochs: of that training.

    Raises:
        ConfigError: fewer than 4 runs.
    """
    if runs < LEAST_RUNS:
        raise ConfigError(f"runs={runs}: a record needs sets with and without it, so make at least {LEAST_RUNS}")
    coins = Streams(seed)("membership")
    members = torch.rand(runs, len(real), generator=coins) < 0.5
    distances, losses, guesses = [], [], []
    for run in range(runs):
        released = make(real.subset(members[run].nonzero().flatten()), run)
        shown = real.with_preprocessing(released.preprocessing).batch(torch.arange(len(real)))
        distances.append(_nearness(released, shown, real.labels))
        losses.append(-_losses(released, shown, real.labels, model, epochs, seed + run))
        guesses.append(min(len(released), len(real) // 4))
    near, easy = torch.stack(distances), torch.stack(losses)
    # Two attacks in every run: each bound is taken at a risk that adds up to 5 %.
    confidence = 1 - 0.05 / (2 * runs)
    bounds = [
        one_run_bound(int(members[run][scores[run].topk(count).indices].sum()), count, len(real), delta, confidence)
        for run, count in enumerate(guesses)
        for scores in (near, easy)
    ]
    return Membership(
        runs=runs,
        records=len(real),
        distance=_pooled(near, members),
        loss=_pooled(easy, members),
        calibrated_distance=_pooled(_calibrated(near, members), members),
        calibrated_loss=_pooled(_calibrated(easy, members), members),
        one_run_epsilon=max(bounds),
    )


def _nearness(released: DistilledDataset, shown: Tensor, labels: Tensor) -> Tensor:
    """Return minus the distance (N,) to the nearest released image of the record's class."""
    images, own = released.tensors()[0].flatten(1), released.hard_labels()
    distances = torch.cdist(shown.flatten(1), images)
    return -distances.masked_fill(labels[:, None] != own[None], math.inf).min(1).values


def _losses(released: DistilledDataset, shown: Tensor, labels: Tensor, model: str, epochs: int, seed: int) -> Tensor:
    """Return the cross-entropy (N,) of a network that was trained on the released set."""
    images, targets = released.tensors()
    recipe = TrainingRecipe(name="attack", epochs=epochs, schedule="cosine", lr=0.02)
    (network,) = train_networks(
        images, targets, ModelSpec.parse(model), recipe, [seed], num_classes=released.num_classes
    )
    with torch.inference_mode():
        logits = torch.cat([network(part) for part in shown.split(512)])
    return F.cross_entropy(logits, labels, reduction="none")


def _calibrated(scores: Tensor, members: Tensor) -> Tensor:
    """Return scores (R, N) in standard deviations above those that the record got where it was absent.

    The run itself is left out. A record that was absent in fewer than two other runs keeps the spread of all records.
    """
    result = torch.zeros_like(scores)
    common = scores.std(0).mean()
    for run in range(len(scores)):
        absent = ~members
        absent = torch.cat([absent[:run], absent[run + 1 :]])
        others = torch.cat([scores[:run], scores[run + 1 :]])
        count = absent.sum(0)
        mean = torch.where(absent, others, 0.0).sum(0) / count.clamp(min=1)
        square = torch.where(absent, (others - mean).square(), 0.0).sum(0) / (count - 1).clamp(min=1)
        spread = torch.where(count > 1, square.sqrt(), common) + _FLOOR * common
        centre = torch.where(count > 0, mean, others.mean(0))
        result[run] = (scores[run] - centre) / spread
    return result


def _pooled(scores: Tensor, members: Tensor) -> Curve:
    return curve(scores[members].tolist(), scores[~members].tolist())
