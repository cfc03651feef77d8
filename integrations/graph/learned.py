"""What is learned of a condensed graph: how long and how fast, from where, and when has it diverged?"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ddkit.base.ranges import Count, Rate, Whole, in_range
from ddkit.errors import ConfigError, DivergedError, unknown_name
from ddkit.integrations.graph.backbones import WEIGHTS
from ddkit.integrations.graph.problem import Condensed, Problem
from ddkit.integrations.graph.structure import LearnedStructure, edges_above
from ddkit.integrations.graph.untrained import centres
from ddkit.objectives.distances import METRICS

Init = Literal["kmeans", "propagated", "features"]
INITS = ("kmeans", "propagated", "features")
#: Features that have moved further than this, in units of their own norm, draw a warning, or end the run.
FAR, MOST_MOVED = 1.2, 10.0
#: So does a loss of which more than this share is left.
UNLEARNED = 0.7


@in_range("")
@dataclass(frozen=True)
class Options:
    """How long and how fast features and edges are learned.

    Args:
        restarts: networks drawn one after the other.
        outer_steps: steps of condensation for every network.
        inner_steps: steps of that network on the condensed graph between two of them.
        lr: of the features, in units of the root mean square of propagated features. It has to stay well below 1, as
            Adam moves every feature by about this much a step.
        row_sum: mean sum of the absolute propagated features of a node as the networks of gradient matching see them,
            whatever that of the graph: 1 is what rows divided by their sums have. Initial weights and inner steps, of
            which Adam makes all weights as long, then mean the same on every graph. None leaves features as they are.
        weights: how those networks start: ``glorot`` with zero biases, as PyG's layers, or within the 2.4 times smaller
            bounds of the ``authors``' program, biases included.
        lr_structure: of the edge predictor.
        lr_model: of the inner steps.
        keep_moments: Adam of the inner steps keeps its moments from one outer step to the next, as in the authors'
            program, instead of starting anew.
        metric: of :func:`ddkit.objectives.distances.gradient_distance`; ``mse`` is divided by the squared norm of the
            real gradient.
        init: where features start: ``kmeans`` centres of propagated features, ``propagated`` rows of labelled nodes or
            their own ``features``.
        hidden: width of a GCN backbone, of random embeddings and of the edge predictor.
        regulariser: of kernel ridge regression, relative to the mean diagonal.
        structure_period: with learned edges, networks in a period ...
        structure_share: ... and how many of them, from the first, move the edge predictor; the others move features.
    """

    restarts: Count = 60
    outer_steps: Count = 20
    inner_steps: Whole = 15
    lr: Rate = 0.03
    row_sum: Rate | None = None
    weights: str = "glorot"
    lr_structure: Rate = 1e-3
    lr_model: Rate = 0.01
    keep_moments: bool = False
    metric: str = "ours"
    init: Init = "kmeans"
    hidden: Count = 128
    regulariser: Rate = 1e-3
    structure_period: Count = 50
    structure_share: Whole = 10

    def __post_init__(self) -> None:
        if self.structure_share > self.structure_period:
            raise ConfigError(
                f"structure_share={self.structure_share} must not be above structure_period={self.structure_period}"
            )
        if self.weights not in WEIGHTS:
            raise unknown_name("start of networks", self.weights, WEIGHTS)
        if self.metric not in METRICS:
            raise unknown_name("gradient distance", self.metric, METRICS)
        if self.init not in INITS:
            raise unknown_name("initialisation", self.init, INITS)


def initial_features(problem: Problem, init: Init) -> Tensor:
    """Return (n, F): features of every node's own class; a class with too few labelled nodes repeats them."""
    if init == "kmeans":
        return torch.cat(_capped_centres(problem))
    rows = problem.propagated if init == "propagated" else [problem.task.x[nodes] for nodes in problem.task.labelled()]
    generator = problem.streams("initial features")
    chosen = []
    for own, count in zip(rows, problem.counts, strict=True):
        order = torch.randperm(len(own), generator=generator)
        chosen.append(own[order[torch.arange(count) % len(own)]])
    return torch.cat(chosen).clone()


def _capped_centres(problem: Problem) -> list[Tensor]:
    """Return k-means centres; copies beyond the labelled nodes of a class are set apart by a little noise."""
    generator = problem.streams("initial features")
    found = []
    for own, rows in zip(centres(problem), problem.propagated, strict=True):
        noise = 0.1 * problem.scale * torch.randn(own.shape, generator=generator)
        found.append(torch.where(torch.arange(len(own))[:, None] >= len(rows), own + noise, own))
    return found


class Learned:
    """Features, and edges if they are learned, with their optimisers.

    Args:
        problem: what is condensed.
        options: rates and initialisation.
        structure: ``identity`` or ``learned``.
    """

    def __init__(self, problem: Problem, options: Options, structure: str) -> None:
        self.options = options
        self.start = initial_features(problem, options.init)
        self.x = self.start.clone().requires_grad_()
        self.losses: list[float] = []
        self.edges = (
            LearnedStructure(self.x.shape[1], options.hidden, problem.streams("structure"))
            if structure == "learned"
            else None
        )
        self.feature_optimiser = torch.optim.Adam([self.x], lr=options.lr * problem.scale, fused=True)
        if self.edges is not None:
            self.edge_optimiser = torch.optim.Adam(self.edges.parameters(), lr=options.lr_structure, fused=True)

    def adjacency(self) -> Tensor | None:
        """Return A' (n, n), differentiable, or None for the identity."""
        return None if self.edges is None else self.edges(self.x)

    def step(self, loss: Tensor, restart: int) -> None:
        """Move the edge predictor or the features, never both, as GCond does.

        Raises:
            DivergedError: the loss is not finite, or the features have grown beyond every use.
        """
        turn = restart % self.options.structure_period < self.options.structure_share
        optimiser, moved = self.feature_optimiser, [self.x]
        if self.edges is not None and turn:
            optimiser, moved = self.edge_optimiser, list(self.edges.parameters())
        self.losses.append(float(loss.detach()))
        if not math.isfinite(self.losses[-1]):
            raise DivergedError(f"the matching loss is {self.losses[-1]}: lower lr={self.options.lr:g}")
        for parameter, gradient in zip(moved, torch.autograd.grad(loss, moved), strict=True):
            parameter.grad = gradient
        optimiser.step()
        if len(self.losses) % 100 == 0 and self.moved > MOST_MOVED:
            raise DivergedError(
                f"after {len(self.losses)} steps the condensed features have moved by {self.moved:.0f} times their own "
                f"size: lower lr={self.options.lr:g}"
            )

    @property
    def moved(self) -> float:
        """How far the features are from where they started, in units of their norm there."""
        return float((self.x.detach() - self.start).norm() / self.start.norm().clamp(min=1e-12))

    def warn_of_divergence(self, unlearned: float) -> None:
        """Say where the features moved further than they were large, or the loss neither fell nor is low.

        Args:
            unlearned: the loss of which a tenth is not low.
        """
        tenth = max(1, len(self.losses) // 10)
        first, last = sum(self.losses[:tenth]) / tenth, sum(self.losses[-tenth:]) / tenth
        if self.moved > FAR:
            what = f"the features have moved by {self.moved:.2f} times their own size"
        elif last > max(UNLEARNED * first, unlearned / 10):
            what = f"the matching loss went from {first:.3g} to {last:.3g}"
        else:
            return
        warnings.warn(
            f"condensation may have diverged, {what}: lower lr={self.options.lr:g}, and compare with the class means",
            stacklevel=6,
        )

    def result(self, problem: Problem, threshold: float, unlearned: float = math.inf) -> Condensed:
        """Return the condensed graph; weaker edges than ``threshold`` are left out.

        Args:
            problem: what was condensed.
            threshold: of edges.
            unlearned: loss of gradients that have nothing in common; infinite where there is no such loss.
        """
        self.warn_of_divergence(unlearned)
        with torch.no_grad():
            edges = edges_above(self.adjacency(), threshold)
        return Condensed(
            self.x.detach(), problem.labels, edges, {"loss": self.losses[-1], "moved": round(self.moved, 4)}
        )
