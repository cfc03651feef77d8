r"""How is one step of a flat expert taken?

Du et al. (2023, "Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation", Sec. 3.2) train experts
on :math:`L(w) + \alpha S(w)` with the sharpness :math:`S(w) = \max_{\|e\| \le \rho} L(w + e) - L(w)`, by the gradient
decomposition of GSAM (Zhuang et al. 2022). Gradient and weights are flat here, one row per network.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddkit.training.learners import Learner

_TINY = 1e-12


def ascent(weights: Tensor, gradient: Tensor, rho: float, adaptive: bool) -> Tensor:
    r"""Return the perturbation that raises the loss most within radius rho, to first order.

    :math:`e = \rho\, w^2 g / \| |w|\, g \|` where adaptive, element-wise with one norm per network, else :math:`e =
    \rho\, g / \|g\|`. Weights that are exactly 0 are not perturbed where adaptive.

    Args:
        weights: (R, P).
        gradient: (R, P), of the loss.
        rho: radius, at least 0.
        adaptive: whether the radius counts in units of the weights' magnitudes.

    Returns:
        (R, P).
    """
    scaled = weights.abs() * gradient if adaptive else gradient
    direction = weights.square() * gradient if adaptive else gradient
    return direction * (rho / (scaled.norm(dim=1, keepdim=True) + _TINY))


def descent(gradient: Tensor, perturbed: Tensor, alpha: float) -> Tensor:
    r"""Return the update direction :math:`d = g_p - \alpha\, g_\perp`, in which the *first* gradient is decomposed.

    :math:`g_\perp = g - (\langle g, g_p \rangle / \|g_p\|^2)\, g_p`. Subtracting the part of :math:`g_p` orthogonal to
    g instead would be another method.

    Args:
        gradient: (R, P), g at the weights.
        perturbed: (R, P), g_p at the perturbed weights.
        alpha: at least 0.

    Returns:
        (R, P); not finite where ``perturbed`` is zero.
    """
    if not alpha:
        return perturbed
    along = (gradient * perturbed).sum(1, keepdim=True) / perturbed.square().sum(1, keepdim=True)
    return perturbed - alpha * (gradient - along * perturbed)


def flat(tensors: list[Tensor], networks: int) -> Tensor:
    """Return a copy of parameters or gradients as (R, P): each tensor in row-major order, one behind the other."""
    return torch.cat([tensor.detach().reshape(networks, -1) for tensor in tensors], dim=1)


def copy_flat_(tensors: list[Tensor], rows: Tensor) -> None:
    """Write (R, P) back into ``tensors``, whatever their memory layout."""
    sizes = [tensor.numel() // len(rows) for tensor in tensors]
    with torch.no_grad():
        for tensor, part in zip(tensors, rows.split(sizes, dim=1), strict=True):
            tensor.copy_(part.reshape(tensor.shape))


class FlatLearner(Learner):
    """Leaves the update direction of flat experts in the gradients of another learner, its weights unchanged.

    Args:
        learner: R networks, whose gradients are computed twice on every batch.
        networks: R.
        rho: radius of the ascent.
        alpha: weight of the orthogonal part.
        adaptive: see :func:`ascent`.
    """

    def __init__(self, learner: Learner, networks: int, *, rho: float, alpha: float, adaptive: bool) -> None:
        self.learner, self.networks, self.parameters = learner, networks, learner.parameters
        self.rho, self.alpha, self.adaptive = rho, alpha, adaptive

    def compute_gradients(self, images: Tensor, targets: Tensor, weights: Tensor) -> None:
        def gradients() -> Tensor:
            self.learner.compute_gradients(images, targets, weights)
            return flat(self._gradients(), self.networks)

        start, gradient = flat(self.parameters, self.networks), gradients()
        copy_flat_(self.parameters, start + ascent(start, gradient, self.rho, self.adaptive))
        direction = descent(gradient, gradients(), self.alpha)
        copy_flat_(self.parameters, start)
        copy_flat_(self._gradients(), direction)

    def _gradients(self) -> list[Tensor]:
        return [tensor.grad for tensor in self.parameters if tensor.grad is not None]

    def trained(self) -> list[nn.Module]:
        return self.learner.trained()
