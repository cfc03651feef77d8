"""What gradients does a small graph network get from every class: SGC in closed form, GCN by autograd?"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.integrations.graph.problem import Problem
from ddkit.integrations.graph.propagation import normalised_dense, rows_and_reach
from ddkit.integrations.graph.structure import spread


def glorot(outputs: int, inputs: int, generator: torch.Generator) -> Tensor:
    """Return a weight (outputs, inputs), uniform with the bound of Glorot and Bengio, as PyG's layers start."""
    bound = (6 / (inputs + outputs)) ** 0.5
    return (2 * torch.rand(outputs, inputs, generator=generator) - 1) * bound


def authors_weight(outputs: int, inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a weight (outputs, inputs) and a bias (outputs,), uniform within 1 / sqrt(inputs), as GCond's start."""
    bound = inputs**-0.5
    weight = (2 * torch.rand(outputs, inputs, generator=generator) - 1) * bound
    return weight, (2 * torch.rand(outputs, generator=generator) - 1) * bound


def glorot_weight(outputs: int, inputs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return a weight (outputs, inputs) by Glorot and Bengio, and a bias (outputs,) of zeros, as PyG's layers start."""
    return glorot(outputs, inputs, generator), torch.zeros(outputs)


#: How the networks of gradient matching start.
WEIGHTS: dict[str, Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]] = {
    "glorot": glorot_weight,
    "authors": authors_weight,
}


class Backbone(ABC):
    """A network on which gradients of the real and the condensed graph are compared, class by class.

    Gradients are lists of tensors (C, *weight shape), one for every weight matrix; biases are not compared.
    """

    @abstractmethod
    def restart(self, generator: torch.Generator, lr: float) -> None:
        """Draw new weights, which :meth:`train` moves by Adam of rate ``lr``."""

    @abstractmethod
    def real_gradients(self) -> list[Tensor]:
        """Return the gradients of the mean cross-entropy of the labelled nodes of every class."""

    @abstractmethod
    def gradients(self, x: Tensor, adjacency: Tensor | None) -> list[Tensor]:
        """Return those of the condensed nodes (n, F), differentiable."""

    @abstractmethod
    def train(self, x: Tensor, adjacency: Tensor | None, steps: int, keep_moments: bool) -> None:
        """Take Adam steps on the condensed graph, which stays as it is; Adam goes on, or starts anew."""

    def _optimise(self, parameters: list[Tensor], lr: float) -> None:
        self.optimiser = torch.optim.Adam(parameters, lr=lr, fused=True)

    def _start(self, keep_moments: bool) -> None:
        if not keep_moments:
            self.optimiser.state.clear()


class SGCBackbone(Backbone):
    r"""A linear classifier on propagated features (Wu et al. 2019, SGC): both gradients in closed form.

    .. math::
        \nabla_W \ell_c = \tfrac{1}{n_c} (P_c - Y_c)^\top H_c, \qquad
        H = \hat A^k X, \quad P = \mathrm{softmax}(H W^\top + b)

    so that no second derivative is taken through autograd and inner steps are formulas.

    Args:
        problem: what is condensed.
        weights: how networks start, of :data:`WEIGHTS`.
    """

    def __init__(self, problem: Problem, weights: str = "glorot") -> None:
        self.draw = WEIGHTS[weights]
        self.hops, self.counts, self.labels = problem.hops, problem.counts, problem.labels
        self.real = torch.cat(problem.propagated)
        self.real_counts = [len(own) for own in problem.propagated]
        rows = torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.real_counts))
        self.real_onehot = F.one_hot(rows).float()
        self.onehot = F.one_hot(self.labels).float()

    def restart(self, generator: torch.Generator, lr: float) -> None:
        """Draw new weights."""
        self.weight, self.bias = self.draw(len(self.counts), self.real.shape[1], generator)
        self._optimise([self.weight, self.bias], lr)

    def real_gradients(self) -> list[Tensor]:
        """Return one tensor (C, C, F)."""
        return self._gradients(self.real, self.real_onehot, self.real_counts)

    def gradients(self, x: Tensor, adjacency: Tensor | None) -> list[Tensor]:
        """Return one tensor (C, C, F)."""
        return self._gradients(spread(x, adjacency, self.hops), self.onehot, self.counts)

    def _gradients(self, rows: Tensor, onehot: Tensor, counts: Sequence[int]) -> list[Tensor]:
        residual = (torch.addmm(self.bias, rows, self.weight.T).softmax(1) - onehot).split(list(counts))
        parts = [r.T @ h / len(h) for r, h in zip(residual, rows.split(list(counts)), strict=True)]
        return [torch.stack(parts)]

    @torch.no_grad()
    def train(self, x: Tensor, adjacency: Tensor | None, steps: int, keep_moments: bool) -> None:
        """Take Adam steps on the condensed graph, by formula."""
        self._start(keep_moments)
        rows = spread(x, adjacency, self.hops)
        for _ in range(steps):
            residual = (torch.addmm(self.bias, rows, self.weight.T).softmax(1) - self.onehot) / len(rows)
            self.weight.grad, self.bias.grad = residual.T @ rows, residual.sum(0)
            self.optimiser.step()
        self.weight.grad = self.bias.grad = None


class GCNBackbone(Backbone):
    r"""A GCN of two layers (Kipf and Welling 2017), whatever the number of hops of the propagation elsewhere.

    The real side keeps, for every class, only the nodes that its labelled nodes reach: the result is exact.

    Args:
        problem: what is condensed.
        hidden: width of the hidden layer.
        weights: how networks start, of :data:`WEIGHTS`.
    """

    def __init__(self, problem: Problem, hidden: int, weights: str = "glorot") -> None:
        self.draw = WEIGHTS[weights]
        self.counts, self.labels, self.hidden = problem.counts, problem.labels, hidden
        once = problem.matrix @ problem.task.x
        blocks = [rows_and_reach(problem.matrix, nodes) for nodes in problem.task.labelled()]
        self.real = [(block, once[reach]) for block, reach in blocks]
        self.features = once.shape[1]

    def restart(self, generator: torch.Generator, lr: float) -> None:
        """Draw new weights."""
        shapes = ((self.hidden, self.features), (len(self.counts), self.hidden))
        drawn = [self.draw(outputs, inputs, generator) for outputs, inputs in shapes]
        self.weights, self.biases = ([part.requires_grad_() for part in parts] for parts in zip(*drawn, strict=True))
        self._optimise([*self.weights, *self.biases], lr)

    def real_gradients(self) -> list[Tensor]:
        """Return tensors (C, hidden, F) and (C, C, hidden)."""
        losses = [
            F.cross_entropy(self._logits(block, once), torch.full((len(block),), row))
            for row, (block, once) in enumerate(self.real)
        ]
        return self._of(losses, differentiable=False)

    def gradients(self, x: Tensor, adjacency: Tensor | None) -> list[Tensor]:
        """Return tensors (C, hidden, F) and (C, C, hidden)."""
        matrix = None if adjacency is None else normalised_dense(adjacency)
        logits = self._logits(matrix, x if matrix is None else matrix @ x).split(self.counts)
        losses = [F.cross_entropy(own, y) for own, y in zip(logits, self.labels.split(self.counts), strict=True)]
        return self._of(losses, differentiable=True)

    def _of(self, losses: Sequence[Tensor], differentiable: bool) -> list[Tensor]:
        grad = functools.partial(torch.autograd.grad, create_graph=differentiable, retain_graph=True)
        return [torch.stack(own) for own in zip(*(grad(loss, self.weights) for loss in losses), strict=True)]

    def _logits(self, matrix: Tensor | None, once: Tensor) -> Tensor:
        hidden = F.relu(F.linear(once, self.weights[0], self.biases[0]))
        logits = hidden @ self.weights[1].T
        return (logits if matrix is None else matrix @ logits) + self.biases[1]

    def train(self, x: Tensor, adjacency: Tensor | None, steps: int, keep_moments: bool) -> None:
        """Take Adam steps on the condensed graph."""
        self._start(keep_moments)
        matrix = None if adjacency is None else normalised_dense(adjacency.detach())
        once = x.detach() if matrix is None else matrix @ x.detach()
        for _ in range(steps):
            self.optimiser.zero_grad()
            F.cross_entropy(self._logits(matrix, once), self.labels).backward()
            self.optimiser.step()
        self.optimiser.zero_grad()
