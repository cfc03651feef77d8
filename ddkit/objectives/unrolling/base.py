"""The base of every way to differentiate through an inner problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ddkit.objectives.unrolling.flat import Product
from ddkit.objectives.unrolling.problem import Batch, InnerProblem
from ddkit.registry import Registry

registry: Registry[type[MetaGradient]] = Registry("meta-gradient", "ddkit.meta_gradients")


@dataclass(frozen=True)
class Unrolled:
    r"""What became of a student; tensors without a graph.

    Args:
        loss: :math:`L = J(\theta_N)` ().
        end: :math:`\theta_N` (P,).
        start_gradient: :math:`dL/d\theta_0` (P,) through the steps, for objectives that learn the starting point.
    """

    loss: Tensor
    end: Tensor
    start_gradient: Tensor


class MetaGradient(ABC):
    """Accumulates the gradient of an inner problem's loss on the leaves of its batches and on its learning rate.

    Leaves are whatever the graphs of the batches (images and, where they are floating, targets) and of the learning
    rate end in: pixels, labels, a rate, or tensors that stand for them.
    """

    #: Forward passes of a single image per image and step (a backward pass counts as two).
    passes: ClassVar[float]

    @abstractmethod
    def backward(self, problem: InnerProblem) -> Unrolled:
        """Unroll ``problem`` and accumulate ``.grad`` on its leaves."""


def walk(problem: InnerProblem, trail: list[Tensor] | None = None) -> Tensor:
    """Take all steps without a graph.

    Args:
        problem: what to unroll.
        trail: receives the weights (P,) before every step; None to keep none.

    Returns:
        the last weights (P,).
    """
    theta = problem.start.detach()
    for batch, rate in zip(problem.batches, problem.rates(), strict=True):
        if trail is not None:
            trail.append(theta)
        with torch.no_grad():
            images, targets = batch()
        theta = stepped(theta, problem.loss.gradient(theta, images, targets), rate)
    return theta


def stepped(theta: Tensor, gradient: Tensor, rate: Tensor) -> Tensor:
    """Return the weights after one step of plain gradient descent, without a graph."""
    return theta - rate.detach() * gradient


def step_back(
    problem: InnerProblem, batch: Batch, rate: Tensor, theta: Tensor, direction: Tensor, *, curvature: bool
) -> Product:
    r"""Accumulate what one step contributes to images and targets: :math:`-\eta_i \nabla \langle v, g_i\rangle`.

    Args:
        problem: what is unrolled.
        batch: of this step.
        rate: of this step ().
        theta: weights before this step (P,).
        direction: v (P,).
        curvature: whether :math:`H_i v` is wanted.

    Returns:
        the derivatives at this step.
    """
    images, targets = batch()
    product = problem.loss.product(theta, images, targets, direction, curvature=curvature)
    pairs = ((images, product.images), (targets, product.targets))
    chosen = [(tensor, -rate.detach() * gradient) for tensor, gradient in pairs if gradient is not None]
    if chosen:
        torch.autograd.backward([tensor for tensor, _ in chosen], [gradient for _, gradient in chosen])
    return product


def accumulate_rate(problem: InnerProblem, gradients: list[Tensor]) -> None:
    """Accumulate the gradients of the learning rates of all steps, N tensors of shape ()."""
    if gradients and problem.rate.requires_grad:
        stacked = torch.stack(gradients)
        torch.autograd.backward(problem.rate, stacked if problem.rate.dim() else stacked.sum())
