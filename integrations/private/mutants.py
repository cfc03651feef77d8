"""Which mistakes must an audit catch? Mechanisms that are broken on purpose; nothing else may use them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ddkit.augment.base import Draws
from ddkit.integrations.private.data import PrivateData
from ddkit.integrations.private.noise import NoiseSource
from ddkit.integrations.private.signals import OneShotMeans
from ddkit.networks.network import Network

Mutant = Literal["none", "no-clip", "half-noise", "fresh-noise"]
MUTANTS: tuple[Mutant, ...] = ("no-clip", "half-noise", "fresh-noise")


class Unclipped(PrivateData):
    """Forgets to bound what one record adds."""

    def _clipped(self, values: Tensor, clip: float) -> Tensor:
        return values


class HalfNoise(PrivateData):
    """Adds half of the noise that is paid for."""

    def _scaled_noise(self, deviation: float, like: Tensor) -> Tensor:
        return super()._scaled_noise(deviation / 2, like)


class FreshNoise(OneShotMeans):
    """Keeps the clean sums and noises them anew at every step; averages bring the clean ones back."""

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Ask again, and pay once."""
        self._means = None
        self.private.plan._made = 0
        return super().feature_means(network, classes, draws)


class Silence(NoiseSource):
    """No noise at all: what an attacker computes who knows every record but one."""

    secret = False

    def uniform(self, count: int) -> Tensor:
        """Return zeros, so that every record is in every sample."""
        return torch.zeros(count, dtype=torch.float64)

    def gaussian(self, shape: tuple[int, ...]) -> Tensor:
        """Return zeros."""
        return torch.zeros(shape, dtype=torch.float64)

    def describe(self) -> str:
        """Return what a report says of this source."""
        return "none: the result is not private"


#: The private data that each mutant uses.
WALLS: dict[str, type[PrivateData]] = {"no-clip": Unclipped, "half-noise": HalfNoise}
