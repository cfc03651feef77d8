"""Random frequencies, and what they say about the features of images."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(features: Tensor) -> Tensor:
    """Return features (N, D) at length 1; those that are all zero stay so and have a finite gradient."""
    length = features.norm(dim=1, keepdim=True)
    return features / torch.where(length > 0, length, torch.ones_like(length))


class Frequencies:
    r"""Frequencies :math:`t_j \sim N(0, I)` and the waves along them, whose mean is the characteristic function.

    .. math:: \big(\cos\langle t_j, u\rangle\big)_{j \le m}, \big(\sin\langle t_j, u\rangle\big)_{j \le m}

    They are drawn when the first features tell how many coordinates there are. They suit features of length 1: along
    much longer ones all waves average out.

    Args:
        count: m.
        seed: from which they are drawn.

    Example:
        >>> import torch
        >>> from ddkit.networks.fourier import Frequencies, unit
        >>> Frequencies(3, seed=0)(unit(torch.randn(5, 8))).shape
        torch.Size([5, 6])
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._drawn: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """Return the waves (N, 2m), cosines first, at features (N, D)."""
        if self._drawn is None:
            generator = torch.Generator().manual_seed(self.seed)
            self._drawn = torch.randn(features.shape[1], self.count, generator=generator).to(features)
        angles = features @ self._drawn
        return torch.cat([angles.cos(), angles.sin()], dim=1)
