"""Which networks judge a condensed graph: GCN, SGC, GraphSAGE, APPNP, GAT and MLP, made of PyG's own layers?"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.integrations.graph.host import GATConv, GCNConv, Linear, SAGEConv, SGConv
from ddkit.integrations.graph.propagation import Constant, mean_matrix, propagation_matrix


class GraphInput:
    """A graph as networks see it, with the constant products of their first layers cached.

    Args:
        x: (N, F).
        edge_index: (2, E), without self loops.
        weight: (E,).
        unweighted_threshold: networks that know no weights see only edges of at least this weight.
    """

    def __init__(self, x: Tensor, edge_index: Tensor, weight: Tensor, unweighted_threshold: float = 0.0) -> None:
        self.x, self.edge_index, self.weight = x, edge_index, weight
        self.plain_edges = edge_index[:, weight >= unweighted_threshold]

    @functools.cached_property
    def features(self) -> Constant:
        """X (N, F)."""
        return Constant(self.x)

    @functools.cached_property
    def matrix(self) -> Constant:
        """Normalised adjacency with weights and self loops (N, N)."""
        return Constant(propagation_matrix(self.edge_index, self.weight, len(self.x)))

    @functools.cached_property
    def means(self) -> Constant:
        """Means over neighbours (N, N)."""
        return Constant(mean_matrix(self.plain_edges, len(self.x)))

    @functools.cached_property
    def neighbour_features(self) -> Constant:
        """Mean features of neighbours (N, F)."""
        return Constant(self.means @ self.x)


def _apply(layer: Linear | nn.Linear, x: Constant | Tensor) -> Tensor:
    """Return ``layer(x)``."""
    product = x @ layer.weight.T
    return product if layer.bias is None else product + layer.bias


class NodeNetwork(nn.Module):
    """A network on a :class:`GraphInput`; subclasses compute what PyG's layers compute, in the cheaper order.

    Args:
        features: F.
        classes: C.
        hidden: width.
        dropout: share of hidden units left out in training.
    """

    #: Whether weights of edges count.
    weighted: ClassVar[bool] = True

    def __init__(self, features: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.build(features, classes, hidden)

    def build(self, features: int, classes: int, hidden: int) -> None:
        """Make the layers."""
        raise NotImplementedError

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        raise NotImplementedError

    def _dropped(self, hidden: Tensor) -> Tensor:
        return F.dropout(F.relu(hidden), self.dropout, self.training)


class GCN(NodeNetwork):
    """Two layers of ``GCNConv`` (Kipf and Welling 2017)."""

    def build(self, features: int, classes: int, hidden: int) -> None:
        """Make the layers."""
        self.first, self.second = GCNConv(features, hidden), GCNConv(hidden, classes)

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        hidden = self._dropped(graph.matrix @ _apply(self.first.lin, graph.features) + self.first.bias)
        return graph.matrix @ _apply(self.second.lin, hidden) + self.second.bias


class SGC(NodeNetwork):
    """``SGConv`` with two hops (Wu et al. 2019)."""

    def build(self, features: int, classes: int, hidden: int) -> None:
        """Make the layer."""
        self.layer = SGConv(features, classes, K=2)

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        projected = graph.features @ self.layer.lin.weight.T
        return graph.matrix @ (graph.matrix @ projected) + self.layer.lin.bias


class SAGE(NodeNetwork):
    """Two layers of ``SAGEConv`` with means (Hamilton et al. 2017); it takes no weights."""

    weighted = False

    def build(self, features: int, classes: int, hidden: int) -> None:
        """Make the layers."""
        self.first, self.second = SAGEConv(features, hidden), SAGEConv(hidden, classes)

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        neighbours = _apply(self.first.lin_l, graph.neighbour_features)
        hidden = self._dropped(neighbours + _apply(self.first.lin_r, graph.features))
        return graph.means @ (hidden @ self.second.lin_l.weight.T) + self.second.lin_l.bias + self.second.lin_r(hidden)


class APPNP(NodeNetwork):
    """An MLP whose predictions spread by personalised PageRank (Klicpera et al. 2019), K = 10 and alpha = 0.1."""

    def build(self, features: int, classes: int, hidden: int) -> None:
        """Make the layers."""
        self.first, self.second = Linear(features, hidden), Linear(hidden, classes)

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        start = self.second(self._dropped(_apply(self.first, graph.features)))
        state = start
        for _ in range(10):
            state = 0.9 * (graph.matrix @ state) + 0.1 * start
        return state


class GAT(NodeNetwork):
    """Two layers of ``GATConv`` (Velickovic et al. 2018), 8 heads of 8 units and one head; it takes no weights."""

    weighted = False

    def build(self, features: int, classes: int, hidden: int) -> None:
        """Make the layers; their width is that of the paper, whatever ``hidden``."""
        self.first, self.second = GATConv(features, 8, heads=8), GATConv(64, classes, heads=1)

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        hidden = F.elu(self.first(graph.features.matrix, graph.plain_edges))
        return self.second(F.dropout(hidden, self.dropout, self.training), graph.plain_edges)


class MLP(NodeNetwork):
    """Two linear layers that see no edges, on either graph."""

    weighted = False

    def build(self, features: int, classes: int, hidden: int) -> None:
        """Make the layers."""
        self.first, self.second = Linear(features, hidden), Linear(hidden, classes)

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        return self.second(self._dropped(_apply(self.first, graph.features)))


class HostNetwork(nn.Module):
    """A user's own PyG network, called as ``network(x, edge_index[, edge_weight])``.

    Args:
        network: weights of edges are passed where its ``supports_edge_weight`` is true, as PyG's models say it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.weighted = bool(getattr(network, "supports_edge_weight", False))

    def forward(self, graph: GraphInput) -> Tensor:
        """Return logits (N, C)."""
        if self.weighted:
            return self.network(graph.x, graph.edge_index, edge_weight=graph.weight)
        return self.network(graph.x, graph.plain_edges)


MODELS: dict[str, type[NodeNetwork]] = {
    "gcn": GCN,
    "sgc": SGC,
    "sage": SAGE,
    "appnp": APPNP,
    "gat": GAT,
    "mlp": MLP,
}

#: ``build(features, classes)``: makes a PyG network.
Build = Callable[[int, int], nn.Module]


def build(model: str | Build, features: int, classes: int, hidden: int, dropout: float) -> Any:
    """Return a network that takes a :class:`GraphInput`; its weights come from PyTorch's global random numbers."""
    if isinstance(model, str):
        return MODELS[model](features, classes, hidden, dropout)
    return HostNetwork(model(features, classes))
