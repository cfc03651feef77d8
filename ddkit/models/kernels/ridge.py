"""How a ridge system is solved: Cholesky in float64, with an error that says what to change."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.errors import DivergedError, RunError


def regularised(matrix: Tensor, regulariser: float, scale: Tensor) -> Tensor:
    """Return ``matrix`` (n, n) plus ``regulariser * scale`` on its diagonal."""
    return matrix + torch.diag_embed((regulariser * scale).expand(len(matrix)))


def solve_ridge(matrix: Tensor, right: Tensor, regulariser: float, scale: Tensor) -> Tensor:
    r"""Return :math:`(M + \lambda s I)^{-1} R`, differentiable with respect to M, R and s.

    Args:
        matrix: M (n, n), symmetric and positive semi-definite; float64 is advised, as condition numbers reach 1e7.
        right: R (n, K).
        regulariser: :math:`\lambda`.
        scale: s (), the mean diagonal of the Gram matrix.

    Raises:
        DivergedError: the matrix is not finite.
        RunError: the regularised matrix is not positive definite.
    """
    system = regularised(matrix, regulariser, scale)
    if not bool(torch.isfinite(system.detach()).all()):
        raise DivergedError(
            f"the kernel matrix of {len(matrix)} support images is not finite: the images have diverged, so lower "
            f"optimiser.lr (or networks.lr, where networks are trained) and start again"
        )
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info) > 0:
        raise RunError(
            f"the kernel matrix of {len(matrix)} support images with a regulariser of {regulariser:g} is not positive "
            f"definite (Cholesky stops at row {int(info)}): images may be equal, so raise the regulariser, for "
            f"instance to {max(1e-6, 10 * regulariser):g}"
        )
    return torch.cholesky_solve(right, factor)
