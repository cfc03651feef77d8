"""Kernels of infinitely wide networks: their options, and the fully connected one."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ddkit.base.ranges import Rate, Weight, in_range
from ddkit.errors import ConfigError
from ddkit.models.kernels.base import Kernel
from ddkit.models.kernels.relu import relu_covariance

InfiniteKind = Literal["ntk", "nngp"]


def require_kind(kernel: str) -> None:
    """Refuse another kernel than ``ntk`` and ``nngp``."""
    if kernel not in ("ntk", "nngp"):
        raise ConfigError(f"networks.kernel={kernel} of an infinitely wide network must be ntk or nngp")


class InfiniteKernel(Kernel):
    """What the kernels of infinitely wide ReLU networks share.

    Args:
        architecture: as it was asked for.
        kernel: ``ntk`` or ``nngp``.
        sigma_w2: variance of the weights, times fan-in.
        sigma_b2: variance of the biases. KIP's program says 0.01, its first paper 1e-4.

    Raises:
        ConfigError: another kernel, or a variance out of range.
    """

    name: ClassVar[str] = "infinite"

    @in_range("networks")
    def __init__(
        self, architecture: str, kernel: InfiniteKind = "ntk", sigma_w2: Rate = 2.0, sigma_b2: Weight = 0.01
    ) -> None:
        require_kind(kernel)
        self.architecture, self.kernel = architecture, kernel
        self.sigma_w2, self.sigma_b2 = float(sigma_w2), float(sigma_b2)

    @property
    def tangent(self) -> bool:
        """Whether this is the neural tangent kernel."""
        return self.kernel == "ntk"

    def describe(self) -> dict[str, Any]:
        """Return the options."""
        return {
            "name": self.name,
            "kernel": self.kernel,
            "architecture": self.architecture,
            "sigma_w2": self.sigma_w2,
            "sigma_b2": self.sigma_b2,
        }


class FullyConnectedKernel(InfiniteKernel):
    r"""NTK or NNGP of a fully connected ReLU network with L hidden layers, in NTK parameterisation.

    With d inputs, :math:`q = \Sigma(x, x)` and (T, phi) of :func:`~ddkit.models.kernels.relu.relu_covariance`:

    .. math::
        \Sigma^1 = \sigma_w^2 x \cdot x'/d + \sigma_b^2, \quad \Theta^1 = \Sigma^1; \qquad
        \Sigma^{l+1} = \sigma_w^2 T(\Sigma^l) + \sigma_b^2, \quad
        \Theta^{l+1} = \Sigma^{l+1} + \sigma_w^2 \phi \Theta^l

    Args:
        depth: L, at least 1.
        options: see :class:`InfiniteKernel`.
    """

    def __init__(self, depth: int, **options: Any) -> None:
        if depth < 1:
            raise ConfigError(f"architecture 'fc{depth}' has no hidden layer: use fc1 or deeper")
        super().__init__(f"fc{depth}", **options)
        self.depth = depth

    def represent(self, images: Tensor) -> Tensor:
        """Return the flattened images (n, C * H * W)."""
        return images.flatten(1)

    def gram(self, support: Tensor) -> Tensor:
        """Return K_ss (n, n); its diagonal is exact."""
        sigma = self._covariance(support, support)
        same = torch.eye(len(support), dtype=torch.bool, device=support.device)
        variances = sigma.diagonal()
        return self._layers(sigma, variances[:, None], variances[None], same).double()

    def cross(self, images: Tensor, support: Tensor) -> Tensor:
        """Return K_ts (B, n) in the format of the support, as float64."""
        targets = images.detach().to(support).flatten(1)
        variances = [self._variance(side) for side in (targets, support)]
        return self._layers(self._covariance(targets, support), variances[0][:, None], variances[1][None]).double()

    def targets_at_once(self, support: Tensor, limit: int) -> int:
        """Return ``limit`` unless the matrix becomes huge: a chunk of it has at most 2^22 entries."""
        return max(1, min(limit, 2**22 // len(support)))

    def _covariance(self, x: Tensor, y: Tensor) -> Tensor:
        return self.sigma_w2 / x.shape[1] * (x @ y.T) + self.sigma_b2

    def _variance(self, x: Tensor) -> Tensor:
        return self.sigma_w2 * x.square().mean(1) + self.sigma_b2

    def _layers(self, sigma: Tensor, q: Tensor, p: Tensor, same: Tensor | None = None) -> Tensor:
        theta = sigma
        for _ in range(self.depth):
            covariance, active = relu_covariance(sigma, q, p, same)
            sigma = self.sigma_w2 * covariance + self.sigma_b2
            if self.tangent:
                theta = sigma + self.sigma_w2 * active * theta
            q, p = (self.sigma_w2 / 2 * side + self.sigma_b2 for side in (q, p))
        return theta if self.tangent else sigma
