"""The adjoint recursion: what the weights after each step are worth, from the last step to the first."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.objectives.unrolling.base import Point, accumulate, step_back, stepped
from ddkit.objectives.unrolling.problem import InnerProblem


def needs_velocity(problem: InnerProblem) -> bool:
    """Say whether a backward sweep looks at the velocities: where there are any and a rate or momentum is learned."""
    momentum = problem.momentum
    return momentum is not None and (problem.rate.requires_grad or momentum.requires_grad)


class Sweep:
    r"""One way back over the steps of an inner problem.

    With :math:`\lambda_i = dL/d\theta_i`, :math:`\nu = dL/dm_{i+1}` and :math:`g_i = \nabla_\theta \ell(\theta_i, X_i,
    Y_i)`, starting from :math:`\lambda_N = dJ/d\theta_N` and :math:`\nu = 0`, for i from N - 1 to 0:

    .. math::
        \nu \leftarrow \nu - \eta_i \lambda_{i+1}, \quad
        \frac{dL}{d\eta_i} = -\langle\lambda_{i+1}, m_{i+1}\rangle, \quad
        \frac{dL}{d\beta_i} = \langle\nu, m_i\rangle, \quad
        \frac{dL}{dX_i} = \frac{\partial \langle\nu, g_i\rangle}{\partial X_i}

        \lambda_i = \lambda_{i+1} + H_i \nu + \frac{dJ_i}{d\theta_i}, \qquad \nu \leftarrow \beta_i \nu

    :math:`\nu` is updated before the products and decayed after them. Without momentum :math:`\nu = -\eta_i
    \lambda_{i+1}` and :math:`m_{i+1} = g_i`.

    Args:
        problem: what was unrolled.
        end: where it ended.
    """

    def __init__(self, problem: InnerProblem, end: Point) -> None:
        self.problem = problem
        self.loss, self.adjoint = problem.terminal(end.theta)
        self._rates, self._momenta = problem.rates(), problem.momenta()
        self._velocity_adjoint = torch.zeros_like(self.adjoint) if problem.momentum is not None else None
        self._after = end.velocity
        zero = torch.zeros((), dtype=end.theta.dtype, device=end.theta.device)
        self._rate_gradients = [zero] * len(self._rates)
        self._momentum_gradients = [zero] * len(self._rates)

    def step(self, number: int, before: Point) -> None:
        """Go back over step ``number``, which started at ``before``."""
        if self._velocity_adjoint is None:
            self._plain(number, before)
        else:
            self._heavy(number, before, self._velocity_adjoint)
        if number in self.problem.intermediate and number > self.problem.first:
            loss, direction = self.problem.intermediate[number](before.theta)
            self.loss, self.adjoint = self.loss + loss, self.adjoint + direction

    def finish(self) -> None:
        """Accumulate the gradients of learning rates and momenta."""
        accumulate(self.problem.rate, self._rate_gradients)
        accumulate(self.problem.momentum, self._momentum_gradients)

    def _plain(self, number: int, before: Point) -> None:
        rate, batch = self._rates[number], self.problem.batches[number]
        product = step_back(self.problem, batch, before.theta, self.adjoint, -rate.detach(), curvature=True)
        self._rate_gradients[number] = -product.value
        assert product.curvature is not None
        self.adjoint = stepped(self.adjoint, product.curvature, rate)

    def _heavy(self, number: int, before: Point, direction: Tensor) -> None:
        rate, momentum, batch = self._rates[number], self._momenta[number], self.problem.batches[number]
        assert momentum is not None
        direction = direction - rate.detach() * self.adjoint
        product = step_back(self.problem, batch, before.theta, direction, 1.0, curvature=True)
        if before.velocity is not None and self._after is not None:
            self._rate_gradients[number] = -(self.adjoint @ self._after)
            self._momentum_gradients[number] = direction @ before.velocity
        assert product.curvature is not None
        self.adjoint = self.adjoint + product.curvature
        self._velocity_adjoint = momentum.detach() * direction
        self._after = before.velocity
