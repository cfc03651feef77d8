"""How are features and edges learned by matching: gradients (GCond, GCond-X, DosCond), means (GCDM), kernels?"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.errors import ConfigError, DivergedError, unknown_name
from ddkit.integrations.graph.backbones import WEIGHTS, Backbone, GCNBackbone, SGCBackbone, glorot
from ddkit.integrations.graph.problem import Condensed, Problem
from ddkit.integrations.graph.structure import LearnedStructure, edges_above, spread
from ddkit.integrations.graph.untrained import centres
from ddkit.kernels.infinite import FullyConnectedKernel
from ddkit.objectives.class_means import class_means
from ddkit.objectives.distances import METRICS, gradient_distance
from ddkit.objectives.kernel_losses import target_loss

Init = Literal["kmeans", "propagated", "features"]
INITS = ("kmeans", "propagated", "features")
#: Features that have moved further than this, in units of their own norm, draw a warning, or end the run.
FAR, MOST_MOVED = 1.2, 10.0
#: So does a loss of which more than this share is left.
UNLEARNED = 0.7


@dataclass(frozen=True)
class Options:
    """How long and how fast features and edges are learned.

    Args:
        restarts: networks drawn one after the other.
        outer_steps: steps of condensation for every network.
        inner_steps: steps of that network on the condensed graph between two of them.
        lr: of the features, in units of the root mean square of propagated features. It has to stay well below 1, as
            Adam moves every feature by about this much a step.
        norm: mean Euclidean norm that propagated features have as the networks of gradient matching see them, whatever
            that of the graph's: rates and initial weights of the networks then mean the same on every graph. None
            leaves features as they are.
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

    restarts: int = 60
    outer_steps: int = 20
    inner_steps: int = 15
    lr: float = 0.03
    norm: float | None = None
    weights: str = "glorot"
    lr_structure: float = 1e-3
    lr_model: float = 0.01
    keep_moments: bool = False
    metric: str = "ours"
    init: Init = "kmeans"
    hidden: int = 128
    regulariser: float = 1e-3
    structure_period: int = 50
    structure_share: int = 10

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: naming the option.
        """
        for name in ("restarts", "outer_steps", "hidden", "structure_period"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.inner_steps < 0 or not 0 <= self.structure_share <= self.structure_period:
            raise ConfigError(
                f"inner_steps={self.inner_steps} must not be negative, nor structure_share={self.structure_share} "
                f"outside 0 to structure_period={self.structure_period}"
            )
        for name in ("lr", "lr_structure", "lr_model", "regulariser"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name}={getattr(self, name)} must be a positive number")
        if self.norm is not None and not 0 < self.norm < math.inf:
            raise ConfigError(f"norm={self.norm} must be a positive number, or None for features as they are")
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

    def warn_of_divergence(self) -> None:
        """Say where the features moved further than they were large, or the loss did not fall."""
        tenth = max(1, len(self.losses) // 10)
        first, last = sum(self.losses[:tenth]) / tenth, sum(self.losses[-tenth:]) / tenth
        if self.moved > FAR:
            what = f"the features have moved by {self.moved:.2f} times their own size"
        elif len(self.losses) >= 100 and last > UNLEARNED * first:
            what = f"the matching loss only went from {first:.3g} to {last:.3g}"
        else:
            return
        warnings.warn(
            f"condensation may have diverged, {what}: lower lr={self.options.lr:g}, and compare with method=means",
            stacklevel=6,
        )

    def result(self, problem: Problem, threshold: float, **facts: Any) -> Condensed:
        """Return the condensed graph; weaker edges than ``threshold`` are left out."""
        self.warn_of_divergence()
        with torch.no_grad():
            edges = edges_above(self.adjacency(), threshold)
        return Condensed(self.x.detach(), problem.labels, edges, {"moved": round(self.moved, 4), **facts})


def match_gradients(problem: Problem, options: Options, structure: str, backbone: str, threshold: float) -> Condensed:
    r"""Match the gradients of every class along trainings on the condensed graph (Jin et al. 2022, ICLR and KDD).

    GCond, arXiv 2110.07580, Eq. 10: with networks :math:`\theta_t` trained on the condensed graph,

    .. math::
        \sum_t \sum_c \tfrac{n'_c}{\max n'}
        D\big(\nabla_\theta \ell_c(\mathcal{T}), \nabla_\theta \ell_c(\mathcal{S})\big)

    DosCond, arXiv 2206.07746, Eq. 6, is the same with one step for every network and none of training. Real
    gradients take all labelled nodes on the whole graph instead of sampled neighbourhoods: exact and cheaper.
    """
    factor = 1.0 if options.norm is None else options.norm / problem.norm
    problem = problem.scaled(factor)
    start = options.weights
    network: Backbone = (
        SGCBackbone(problem, start) if backbone == "sgc" else GCNBackbone(problem, options.hidden, start)
    )
    learned = Learned(problem, options, structure)
    weights = torch.tensor(problem.counts, dtype=torch.float32) / max(problem.counts)
    loss, adjacency = torch.zeros(()), learned.adjacency()
    for restart in range(options.restarts):
        network.restart(problem.streams("networks"), options.lr_model)
        for outer in range(options.outer_steps):
            real = [g.detach() for g in network.real_gradients()]
            own = network.gradients(learned.x, adjacency)
            loss = (_distances(own, real, options.metric) * weights).sum()
            learned.step(loss, restart)
            adjacency = learned.adjacency()
            if outer + 1 < options.outer_steps:
                network.train(learned.x, adjacency, options.inner_steps, options.keep_moments)
    made = learned.result(problem, threshold, loss=float(loss.detach()))
    return dataclasses.replace(made, x=made.x / factor)


def _distances(own: list[Tensor], real: list[Tensor], metric: Any) -> Tensor:
    """Return the distance of every class (C,); squared ones relative to the real gradient."""
    distance = gradient_distance(own, real, metric)
    if metric != "mse":
        return distance
    return distance / gradient_distance([torch.zeros_like(g) for g in real], real, "mse").clamp(min=1e-30)


def match_means(problem: Problem, options: Options, structure: str, backbone: str, threshold: float) -> Condensed:
    r"""Match class means of random embeddings of receptive fields (Liu et al. 2022, GCDM, arXiv 2206.13697).

    .. math::
        \sum_c \tfrac{n'_c}{\max n'}
        \Big\|\tfrac{1}{n_c}\sum_i \phi(H_i) - \tfrac{1}{n'_c}\sum_j \phi(H'_j)\Big\|^2,
        \qquad \phi(h) = \mathrm{ReLU}(W h)

    with a new W for every step. With a linear :math:`\phi` the class means are the optimum.
    """
    learned = Learned(problem, options, structure)
    classes = torch.arange(len(problem.counts))
    real, sizes = torch.cat(problem.propagated), torch.tensor([len(own) for own in problem.propagated])
    groups = classes.repeat_interleave(sizes)
    weights = torch.tensor(problem.counts, dtype=torch.float32) / max(problem.counts)
    loss = torch.zeros(())
    for restart in range(options.restarts):
        weight = glorot(options.hidden, real.shape[1], problem.streams("embeddings")) / problem.scale
        target = class_means(F.relu(real @ weight.T), groups, classes)
        for _ in range(options.outer_steps):
            rows = spread(learned.x, learned.adjacency(), problem.hops)
            own = class_means(F.relu(rows @ weight.T), problem.labels, classes)
            loss = ((own - target).square().sum(1) * weights).sum()
            learned.step(loss, restart)
    return learned.result(problem, threshold, loss=float(loss.detach()))


def match_kernel(problem: Problem, options: Options, structure: str, backbone: str, threshold: float) -> Condensed:
    r"""Let kernel ridge regression on the condensed nodes predict the labelled ones (Wang et al. 2024, GC-SNTK).

    arXiv 2310.11046: the neural tangent kernel of a two-layer network on propagated features, as in
    :class:`~ddkit.kernels.infinite.FullyConnectedKernel`; the labels are fixed, centred rows.
    """
    learned = Learned(problem, options, structure)
    kernel = FullyConnectedKernel(1)
    count = len(problem.counts)
    real = torch.cat(problem.propagated) / problem.scale
    labels = torch.arange(count).repeat_interleave(torch.tensor([len(own) for own in problem.propagated]))
    rows, support_rows = (F.one_hot(y, count).double() - 1 / count for y in (labels, problem.labels))
    loss = torch.zeros(())
    for step in range(options.restarts * options.outer_steps):
        support = spread(learned.x, learned.adjacency(), problem.hops) / problem.scale
        predicted = kernel.predict(real, support, kernel.fit(support, support_rows, options.regulariser))
        loss = target_loss("sum", predicted, rows, labels, torch.zeros(())) / len(real)
        learned.step(loss, step // options.outer_steps)
    return learned.result(problem, threshold, loss=float(loss.detach()))


Match = Callable[[Problem, Options, str, str, float], Condensed]
