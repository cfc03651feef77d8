"""What is the ridge regression on features that stands in for a last layer?"""

from __future__ import annotations

import torch
from torch import Tensor


def with_constant(features: Tensor) -> Tensor:
    """Return features (N, F) with a column of ones, (N, F + 1)."""
    return torch.cat([features, features.new_ones(len(features), 1)], dim=1)


def ridge_weights(features: Tensor, targets: Tensor, regulariser: float) -> Tensor:
    r"""Solve ridge regression in its kernel form (survey Eq. 14 with a linear kernel).

    .. math:: w = \Phi^\top (\Phi \Phi^\top + \lambda I)^{-1} Y

    Args:
        features: :math:`\Phi` (b, F), constant column included.
        targets: Y (b, K).
        regulariser: :math:`\lambda`, positive.

    Returns:
        (F, K) in the number format of ``features``, differentiable; the solve is in float64.
    """
    phi = features.double()
    gram = phi @ phi.T + regulariser * torch.eye(len(phi), dtype=phi.dtype, device=phi.device)
    weights = phi.T @ torch.cholesky_solve(targets.double(), torch.linalg.cholesky(gram))
    return weights.to(features)
