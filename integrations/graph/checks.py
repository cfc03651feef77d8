"""Which tensors of a PyG ``Data`` can be condensed? What is wrong is refused here, before anything is computed."""

from __future__ import annotations

import math
import operator
import warnings
from typing import Any, Literal

import torch
from torch import Tensor

from ddkit.errors import ConfigError, DataError
from ddkit.integrations.graph.host import (
    Data,
    HeteroData,
    TemporalData,
    coalesce,
    is_undirected,
    remove_self_loops,
    to_edge_index,
)

Features = Literal["degree", "identity"]
Directed = Literal["symmetrise", "keep"]

#: Columns of one-hot degrees; the last one takes all higher degrees.
DEGREE_BINS = 32
_SPLIT = "add masks with torch_geometric.transforms.RandomNodeSplit()"


def check_kind(data: Any) -> None:
    """Refuse what is not one homogeneous static graph."""
    if isinstance(data, HeteroData):
        raise DataError("HeteroData has several node types, which cannot be condensed: use data.to_homogeneous()")
    if isinstance(data, TemporalData):
        raise DataError("TemporalData is a stream of events, which cannot be condensed: build a static Data first")
    if not isinstance(data, Data):
        raise DataError(f"{type(data).__name__} is not a torch_geometric.data.Data: pass one graph, as dataset[0]")
    if getattr(data, "private", False):
        raise DataError(
            "data.private is set, and condensing a graph gives no differential privacy (nodes depend on their "
            "neighbours): graphs are out of the scope of ddkit.integrations.private too, so condense public graphs only"
        )


def node_count(data: Data) -> int:
    """Return N; without features the labels tell, as the edges do not name isolated nodes.

    Raises:
        DataError: the graph says something else than a whole number.
    """
    try:
        if data.x is None and "num_nodes" not in data and isinstance(data.y, Tensor):
            return len(data.y)
        count = data.num_nodes
        found = 0 if count is None else operator.index(count)
    except (IndexError, RuntimeError, TypeError, ValueError):
        raise DataError("x, y or num_nodes do not tell how many nodes the graph has: give x (N, F), y (N,)") from None
    if found < 0:
        raise DataError(f"num_nodes={found} must not be negative: leave it out, x tells it")
    return found


def tensor_of(value: Any, name: str) -> Tensor:
    """Return what should be real numbers as a dense tensor on the CPU, without its history.

    Raises:
        DataError: text, complex numbers or lists of unequal length.
    """
    try:
        found = torch.as_tensor(value).detach().cpu()
    except (RuntimeError, TypeError, ValueError):
        raise DataError(f"{name} is a {type(value).__name__} that is no tensor of numbers: convert it") from None
    if found.is_complex():
        raise DataError(f"{name} holds complex numbers: take their real part or their absolute value")
    return found if found.layout == torch.strided else found.to_dense()


def features_of(data: Data, count: int, edge_index: Tensor, features: Features | None) -> Tensor:
    """Return x (N, F) float32.

    Args:
        data: the graph.
        count: N.
        edge_index: (2, E), without self loops.
        features: what takes the place of missing features: one-hot ``degree`` (N, 32) or the ``identity`` (N, N).

    Raises:
        DataError: no features and no word on what to take, or NaN or infinite ones.
    """
    if features not in (None, "degree", "identity"):
        raise ConfigError(f"features={features!r} must be None, 'degree' or 'identity'")
    x = data.x
    if x is None:
        if features is None:
            raise DataError("the graph has no features x: pass features='degree' or features='identity'")
        if features == "identity":
            return torch.eye(count)
        degree = torch.bincount(edge_index[1], minlength=count).clamp(max=DEGREE_BINS - 1)
        return torch.nn.functional.one_hot(degree, DEGREE_BINS).float()
    if features is not None:
        raise DataError(f"features='{features}' would replace the graph's own x: leave it out or set data.x = None")
    x = tensor_of(x, "x").float()
    x = x[:, None] if x.dim() == 1 else x
    if x.dim() != 2 or len(x) != count or not x.numel():
        raise DataError(f"x has shape {tuple(x.shape)}: {count} nodes need (N, F) features")
    bad = ~torch.isfinite(x).all(1)
    if bool(bad.any()):
        raise DataError(f"x of node {int(bad.nonzero()[0])} is NaN or infinite: repair or remove the node")
    return x


def edges_of(data: Data, count: int, directed: Directed) -> tuple[Tensor, Tensor]:
    """Return edges (2, E) int64 and weights (E,) float32: coalesced, without self loops, as a rule in both directions.

    Several edges between two nodes become one of the largest weight. ``edge_weight`` is taken, else an ``edge_attr`` of
    one number an edge; other edge features are left out with a warning.

    Raises:
        DataError: edges that name no node, or weights that are negative, NaN or infinite.
    """
    if directed not in ("symmetrise", "keep"):
        raise ConfigError(f"directed={directed!r} must be 'symmetrise' or 'keep'")
    edge_index, weight = _given_edges(data)
    if edge_index.numel() and (int(edge_index.min()) < 0 or int(edge_index.max()) >= count):
        raise DataError(
            f"edge_index names node {int(edge_index.max())} or a negative one of {count} nodes: run data.validate()"
        )
    if len(weight) != edge_index.shape[1]:
        raise DataError(f"{len(weight)} edge weights for {edge_index.shape[1]} edges: give one weight an edge")
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise DataError("edge weights must be finite and not negative: clamp or remove those edges")
    if not math.isfinite(float(weight.sum())):
        raise DataError("edge weights are so large that their sum is not finite: divide them by their maximum")
    edge_index, weight = remove_self_loops(edge_index, weight)
    edge_index, weight = coalesce(edge_index, weight, num_nodes=count, reduce="max")
    if directed == "symmetrise" and not is_undirected(edge_index, weight, num_nodes=count):
        warnings.warn(
            "the graph is directed: edges now hold in both directions with the larger weight; directed='keep' leaves "
            "them as they are (SGC only)",
            stacklevel=4,
        )
        both = torch.cat([edge_index, edge_index.flip(0)], dim=1)
        edge_index, weight = coalesce(both, torch.cat([weight, weight]), num_nodes=count, reduce="max")
    return edge_index, weight


def _given_edges(data: Data) -> tuple[Tensor, Tensor]:
    edge_index = data.edge_index
    if edge_index is None:
        adjacency = getattr(data, "adj_t", None)
        if adjacency is None:
            return torch.empty(2, 0, dtype=torch.int64), torch.empty(0)
        (target, source), weight = to_edge_index(adjacency)
        return torch.stack([source, target]), weight.float()
    if not isinstance(edge_index, Tensor) or edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise DataError(f"edge_index must be (2, E), not {tuple(getattr(edge_index, 'shape', ()))}")
    if edge_index.is_floating_point() or edge_index.is_complex() or edge_index.dtype == torch.bool:
        raise DataError(f"edge_index holds {edge_index.dtype} instead of node numbers: convert it with .long()")
    edge_index = edge_index.as_subclass(Tensor).to(torch.int64)
    weight = getattr(data, "edge_weight", None)
    if weight is None and data.edge_attr is not None:
        attributes = tensor_of(data.edge_attr, "edge_attr")
        if attributes.numel() == edge_index.shape[1]:
            weight = attributes
        else:
            warnings.warn("edge_attr has several numbers an edge, which are left out", stacklevel=5)
    if weight is None:
        weight = torch.ones(edge_index.shape[1])
    return edge_index, tensor_of(weight, "edge_weight").float().flatten()


def nodes_in(data: Data, name: str, count: int, split: int | None) -> Tensor:
    """Return the node indices (n,) int64 of a mask: bool or 0/1 (N,), a column of (N, splits), or indices.

    Args:
        data: the graph.
        name: ``train_mask``, ``val_mask`` or ``test_mask``.
        count: N.
        split: column of a mask of several splits.

    Raises:
        DataError: no training mask, an empty one, several splits without a choice, or a mask of another length.
    """
    mask = getattr(data, name, None)
    if mask is None:
        if name == "train_mask":
            raise DataError(f"the graph has no train_mask: {_SPLIT}")
        return torch.empty(0, dtype=torch.int64)
    mask = tensor_of(mask, name)
    if mask.dim() not in (1, 2):
        raise DataError(f"{name} has shape {tuple(mask.shape)}: give (N,) of bool, (N, splits), or node numbers (n,)")
    if mask.dim() == 2:
        if split is None:
            raise DataError(f"{name} has {mask.shape[1]} splits: choose one with split=0 to {mask.shape[1] - 1}")
        if not 0 <= split < mask.shape[1]:
            raise DataError(f"split={split} is not one of the {mask.shape[1]} splits of {name}: use 0 to n - 1")
        mask = mask[:, split]
    # Zeros and ones, one a node, are a mask: node numbers would repeat.
    ones = len(mask) == count > 2 and bool(((mask == 0) | (mask == 1)).all())
    if mask.dtype in (torch.bool, torch.uint8) or ones:
        if len(mask) != count:
            raise DataError(f"{name} has {len(mask)} entries for {count} nodes: give one an entry a node, or indices")
        index = mask.nonzero().flatten()
    else:
        if mask.is_floating_point():
            raise DataError(f"{name} holds {mask.dtype} numbers that are neither 0 nor 1 a node: give a mask of bool")
        index = mask.to(torch.int64).unique()
        if len(index) and (int(index[0]) < 0 or int(index[-1]) >= count):
            raise DataError(f"{name} names node {int(index[-1])} or a negative one of {count} nodes: check the mask")
    if name == "train_mask" and not len(index):
        raise DataError(f"train_mask is empty: {_SPLIT}")
    return index


def labels_of(y: Tensor | None, count: int, what: str = "node") -> Tensor:
    """Return labels (N,) as float64 whole numbers, NaN where there is none.

    Raises:
        DataError: none, several a node, or labels that are no whole numbers.
    """
    if y is None:
        raise DataError(f"there are no labels y: condensation needs one class a {what}")
    y = tensor_of(y, "y")
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() != 1:
        raise DataError(f"y has shape {tuple(y.shape)}: several labels a {what} cannot be condensed, give one")
    if len(y) != count:
        raise DataError(f"y has {len(y)} labels for {count} {what}s: give one a {what}")
    y = y.double()
    if bool((y.isfinite() & (y != y.round())).any()):
        raise DataError("y holds numbers that are not whole: condensation needs classes, not targets of regression")
    if bool((y.abs() >= 2**53).any()):
        raise DataError("y holds labels of 2^53 and more, which float64 cannot tell apart: number the classes from 0")
    return y
