"""What does a ReLU layer do to Gaussian covariances? The arc-cosine kernel, with gradients finite everywhere."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Share of q q' below which s² counts as angle 0, where the derivative of the angle is left out.
ANGLE_ZERO = {torch.float64: 1e-12, torch.float32: 1e-6}


class _ReluCovariance(torch.autograd.Function):
    """See :func:`relu_covariance`."""

    @staticmethod
    def forward(ctx: Any, sigma: Tensor, q: Tensor, p: Tensor, same: Tensor | None) -> tuple[Tensor, Tensor]:
        s = torch.addcmul(-sigma.square(), q, p).clamp_(min=0).sqrt_()
        if same is not None:
            s = s.masked_fill_(same, 0)
        phi = torch.atan2(s, sigma).mul_(-0.5 / math.pi).add_(0.5)
        if same is not None:
            phi = phi.masked_fill_(same, 0.5)
        ctx.save_for_backward(sigma, q, p, phi, s)
        return torch.addcmul(s / (2 * math.pi), phi, sigma), phi

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad_t: Tensor, grad_phi: Tensor) -> tuple[Tensor | None, ...]:
        sigma, q, p, phi, s = ctx.saved_tensors
        tiny = torch.finfo(s.dtype).tiny
        q, p = q.clamp_min(tiny), p.clamp_min(tiny)
        apart = s.square() > ANGLE_ZERO.get(s.dtype, 1e-6) * q * p
        slope = torch.where(apart, grad_phi / (2 * math.pi * s.clamp_min(tiny)), 0)
        grad_sigma = torch.addcmul(slope, grad_t, phi)
        # dT/dq = s / (4 pi q) and dphi/dq = -sigma / (4 pi q s), and the same in q'.
        common = torch.addcmul(grad_t * s / (4 * math.pi), slope, sigma, value=-0.5)
        needs = ctx.needs_input_grad
        grad_q = (common / q).sum_to_size(q.shape) if needs[1] else None
        grad_p = (common / p).sum_to_size(p.shape) if needs[2] else None
        return grad_sigma if needs[0] else None, grad_q, grad_p, None


def relu_covariance(sigma: Tensor, q: Tensor, p: Tensor, same: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return the covariance of two rectified Gaussians and the probability that both are active.

    .. math::
        s = \sqrt{\max(q q' - \Sigma^2, 0)}, \quad \phi = \frac{\pi - \mathrm{atan2}(s, \Sigma)}{2\pi}, \quad
        T = \frac{s}{2\pi} + \phi \Sigma

    (Cho and Saul 2009; without the factor :math:`\sqrt 2` that some absorb in the activation.) The derivatives of T are
    finite for every angle; those of :math:`\phi` grow like 1/s and are set to 0 where :math:`s^2 \le \epsilon q q'`,
    which is their value on the diagonal of a Gram matrix, where the angle is 0 along every variation. A derivative of
    acos is infinite there.

    Args:
        sigma: covariances, any shape.
        q: variances of one side, broadcastable to it; 0 gives 0 and no gradient.
        p: variances of the other side, likewise.
        same: where both sides are the same image and pixel: the angle is set to 0 instead of left to rounding.

    Returns:
        T and phi, of the shape of ``sigma``; differentiable once.
    """
    result: tuple[Tensor, Tensor] = _ReluCovariance.apply(sigma, q, p, same)
    return result
