"""The exact gradient for many steps: few weight vectors are kept, the others found again."""

from __future__ import annotations

import math

from ddkit.objectives.unrolling.base import MetaGradient, Point, Unrolled, advance, registry, walk
from ddkit.objectives.unrolling.problem import InnerProblem
from ddkit.objectives.unrolling.sweep import Sweep


@registry.register("checkpointed")
class Checkpointed(MetaGradient):
    r""":class:`Adjoint` that keeps every :math:`\lceil\sqrt{N}\rceil`-th weight vector (and velocity).

    The steps between two of them are taken again on the way back, once each, so memory is the graph of one step and
    about :math:`2\sqrt{N}` weight vectors (twice that with momentum), for one further forward and backward pass per
    step.
    The same operations give the same bits as :class:`Adjoint`. Weights are not found by reversing the momentum update:
    its error grows as :math:`\beta^{-i}`.
    """

    passes = 15.0

    def backward(self, problem: InnerProblem) -> Unrolled:
        """Walk to the end, then back one segment at a time."""
        steps = len(problem.batches)
        length = max(1, math.ceil(math.sqrt(steps - problem.first)))
        kept: list[Point] = []
        end, first_gradient = walk(problem, kept, every=length)
        sweep = Sweep(problem, end)
        for begin in reversed(range(problem.first, steps, length)):
            segment = [kept.pop()]
            for number in range(begin, min(begin + length, steps) - 1):
                segment.append(advance(problem, segment[-1], number)[0])
            for number in reversed(range(begin, begin + len(segment))):
                sweep.step(number, segment.pop())
        sweep.finish()
        return Unrolled(sweep.loss, end.theta, sweep.adjoint, first_gradient)
