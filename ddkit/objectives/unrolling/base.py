"""The base of every way to differentiate through an inner problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddkit.base.registry import Registry
from ddkit.networks.flat import Product
from ddkit.networks.network import Network
from ddkit.objectives.unrolling.problem import Batch, InnerProblem

registry: Registry[type[MetaGradient]] = Registry("meta-gradient", "ddkit.meta_gradients")


@dataclass(frozen=True)
class Unrolled:
    r"""What became of a student; tensors without a graph.

    Args:
        loss: :math:`L = J(\theta_N)` (), intermediate losses included.
        end: :math:`\theta_N` (P,).
        start_gradient: :math:`dL/d\theta_0` (P,) through the steps, for objectives that learn the starting point; with
            a window :math:`dL/d\theta_{N-W}`.
        first_gradient: :math:`g_0 = \nabla_\theta \ell(\theta_0, X_0, Y_0)` (P,), for a network that takes that step
            itself; 0 where there are no steps.
    """

    loss: Tensor
    end: Tensor
    start_gradient: Tensor
    first_gradient: Tensor


@dataclass(frozen=True)
class Point:
    r"""Where a student is before a step, without a graph.

    Args:
        theta: weights :math:`\theta_i` (P,).
        velocity: :math:`m_i` (P,); None without momentum, or where nobody will ask for it.
    """

    theta: Tensor
    velocity: Tensor | None = None


class MetaGradient(ABC):
    """Accumulates the gradient of an inner problem's loss on the leaves of its batches, its learning rate and momentum.

    Leaves are whatever the graphs of the batches (images and, where they are floating, targets), of the learning rate
    and of the momentum end in: pixels, labels, a rate, or tensors that stand for them.
    """

    #: Forward passes of a single image per image and step (a backward pass counts as two).
    passes: ClassVar[float]

    @classmethod
    def check(cls, *, momentum: bool = False, intermediate: bool = False, window: bool = False) -> None:
        """Refuse kinds of inner problems that this meta-gradient does not know: none, unless it says so.

        Args:
            momentum: whether students take steps with momentum.
            intermediate: whether there are losses before the last step.
            window: whether only the last steps are differentiated.

        Raises:
            ConfigError: naming what it lacks and the remedy.
        """

    def suited(self, network: Network, images: int) -> MetaGradient:
        """Return what to use for ``images`` of all differentiated steps together on ``network``: itself."""
        return self

    @abstractmethod
    def backward(self, problem: InnerProblem) -> Unrolled:
        """Unroll ``problem`` and accumulate ``.grad`` on its leaves."""


def starting_point(problem: InnerProblem) -> Point:
    """Return where a student starts."""
    theta = problem.start.detach()
    return Point(theta, None if problem.momentum is None else torch.zeros_like(theta))


def advance(problem: InnerProblem, point: Point, number: int) -> tuple[Point, Tensor]:
    """Take step ``number`` from ``point`` without a graph: where it leads, and the gradient (P,) that it followed."""
    with torch.no_grad():
        images, targets = problem.batches[number]()
    gradient = problem.loss.gradient(point.theta, images, targets)
    rate, momentum = problem.constants(number)
    if momentum is None:
        return Point(stepped(point.theta, gradient, rate)), gradient
    assert point.velocity is not None
    velocity = momentum * point.velocity + gradient
    return Point(stepped(point.theta, velocity, rate), velocity), gradient


def walk(
    problem: InnerProblem, trail: list[Point] | None = None, *, every: int = 1, velocities: bool = True
) -> tuple[Point, Tensor]:
    """Take all steps without a graph.

    Args:
        problem: what to unroll.
        trail: receives the point before every step that is differentiated; None to keep none.
        every: keep only every so many of them, the first one included.
        velocities: whether these points keep their velocity.

    Returns:
        the last point, and the gradient (P,) of the first step.
    """
    point = starting_point(problem)
    first_gradient = torch.zeros_like(point.theta)
    for number in range(len(problem.batches)):
        if trail is not None and number >= problem.first and (number - problem.first) % every == 0:
            trail.append(point if velocities else Point(point.theta))
        point, gradient = advance(problem, point, number)
        if number == 0:
            first_gradient = gradient
    return point, first_gradient


def stepped(theta: Tensor, direction: Tensor, rate: Tensor) -> Tensor:
    """Return the weights after one step against ``direction`` (a gradient or a velocity), without a graph."""
    return theta - rate.detach() * direction


def step_back(
    problem: InnerProblem,
    batch: Batch,
    theta: Tensor,
    direction: Tensor,
    factor: Tensor | float,
    *,
    curvature: bool,
) -> Product:
    r"""Accumulate what one step contributes to images and targets: :math:`f\, \nabla \langle v, g_i\rangle`.

    Args:
        problem: what is unrolled.
        batch: of this step.
        theta: weights before this step (P,).
        direction: v (P,).
        factor: f ().
        curvature: whether :math:`H_i v` is wanted.

    Returns:
        the derivatives at this step.
    """
    images, targets = batch()
    product = problem.loss.product(theta, images, targets, direction, curvature=curvature)
    pairs = ((images, product.images), (targets, product.targets))
    chosen = [(tensor, factor * gradient) for tensor, gradient in pairs if gradient is not None]
    if chosen:
        torch.autograd.backward([tensor for tensor, _ in chosen], [gradient for _, gradient in chosen])
    return product


def accumulate(values: Tensor | None, gradients: list[Tensor]) -> None:
    """Accumulate the gradients of a quantity of all steps (rates, momenta): N tensors of shape ()."""
    if gradients and values is not None and values.requires_grad:
        stacked = torch.stack(gradients)
        torch.autograd.backward(values, stacked if values.dim() else stacked.sum())
