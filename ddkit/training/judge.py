"""How good small sets are, as networks tell that are trained on them: many short trainings of one architecture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddkit.base.device import resolve_device
from ddkit.base.precision import PassCost, Precision, resolve_precision
from ddkit.data.real import RealData
from ddkit.models.spec import ModelSpec
from ddkit.training.accuracy import accuracies
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

#: Images of a batch: by SGD in batches of 256, as in the common protocol, 20,000 images are 80 steps, in which networks
#: do not learn what the larger sets have to teach (100 random CIFAR-10 images a class, 20 epochs, held-out training
#: images: 37 %, by batches of 64 46 %; digits, 60 a class, 30 epochs: 92 % and 98 %).
BATCH = 64


@dataclass(frozen=True)
class Judge:
    """Trains networks on sets and tests them on images that are held out.

    Args:
        spec: the architecture.
        held_out: real images, preprocessed as those of the sets.
        passes: images that will be shown to networks in all. Many are shown to compiled networks in bfloat16, where the
            machine is good at it.
        device: where to train.
    """

    spec: ModelSpec
    held_out: RealData
    passes: float
    device: str | torch.device = "auto"

    @functools.cached_property
    def _cost(self) -> PassCost:
        return self.spec.cost(self.held_out.shape, self.held_out.num_classes)

    @property
    def _counted(self) -> float:
        """Forward passes that take as long: on one thread with augmentation about twice what two do without."""
        return 2 * 3 * self.passes

    @functools.cached_property
    def _precision(self) -> Precision:
        device = resolve_device(self.device)
        return resolve_precision("auto", "auto", passes=self._counted, cost=self._cost, device=device)

    @property
    def seconds(self) -> float:
        """Estimate how long all of this takes."""
        return self._precision.seconds(self._counted * self._cost.eager_seconds(resolve_device(self.device)))

    def accuracies(self, images: Tensor, labels: Tensor, recipe: TrainingRecipe, seeds: Sequence[int]) -> list[float]:
        """Return the accuracy, a fraction, of a network per seed.

        Args:
            images: preprocessed, (N, C, H, W).
            labels: class indices (N,) or rows (N, K).
            recipe: how to train; batches are of at most :data:`BATCH`.
            seeds: one for every network.

        Raises:
            DivergedError: weights are no longer finite.
        """
        how = recipe.replace(batch_size=min(BATCH, recipe.batch_size))
        # A smaller batch than the recipe's is a shape of its own, which would be compiled for a few steps.
        fast = self._precision if len(images) >= how.batch_size else Precision()
        trained = train_networks(
            images,
            labels,
            self.spec,
            how,
            seeds,
            num_classes=self.held_out.num_classes,
            device=self.device,
            precision=fast.name,
            compile=fast.compile,
        )
        return accuracies(trained, self.held_out)
