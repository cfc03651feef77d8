"""The truncated gradient of TESLA: two passes, memory that does not grow with the number of steps."""

from __future__ import annotations

from ddkit.errors import ConfigError
from ddkit.objectives.unrolling.base import MetaGradient, Unrolled, accumulate, registry, step_back, stepped, walk
from ddkit.objectives.unrolling.problem import InnerProblem


@registry.register("tesla")
class Tesla(MetaGradient):
    r"""Two passes over the steps (Cui et al. 2023, ICML).

    The first finds :math:`\theta_N` and keeps nothing, the second repeats the steps and differentiates each of them
    with its weights taken as constant:

    .. math::
        \frac{dL}{dX_i} := -\eta_i \frac{\partial \langle\lambda_N, g_i\rangle}{\partial X_i}, \quad
        \frac{dL}{d\eta_i} := -\langle\lambda_N, g_i\rangle, \qquad \lambda_N = \frac{dJ}{d\theta_N}

    The paper calls this exact. It is the gradient of :math:`J(\theta_0 - \sum_i \eta_i g_i)` with every
    :math:`\theta_i` inside :math:`g_i` detached: it leaves out that :math:`X_i` moves all later weights, the factors
    :math:`I - \eta_j H_j` of :class:`Adjoint`. Both agree for one step, for a loss that is linear in the weights, for
    images that only the last step uses, and to first order as :math:`\eta \to 0`; otherwise they differ, and at many
    steps the gradient of the learning rate can have the wrong sign.

    Deviations from the authors' program: the factor 2 of the squared distance is there (theirs is lost, so halve the
    published learning rates of images), the first pass keeps no graph, and weights are recomputed instead of stored.
    """

    passes = 12.0

    @classmethod
    def check(cls, *, momentum: bool = False, intermediate: bool = False, window: bool = False) -> None:
        """Refuse everything but plain gradient descent with one loss at its end, for which the formula holds."""
        asked = {"momentum": momentum, "intermediate losses": intermediate, "a window": window}
        if names := [name for name, wanted in asked.items() if wanted]:
            raise ConfigError(
                f"meta-gradient 'tesla' knows plain gradient descent only, not {' or '.join(names)}: use adjoint or "
                f"checkpointed"
            )

    def backward(self, problem: InnerProblem) -> Unrolled:
        """Find the end, then repeat the steps."""
        self.check(
            momentum=problem.momentum is not None,
            intermediate=bool(problem.intermediate),
            window=problem.window is not None,
        )
        end, first_gradient = walk(problem)
        loss, direction = problem.terminal(end.theta)
        theta = problem.start.detach()
        rate_gradients = []
        for batch, rate in zip(problem.batches, problem.rates(), strict=True):
            product = step_back(problem, batch, theta, direction, -rate.detach(), curvature=False)
            rate_gradients.append(-product.value)
            theta = stepped(theta, product.gradient, rate)
        accumulate(problem.rate, rate_gradients)
        return Unrolled(loss, end.theta, direction, first_gradient)
