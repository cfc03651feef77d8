"""How far apart two lists of gradients are, and which weights of a network a distance looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ddkit.errors import ConfigError, unknown_name

Metric = Literal["ours", "angle+magnitude", "mse", "cos", "l1", "l1_mean"]
METRICS: tuple[str, ...] = ("ours", "angle+magnitude", "mse", "cos", "l1", "l1_mean")
Weights = Literal["auto", "all", "matrices", "convolutions"]
WEIGHTS: tuple[str, ...] = ("auto", "all", "matrices", "convolutions")
#: Metrics of output rows; a tensor of rank 1 has none.
_ROW_METRICS = ("ours", "angle+magnitude", "l1_mean")
#: Added to the product of norms, as in the authors' program; published figures depend on it.
EPSILON = 1e-6
_TINY = 1e-30


def check_metric(metric: str, weights: str = "auto") -> None:
    """Refuse an unknown metric or choice of weights.

    Raises:
        UnknownNameError: no metric or choice of that name.
        ConfigError: all weights for a metric of rows, which would ignore those of rank 1.
    """
    if metric not in METRICS:
        raise unknown_name("gradient distance", metric, METRICS)
    if weights not in WEIGHTS:
        raise unknown_name("choice of weights", weights, WEIGHTS)
    if weights == "all" and uses_vectors_only(metric):
        raise ConfigError(
            f"objective.weights=all with objective.metric={metric}: this metric compares output rows, which biases "
            f"and norms do not have; use objective.weights=matrices, or objective.metric=mse, cos or l1"
        )


def uses_vectors_only(metric: str) -> bool:
    """Whether ``metric`` looks only at weights of rank 2 and more, so that biases and norms need no gradient."""
    return metric in _ROW_METRICS


def matched_names(module: nn.Module, metric: str, weights: str = "auto") -> list[str]:
    """Return the names of the weights of ``module`` whose gradients are compared, in its order.

    Args:
        module: the network.
        metric: the distance, which decides for ``auto``.
        weights: ``auto`` takes every tensor that the metric looks at, ``all`` every tensor, ``matrices`` those of rank
            2 and more (weights of convolutions and linear layers, affine parameters of a layer norm) and
            ``convolutions`` those of convolutions, rank 4 (Kim et al. 2022, IDC).

    Raises:
        ConfigError: the network has no such weights.
    """
    if weights == "auto":
        weights = "matrices" if uses_vectors_only(metric) else "all"
    lowest = {"all": 0, "matrices": 2, "convolutions": 4}[weights]
    names = [name for name, parameter in module.named_parameters() if parameter.dim() >= lowest]
    if not names:
        raise ConfigError(
            f"objective.weights={weights} finds nothing to match: {type(module).__name__} has no weights of rank "
            f"{lowest}; use objective.weights=auto or another model"
        )
    return names


def gradient_distance(
    synthetic: Sequence[Tensor],
    real: Sequence[Tensor],
    metric: Metric = "ours",
    magnitude_weight: float = 1.0,
) -> Tensor:
    r"""Return the distance of every class between two lists of gradients (survey Eqs. 22, 23 and 26).

    ``ours``: with :math:`A_i, B_i` the rows of one weight (all numbers that feed one output),

    .. math:: \sum_{l}\sum_i 1 - \frac{\langle A_i, B_i\rangle}{\|A_i\|\,\|B_i\| + 10^{-6}}

    ``angle+magnitude`` adds ``magnitude_weight`` times :math:`\|A_i - B_i\|` per row (Jiang et al. 2022), ``l1_mean``
    is the mean absolute difference of a row, summed over rows. To these three, tensors of rank 1 contribute nothing.
    ``mse`` is the sum (not the mean) of squared differences and ``l1`` of absolute ones over all numbers of a class;
    ``cos`` is one minus the cosine of all numbers of a class as one vector.

    The names are those of Zhao, Mopuri and Bilen (2021). Kim et al. (2022, IDC) sum over convolution weights; their
    ``mse``, ``l1`` and ``l1_mean`` are those of ddkit, their ``cos`` is ``ours`` here.

    Args:
        synthetic: gradients (G, \*weight shape) of G classes, one tensor per weight; differentiable.
        real: the same for the real data; constants.
        metric: the distance.
        magnitude_weight: of the second term of ``angle+magnitude``.

    Returns:
        (G,) distances.
    """
    check_metric(metric)
    if not uses_vectors_only(metric):
        return _vector_distance(_flat(synthetic), _flat(real), metric)
    total = synthetic[0].new_zeros(len(synthetic[0]))
    for a, b in zip(synthetic, real, strict=True):
        if a.dim() <= 2:
            continue
        a, b = a.flatten(2), b.flatten(2)
        if metric == "l1_mean":
            total = total + (a - b).abs().mean(2).sum(1)
            continue
        total = total + (1 - (a * b).sum(2) / (norm(a) * norm(b) + EPSILON)).sum(1)
        if metric == "angle+magnitude":
            total = total + magnitude_weight * norm(a - b).sum(1)
    return total


def _vector_distance(a: Tensor, b: Tensor, metric: str) -> Tensor:
    if metric == "mse":
        return (a - b).square().sum(1)
    if metric == "l1":
        return (a - b).abs().sum(1)
    return 1 - (a * b).sum(1) / (norm(a) * norm(b) + EPSILON)


def _flat(gradients: Sequence[Tensor]) -> Tensor:
    """Return the gradients of every class as one vector: (G, P)."""
    return torch.cat([g.flatten(1) for g in gradients], dim=1)


def norm(x: Tensor) -> Tensor:
    """Return the norm of the last dimension, whose gradient is 0, not NaN, at the origin."""
    square = x.square().sum(-1)
    zero = square <= _TINY
    return torch.where(zero, torch.zeros_like(square), torch.where(zero, torch.ones_like(square), square).sqrt())
