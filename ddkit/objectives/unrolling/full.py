"""Autograd through all steps at once: the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.objectives.unrolling.base import MetaGradient, Point, Unrolled, advance, registry, starting_point
from ddkit.objectives.unrolling.problem import InnerProblem


@registry.register("full")
class FullUnroll(MetaGradient):
    """Keep the graph of every step and run one backward pass (Cazenavette et al. 2022, CVPR).

    Exact. Memory grows with the number of steps times the activations of a batch, and it is always eager, as compiled
    functions cannot be differentiated twice. Meant for comparison; :class:`Adjoint` gives the same gradient.
    """

    passes = 9.0

    def backward(self, problem: InnerProblem) -> Unrolled:
        """Unroll with a graph, then differentiate."""
        point, first_gradient = starting_point(problem), torch.zeros_like(problem.start)
        for number in range(problem.first):
            point, gradient = advance(problem, point, number)
            first_gradient = gradient if number == 0 else first_gradient
        start = point.theta.requires_grad_()
        seen, first = self._unroll(problem, Point(start, point.velocity))
        first_gradient = first_gradient if problem.first or first is None else first
        value, direction = problem.terminal(seen[-1].detach())
        ends, directions = [seen[-1]], [direction]
        for number in sorted(problem.intermediate, reverse=True):
            if number > problem.first:
                theta = seen[number - problem.first]
                loss, direction = problem.intermediate[number](theta.detach())
                value = value + loss
                ends.append(theta)
                directions.append(direction)
        torch.autograd.backward(ends, directions)
        assert start.grad is not None
        return Unrolled(value, seen[-1].detach(), start.grad, first_gradient)

    @staticmethod
    def _unroll(problem: InnerProblem, point: Point) -> tuple[list[Tensor], Tensor | None]:
        """Return the weights before every differentiated step and after the last, and the gradient of the first."""
        seen, theta, velocity, first_gradient = [point.theta], point.theta, point.velocity, None
        rates, momenta = problem.rates(), problem.momenta()
        for number in range(problem.first, len(problem.batches)):
            loss = problem.loss(theta, *problem.batches[number]())
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            first_gradient = gradient.detach() if first_gradient is None else first_gradient
            momentum = momenta[number]
            if momentum is not None:
                assert velocity is not None
                velocity = momentum * velocity + gradient
                theta = theta - rates[number] * velocity
            else:
                theta = theta - rates[number] * gradient
            seen.append(theta)
        return seen, first_gradient
