"""Autograd through all steps at once: the reference."""

from __future__ import annotations

import torch

from ddkit.objectives.unrolling.base import MetaGradient, Unrolled, registry
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
        start = problem.start.detach().requires_grad_()
        theta = start
        for batch, rate in zip(problem.batches, problem.rates(), strict=True):
            loss = problem.loss(theta, *batch())
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - rate * gradient
        end = theta.detach()
        value, direction = problem.terminal(end)
        torch.autograd.backward(theta, direction)
        assert start.grad is not None
        return Unrolled(value, end, start.grad)
