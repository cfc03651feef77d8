"""What does a method of condensation get, and what does it give back?"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ddkit.base.streams import Streams
from ddkit.errors import DivergedError
from ddkit.integrations.graph.propagation import propagate, propagation_matrix
from ddkit.integrations.graph.task import NodeTask


@dataclass(frozen=True)
class Problem:
    """A checked graph and the size of what shall take its place.

    Args:
        task: the graph; in the inductive setting the subgraph of its training nodes.
        counts: condensed nodes of every class.
        hops: propagations.
        streams: random numbers.
    """

    task: NodeTask
    counts: list[int]
    hops: int
    streams: Streams

    @functools.cached_property
    def matrix(self) -> Tensor:
        """Normalised adjacency (N, N), CSR."""
        return propagation_matrix(self.task.edge_index, self.task.edge_weight, self.task.num_nodes)

    @functools.cached_property
    def propagated(self) -> list[Tensor]:
        """Propagated features of the labelled nodes of every class: C tensors (n_c, F).

        Raises:
            DivergedError: they are not finite.
        """
        spread = propagate(self.matrix, self.task.x, self.hops)
        rows = [spread[nodes] for nodes in self.task.labelled()]
        if not all(bool(torch.isfinite(own).all()) for own in rows):
            raise DivergedError("the propagated features are not finite: scale x of the graph, such as rows to sum 1")
        return rows

    @functools.cached_property
    def labels(self) -> Tensor:
        """Class rows (n,) int64 of the condensed nodes, class by class."""
        return torch.arange(len(self.counts)).repeat_interleave(torch.tensor(self.counts))

    @functools.cached_property
    def scale(self) -> float:
        """Root mean square of the propagated features: the unit of learning rates."""
        rows = torch.cat(self.propagated)
        return float(rows.square().mean().sqrt().clamp(min=1e-12))

    @functools.cached_property
    def row_sum(self) -> float:
        """Mean sum of the absolute propagated features of a node."""
        return float(torch.cat(self.propagated).double().abs().sum(1).mean().clamp(min=1e-12))

    def scaled(self, factor: float) -> Problem:
        """Return the same problem with features times ``factor``, which draws from the same streams."""
        return dataclasses.replace(self, task=dataclasses.replace(self.task, x=self.task.x * factor))


def no_edges() -> tuple[Tensor, Tensor]:
    """Return an empty edge set."""
    return torch.empty(2, 0, dtype=torch.int64), torch.empty(0)


@dataclass(frozen=True)
class Condensed:
    """What a method made.

    Args:
        x: (n, F) float32.
        y: (n,) int64 class rows.
        edges: (2, E) and (E,), undirected, without self loops.
        facts: what the provenance should say of it.
    """

    x: Tensor
    y: Tensor
    edges: tuple[Tensor, Tensor] = field(default_factory=no_edges)
    facts: dict[str, Any] = field(default_factory=dict)
