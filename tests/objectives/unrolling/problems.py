"""Inner problems in float64 that are small enough to differentiate through completely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit import augment
from ddkit.networks.flat import FlatLoss
from ddkit.objectives.unrolling import Batch, InnerProblem, MetaGradient, Terminal, Unrolled, distance_to

INPUTS, HIDDEN, CLASSES, SAMPLES = 5, 7, 3, 6
WEIGHTS = INPUTS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES


def tanh_mlp_loss(theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of a 5-7-3 network with tanh."""
    sizes = (INPUTS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES)
    first, first_bias, second, second_bias = theta.split(sizes)
    hidden = torch.tanh(images @ first.view(INPUTS, HIDDEN) + first_bias)
    return F.cross_entropy(hidden @ second.view(HIDDEN, CLASSES) + second_bias, targets)


def linear_loss(theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
    """A loss without curvature in the weights: the mean of <f(x), y> for a linear f."""
    return ((images @ theta.view(INPUTS, CLASSES)) * targets).sum() / len(images)


@dataclass
class Toy:
    """A problem with its leaves.

    ``steps`` are rows of ``images`` per step; ``soft`` makes the targets a leaf; ``rates`` makes one rate and momentum
    per step; ``free`` targets are no probabilities; ``every`` judges the student after every so many steps as well.
    """

    steps: list[list[int]]
    rate: float = 0.3
    soft: bool = True
    rates: bool = False
    momentum: float | None = None
    free: bool = False
    every: int = 0
    window: int | None = None
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = tanh_mlp_loss
    seed: int = 0
    images: Tensor = field(init=False)
    targets: Tensor = field(init=False)
    learned_rate: Tensor = field(init=False)
    learned_momentum: Tensor | None = field(init=False)
    start: Tensor = field(init=False)
    target: Tensor = field(init=False)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        weights = WEIGHTS if self.loss is tanh_mlp_loss else INPUTS * CLASSES
        rows = max([SAMPLES, *(max(step) + 1 for step in self.steps)])
        self.images = normal(rows, INPUTS).requires_grad_()
        drawn = normal(rows, CLASSES)
        soft = drawn if self.free else drawn.softmax(1)
        self.targets = soft.requires_grad_() if self.soft else soft.argmax(1)
        self.learned_rate = torch.full((len(self.steps),) if self.rates else (), self.rate, dtype=torch.float64)
        self.learned_rate.requires_grad_()
        self.learned_momentum = None
        if self.momentum is not None:
            self.learned_momentum = torch.full_like(self.learned_rate, self.momentum).requires_grad_()
        self.start, self.target = 0.5 * normal(weights), 0.5 * normal(weights)

    def problem(self) -> InnerProblem:
        """Return the inner problem, with fresh graphs to the same leaves."""

        def batch(rows: list[int]) -> Batch:
            return lambda: (self.images[rows], self.targets[rows])

        return InnerProblem(
            loss=FlatLoss(self.loss),
            start=self.start,
            batches=[batch(rows) for rows in self.steps],
            rate=self.learned_rate,
            terminal=distance_to(self.target, self.start),
            momentum=self.learned_momentum,
            intermediate={number: self._judge(number) for number in range(self.every, len(self.steps), self.every)}
            if self.every
            else {},
            window=self.window,
        )

    def _judge(self, number: int) -> Terminal:
        """Return a loss of the weights after ``number`` steps: their distance to a point of its own."""

        def terminal(theta: Tensor) -> tuple[Tensor, Tensor]:
            difference = theta - number * self.target
            return 0.1 * difference.square().sum(), 0.2 * difference

        return terminal

    def leaves(self) -> dict[str, Tensor]:
        """Return what collects gradients, by name."""
        named = {"images": self.images, "targets": self.targets, "rate": self.learned_rate}
        if self.learned_momentum is not None:
            named["momentum"] = self.learned_momentum
        return {name: leaf for name, leaf in named.items() if leaf.requires_grad}

    def solve(self, method: MetaGradient) -> tuple[Unrolled, dict[str, Tensor]]:
        """Return the outcome and the gradients by name."""
        for leaf in self.leaves().values():
            leaf.grad = None
        outcome = method.backward(self.problem())
        gradients = {name: leaf.grad.clone() for name, leaf in self.leaves().items() if leaf.grad is not None}
        return outcome, gradients


def central_difference(loss: Callable[[], float], tensor: Tensor, position: int, step: float = 1e-5) -> float:
    """Differentiate ``loss`` numerically with respect to one entry of ``tensor``."""
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            tensor.view(-1)[position] += sign * step
        values.append(loss())
        with torch.no_grad():
            tensor.view(-1)[position] -= sign * step
    return (values[0] - values[1]) / (2 * step)


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return the norm of the difference over the norm of ``reference``."""
    return float((value - reference).norm() / reference.norm())


def augmented_image_problem(strategy: str, steps: int = 4) -> tuple[InnerProblem, Tensor]:
    """Return a problem of tiny convolution on augmented 1x8x8 images, and the images."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(4, 1, 8, 8, generator=generator, dtype=torch.float64).requires_grad_()
    targets, augmentation = torch.tensor([0, 1, 2, 0]), augment.create(strategy)

    def loss(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        kernel, classifier = theta.split((4 * 9, 4 * 36 * CLASSES))
        maps = torch.tanh(F.conv2d(x, kernel.view(4, 1, 3, 3)))
        return F.cross_entropy(maps.flatten(1) @ classifier.view(-1, CLASSES), y)

    def batch(draws: augment.Draws) -> Batch:
        return lambda: (augmentation.apply(images, draws, torch.arange(4)), targets)

    start = 0.3 * torch.randn(4 * 9 + 4 * 36 * CLASSES, generator=generator, dtype=torch.float64)
    problem = InnerProblem(
        FlatLoss(loss),
        start,
        [batch(augmentation.draw_train(4, generator)) for _ in range(steps)],
        torch.tensor(0.3, dtype=torch.float64),
        distance_to(torch.zeros_like(start), start),
    )
    return problem, images
