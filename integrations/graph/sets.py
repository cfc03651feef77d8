"""Which sets of graphs can be used, and how do they lie one after the other in a single large graph?"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddkit.errors import ConfigError, DataError
from ddkit.integrations.graph.checks import Features, check_kind, edges_of, features_of, labels_of, node_count
from ddkit.integrations.graph.propagation import Constant, mean_matrix, propagation_matrix, sparse_adjacency


@dataclass(frozen=True)
class Graph:
    """A checked graph: features (n, F), edges (2, E), row of its class."""

    x: Tensor
    edge_index: Tensor
    row: int


def checked_graphs(
    graphs: Sequence[Any], features: Features | None, fewest: int = 2
) -> tuple[list[Graph], tuple[int, ...]]:
    """Check a set of graphs; weights of edges are left out.

    Args:
        graphs: PyG graphs with one label each.
        features: what takes the place of missing features.
        fewest: classes: two to learn from, one to be judged on.

    Returns:
        The graphs and the original label of every class row.

    Raises:
        DataError: a graph without nodes or label, features of unequal width, or fewer than two classes.
    """
    if not graphs:
        raise DataError("the set has no graphs: nothing can be condensed")
    if features == "identity":
        raise ConfigError("features='identity' has no meaning across graphs: use features='degree'")
    parts, labels = [], []
    for number, graph in enumerate(graphs):
        check_kind(graph)
        count = node_count(graph)
        if not count:
            raise DataError(f"graph {number} has no nodes: remove it from the set")
        if graph.y is None or torch.as_tensor(graph.y).numel() != 1:
            found = "none" if graph.y is None else f"one of shape {tuple(torch.as_tensor(graph.y).shape)}"
            raise DataError(f"graph {number} needs one label y of the whole graph, not {found}")
        label = float(labels_of(torch.as_tensor(graph.y).reshape(1), 1, "graph"))
        if not (math.isfinite(label) and label >= 0):
            raise DataError(
                f"graph {number} has the label {label:g}, which means unlabelled: remove it from the set, or number "
                f"the classes from 0"
            )
        edge_index, _ = edges_of(graph, count, "symmetrise")
        parts.append((features_of(graph, count, edge_index, features), edge_index))
        labels.append(int(label))
    widths = {x.shape[1] for x, _ in parts}
    if len(widths) > 1:
        raise DataError(f"graphs have features of {', '.join(map(str, sorted(widths)))} columns: give all the same")
    classes = tuple(sorted(set(labels)))
    if len(classes) < fewest:
        raise DataError(f"all graphs are of class {classes[0]}: classification needs two classes")
    rows = [classes.index(label) for label in labels]
    return [Graph(x, edges, row) for (x, edges), row in zip(parts, rows, strict=True)], classes


@dataclass(frozen=True)
class Laid:
    """Graphs laid one after the other.

    Args:
        x: features (N, F) of all nodes.
        edge_index: (2, E).
        owner: (N,) whose a node is.
        y: (G,) class rows; -1: none of the trained.
    """

    x: Tensor
    edge_index: Tensor
    owner: Tensor
    y: Tensor

    @functools.cached_property
    def matrix(self) -> Constant:
        """Normalised adjacency with self loops (N, N)."""
        return Constant(propagation_matrix(self.edge_index, torch.ones(self.edge_index.shape[1]), len(self.x)))

    @functools.cached_property
    def means(self) -> Constant:
        """Means over neighbours (N, N)."""
        return Constant(mean_matrix(self.edge_index, len(self.x)))

    @functools.cached_property
    def sums(self) -> Constant:
        """Sums over neighbours (N, N)."""
        shape = (len(self.x), len(self.x))
        return Constant(sparse_adjacency(self.edge_index, torch.ones(self.edge_index.shape[1]), shape))

    @functools.cached_property
    def readout(self) -> Constant:
        """Means over the nodes of every graph (G, N)."""
        share = 1.0 / torch.bincount(self.owner)[self.owner].float()
        own = torch.stack([torch.arange(len(self.owner)), self.owner])
        return Constant(sparse_adjacency(own, share, (len(self.y), len(self.x))))


def laid(graphs: Sequence[Graph], labels: Sequence[int] | None = None) -> Laid:
    """Lay graphs one after the other; ``labels`` None takes their own class rows."""
    sizes = torch.tensor([len(graph.x) for graph in graphs])
    first = sizes.cumsum(0) - sizes
    edges = torch.cat([graph.edge_index + at for graph, at in zip(graphs, first, strict=True)], dim=1)
    owner = torch.arange(len(graphs)).repeat_interleave(sizes)
    rows = [graph.row for graph in graphs] if labels is None else list(labels)
    return Laid(torch.cat([graph.x for graph in graphs]), edges, owner, torch.tensor(rows))
