"""The exact gradient with the graph of one step at a time."""

from __future__ import annotations

from ddkit.objectives.unrolling.base import MetaGradient, Point, Unrolled, registry, walk
from ddkit.objectives.unrolling.problem import InnerProblem
from ddkit.objectives.unrolling.sweep import Sweep, needs_velocity


@registry.register("adjoint")
class Adjoint(MetaGradient):
    r"""Reverse-mode differentiation of the unrolled student, written out.

    The weights :math:`\theta_0, \dots, \theta_N` are found and kept without a graph. Then, from the last step to the
    first, with :math:`\lambda_N = dJ/d\theta_N` and :math:`g_i = \nabla_\theta \ell(\theta_i, X_i, Y_i)`:

    .. math::
        \frac{dL}{dX_i} = -\eta_i \frac{\partial \langle\lambda_{i+1}, g_i\rangle}{\partial X_i}, \quad
        \frac{dL}{d\eta_i} = -\langle\lambda_{i+1}, g_i\rangle, \quad
        \lambda_i = \lambda_{i+1} - \eta_i H_i \lambda_{i+1}

    See :class:`~ddkit.objectives.unrolling.sweep.Sweep` for momentum and intermediate losses.

    This equals autograd through the unroll (:class:`FullUnroll`) up to rounding. Memory is the graph of one step and N
    weight vectors (2N with momentum where a rate or momentum is learned); the additional work is one forward and
    backward pass per step. Measured against :class:`FullUnroll` at 40 steps of a ConvNet-D3 of width 128 on 10 images
    of 3x32x32: 99 against 1,252 MiB, and 1.1 to 1.5 times the time at 1 to 40 steps, eager on one CPU thread
    (``benchmarks/bench_unroll.py``). :class:`Checkpointed` keeps fewer weight vectors.
    """

    passes = 12.0

    def backward(self, problem: InnerProblem) -> Unrolled:
        """Walk to the end, then back."""
        trail: list[Point] = []
        keep = needs_velocity(problem)
        end, first_gradient = walk(problem, trail, velocities=keep)
        sweep = Sweep(problem, end)
        for number in reversed(range(problem.first, len(problem.batches))):
            sweep.step(number, trail.pop())
        sweep.finish()
        return Unrolled(sweep.loss, end.theta, sweep.adjoint, first_gradient)
