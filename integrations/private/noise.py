"""Where does privacy noise come from: the operating system, or a seed for tests that makes a result not private."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

#: Gaussian draws that are added up for one number, see :meth:`SystemNoise.gaussian`.
_SUMMANDS = 4


class NoiseSource(ABC):
    """Draws what nobody but this process may know: noise, and who is in a Poisson sample."""

    #: Whether the draws are unpredictable; a result of other draws is not private.
    secret: ClassVar[bool]

    @abstractmethod
    def uniform(self, count: int) -> Tensor:
        """Return (count,) float64 in (0, 1)."""

    @abstractmethod
    def gaussian(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of ``shape``, float64."""

    @abstractmethod
    def describe(self) -> str:
        """Return what a report says of this source."""


class SystemNoise(NoiseSource):
    """The operating system's generator: it has no seed that could be recorded, guessed or repeated."""

    secret = True

    def uniform(self, count: int) -> Tensor:
        """Return the top 52 bits of as many 64-bit words, centred in their cells, which is exact: never 0 or 1."""
        words = np.frombuffer(os.urandom(8 * count), dtype=np.uint64) >> np.uint64(12)
        return torch.from_numpy((words.astype(np.float64) + 0.5) * 2.0**-52)

    def gaussian(self, shape: tuple[int, ...]) -> Tensor:
        """Return the sum of four Box-Muller draws divided by two.

        One float64 draw has gaps that tell which clean value it was added to (Mironov 2012); several of them added up
        fill the gaps (Holohan and Braghin 2021, arXiv 2107.10138).
        """
        count = math.prod(shape)
        half = (count + 1) // 2
        total = torch.zeros(2 * half, dtype=torch.float64)
        for _ in range(_SUMMANDS):
            radius = torch.sqrt(-2.0 * torch.log(self.uniform(half)))
            angle = 2.0 * math.pi * self.uniform(half)
            total += torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])
        return (total[:count] / math.sqrt(_SUMMANDS)).reshape(shape)

    def describe(self) -> str:
        """Return what a report says of this source."""
        return "operating system (os.urandom), float64 Box-Muller, four draws per number"


class SeededNoise(NoiseSource):
    """Repeatable draws for tests and audits. Whoever has the seed subtracts the noise.

    Args:
        seed: of a CPU generator.
    """

    secret = False

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, count: int) -> Tensor:
        """Return (count,) float64 in [0, 1)."""
        return torch.rand(count, dtype=torch.float64, generator=self._generator)

    def gaussian(self, shape: tuple[int, ...]) -> Tensor:
        """Return standard normal numbers of ``shape``, float64."""
        return torch.randn(shape, dtype=torch.float64, generator=self._generator)

    def describe(self) -> str:
        """Return what a report says of this source."""
        return f"debug seed {self.seed}: the result is not private"
