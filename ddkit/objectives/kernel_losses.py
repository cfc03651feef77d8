"""Which losses does kernel regression know: squared errors, cross-entropy with a temperature, a margin of labels."""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from ddkit.errors import ConfigError

KernelLoss = Literal["mse", "sum", "platt"]


def require_loss(name: str) -> None:
    """Refuse a loss that does not exist."""
    if name not in get_args(KernelLoss):
        raise ConfigError(f"objective.loss='{name}' is no loss of kernel regression: choose mse, sum or platt")


def target_loss(name: KernelLoss, predicted: Tensor, rows: Tensor, labels: Tensor, log_scale: Tensor) -> Tensor:
    r"""Return the loss of predictions, summed over targets.

    .. math::
        \text{mse}: \tfrac{1}{2K} \sum_{t,c} (\hat y - y)^2, \quad
        \text{sum}: \tfrac12 \sum_{t,c} (\hat y - y)^2, \quad
        \text{platt}: \sum_t \mathrm{CE}(e^k \hat y_t, c_t)

    Divided by the number of targets these are the losses of KIP's program (the survey's Eq. 15 is a sum), of FRePo
    (survey Eq. 17) and of RFAD (survey Eq. 16 with temperature :math:`e^{-k}`).

    Args:
        name: of the loss.
        predicted: (B, K).
        rows: (B, K) centred labels of the targets.
        labels: (B,) int64.
        log_scale: k ().
    """
    if name == "platt":
        return F.cross_entropy(predicted * log_scale.exp(), labels, reduction="sum")
    share = 1 / predicted.shape[1] if name == "mse" else 1.0
    return 0.5 * share * (predicted - rows).square().sum()


def record_losses(name: KernelLoss, predicted: Tensor, rows: Tensor) -> Tensor:
    """Return the squared error of every target on its own: (B,) whose sum is :func:`target_loss`.

    Args:
        name: ``mse`` or ``sum``.
        predicted: (B, K).
        rows: (B, K) centred labels of the targets.
    """
    share = 1 / predicted.shape[1] if name == "mse" else 1.0
    return 0.5 * share * (predicted - rows).square().sum(1)


def label_margin(rows: Tensor) -> Tensor:
    r"""Return minus the mean margin of labels, capped at 1/K (FRePo, Zhou et al. 2022, arXiv 2206.00719).

    .. math:: -\tfrac1n \sum_i \min\big(y_{i(1)} - y_{i(2)}, \tfrac1K\big)

    with the largest and the second largest entry of each row: learned labels are kept from losing their class. A
    row with a larger margin gets no gradient.

    Args:
        rows: (n, K).
    """
    top = rows.topk(2, dim=1).values
    return -(top[:, 0] - top[:, 1]).clamp(max=1 / rows.shape[1]).mean()
