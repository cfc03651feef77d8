"""Distances between class gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ddkit.errors import unknown_name

Metric = Literal["ours", "angle+magnitude", "mse", "cos"]
METRICS: tuple[str, ...] = ("ours", "angle+magnitude", "mse", "cos")
#: Added to the product of norms, as in the authors' program; published figures depend on it.
EPSILON = 1e-6
_TINY = 1e-30


def check_metric(metric: str) -> None:
    """Refuse an unknown metric."""
    if metric not in METRICS:
        raise unknown_name("gradient distance", metric, METRICS)


def uses_vectors_only(metric: str) -> bool:
    """Whether ``metric`` looks only at weights of rank 2 and more, so that biases and norms need no gradient."""
    return metric in ("ours", "angle+magnitude")


def gradient_distance(
    synthetic: Sequence[Tensor],
    real: Sequence[Tensor],
    metric: Metric = "ours",
    magnitude_weight: float = 1.0,
) -> Tensor:
    r"""Return the distance of every class between two lists of gradients (survey Eqs. 22, 23 and 26).

    ``ours``: with :math:`A_i, B_i` the rows of one weight (all numbers that feed one output),

    .. math:: \sum_{l}\sum_i 1 - \frac{\langle A_i, B_i\rangle}{\|A_i\|\,\|B_i\| + 10^{-6}}

    Tensors of rank 1 contribute nothing. ``angle+magnitude`` adds ``magnitude_weight`` times
    :math:`\|A_i - B_i\|` per row (Jiang et al. 2022). ``mse`` is the sum of squared differences and ``cos`` one minus
    the cosine of all numbers of a class as one vector.

    Args:
        synthetic: gradients (G, \*weight shape) of G classes, one tensor per weight; differentiable.
        real: the same for the real data; constants.
        metric: the distance.
        magnitude_weight: of the second term of ``angle+magnitude``.

    Returns:
        (G,) distances.
    """
    check_metric(metric)
    if metric in ("mse", "cos"):
        a = torch.cat([g.flatten(1) for g in synthetic], dim=1)
        b = torch.cat([g.flatten(1) for g in real], dim=1)
        if metric == "mse":
            return (a - b).square().sum(1)
        return 1 - (a * b).sum(1) / (_norm(a) * _norm(b) + EPSILON)
    total = synthetic[0].new_zeros(len(synthetic[0]))
    for a, b in zip(synthetic, real, strict=True):
        if a.dim() <= 2:
            continue
        a, b = a.flatten(2), b.flatten(2)
        total = total + (1 - (a * b).sum(2) / (_norm(a) * _norm(b) + EPSILON)).sum(1)
        if metric == "angle+magnitude":
            total = total + magnitude_weight * _norm(a - b).sum(1)
    return total


def _norm(x: Tensor) -> Tensor:
    """Norm of the last dimension whose gradient is 0, not NaN, at the origin."""
    square = x.square().sum(-1)
    zero = square <= _TINY
    return torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).sqrt())
