"""What is the loss of outputs against the labels of a set, whatever kind they are of?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def loss_kind(loss: Literal["auto", "ce", "mse"], label_kind: str) -> Literal["ce", "mse"]:
    """Resolve the ``loss`` of a recipe for labels of kind ``"hard"``, ``"soft"`` or ``"regression"``."""
    if loss == "auto":
        return "mse" if label_kind == "regression" else "ce"
    return loss


def label_loss(outputs: Tensor, labels: Tensor, label_kind: str, recipe: Mapping[str, Any]) -> Tensor:
    r"""Return the mean loss by which a set is meant to be trained on: cross-entropy, or the squared error.

    Squared errors are :math:`\lVert f / s - y \rVert^2 / K` with the recipe's label scale s; class numbers count as
    one-hot rows less 1/K there.

    Args:
        outputs: of the network, (N, K).
        labels: (N,) int64 class numbers, or (N, K) rows.
        label_kind: ``hard``, ``soft`` or ``regression``.
        recipe: the training recipe of the set; ``loss`` and ``label_scale`` are read, both may be missing.
    """
    if loss_kind(recipe.get("loss") or "auto", label_kind) == "mse":
        rows = labels if labels.ndim == 2 else F.one_hot(labels, outputs.shape[1]).to(outputs) - 1 / outputs.shape[1]
        return F.mse_loss(outputs / float(recipe.get("label_scale") or 1.0), rows.to(outputs))
    return F.cross_entropy(outputs, labels if labels.ndim == 1 else as_probabilities(labels).to(outputs))


def as_probabilities(rows: Tensor) -> Tensor:
    """Return label rows (N, K) as probabilities: entries below 0 become 0, then every row is divided by its sum.

    Cross-entropy against a row with negative entries has no lower bound: a few steps learned with such rows are
    fine, training until the end of a schedule diverges. Rows that are probabilities already stay as they are to the
    bit; a row without a positive entry becomes uniform.
    """
    fine = (rows >= 0).all(1) & ((rows.sum(1) - 1).abs() <= 1e-3)
    if bool(fine.all()):
        return rows
    positive = rows.clamp(min=0)
    total = positive.sum(1, keepdim=True)
    shares = torch.where(total > 0, positive / total.clamp(min=torch.finfo(rows.dtype).tiny), 1 / rows.shape[1])
    return torch.where(fine[:, None], rows, shares)
