"""What is a graph to condense, once checked: features, clean edges, classes 0 to C - 1 and index splits."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ddkit.data.storage import digest
from ddkit.errors import ConfigError, DataError
from ddkit.integrations.graph.checks import (
    Directed,
    Features,
    check_kind,
    edges_of,
    features_of,
    labels_of,
    node_count,
    nodes_in,
)
from ddkit.integrations.graph.host import Data, subgraph

Missing = Literal["error", "skip"]


@dataclass(frozen=True)
class NodeTask:
    """A graph whose nodes are classified.

    Args:
        x: (N, F) float32.
        edge_index: (2, E) int64, coalesced, without self loops.
        edge_weight: (E,) float32, not negative.
        y: (N,) int64 row of the class, -1 for unlabelled nodes and dropped classes.
        train: (n,) int64 nodes with usable labels.
        val: (v,) int64 nodes.
        test: (t,) int64 nodes.
        classes: the original label of every row.
        dropped: original labels of classes without labelled nodes.
    """

    x: Tensor
    edge_index: Tensor
    edge_weight: Tensor
    y: Tensor
    train: Tensor
    val: Tensor
    test: Tensor
    classes: tuple[int, ...]
    dropped: tuple[int, ...] = ()

    @property
    def num_nodes(self) -> int:
        """N."""
        return len(self.x)

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.classes)

    def labelled(self) -> list[Tensor]:
        """Return the training nodes of every class."""
        rows = self.y[self.train]
        return [self.train[rows == row] for row in range(self.num_classes)]

    def of_nodes(self, nodes: Tensor) -> NodeTask:
        """Return the induced subgraph of ``nodes`` (n,) int64, ascending."""
        edge_index, weight = subgraph(
            nodes, self.edge_index, self.edge_weight, relabel_nodes=True, num_nodes=self.num_nodes
        )
        place = torch.full((self.num_nodes,), -1, dtype=torch.int64)
        place[nodes] = torch.arange(len(nodes))
        splits: dict[str, Any] = {name: place[getattr(self, name)] for name in ("train", "val", "test")}
        return dataclasses.replace(
            self,
            x=self.x[nodes],
            edge_index=edge_index,
            edge_weight=weight,
            y=self.y[nodes],
            **{name: index[index >= 0] for name, index in splits.items()},
        )

    def fingerprint(self) -> str:
        """Return a SHA-256 of features, edges and labels of training nodes."""
        return digest(
            self.x.contiguous().view(torch.uint8),
            self.edge_index,
            self.edge_weight.view(torch.uint8),
            self.train,
            self.y[self.train],
        )


def node_task(
    data: Data,
    *,
    split: int | None = None,
    missing: Missing = "error",
    features: Features | None = None,
    directed: Directed = "symmetrise",
    inductive: bool = False,
) -> NodeTask:
    """Check a PyG graph and bring it into one form.

    Args:
        data: with ``edge_index`` or ``adj_t``, ``y`` and ``train_mask``; ``x``, weights and other masks are optional.
        split: column of masks with several splits.
        missing: a class without labelled nodes is an ``error``, or is dropped with ``skip``.
        features: what takes the place of missing features.
        directed: ``symmetrise`` directed edges (with a warning) or ``keep`` them.
        inductive: features that are made of degrees count, for training nodes, only edges between them.

    Raises:
        DataError: a graph that cannot be condensed, with what was wrong.
        ConfigError: an option that does not exist.
    """
    if missing not in ("error", "skip"):
        raise ConfigError(f"missing={missing!r} must be 'error' or 'skip'")
    check_kind(data)
    data = copy.copy(data).cpu()  # Data.cpu() moves in place
    count = node_count(data)
    if not count:
        raise DataError("the graph has no nodes: nothing can be condensed")
    raw = labels_of(data.y, count)
    splits = _labelled_splits(
        raw, {name: nodes_in(data, f"{name}_mask", count, split) for name in ("train", "val", "test")}
    )
    edge_index, weight = edges_of(data, count, directed)
    seen = edge_index
    if inductive:
        member = torch.zeros(count, dtype=torch.bool)
        member[splits["train"]] = True
        seen = edge_index[:, ~member[edge_index[1]] | member[edge_index[0]]]
    x = features_of(data, count, seen, features)
    y, classes, dropped = _classes(raw, splits, missing)
    splits["train"] = splits["train"][y[splits["train"]] >= 0]
    return NodeTask(x, edge_index, weight, y, **splits, classes=classes, dropped=dropped)


def _labelled_splits(raw: Tensor, splits: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the nodes of every split that have a label; a negative one means none, as -1 does in PyG."""
    for name, nodes in splits.items():
        unlabelled = nodes[~raw[nodes].isfinite()]
        if len(unlabelled):
            raise DataError(f"node {int(unlabelled[0])} of {name}_mask has no label: remove it from the mask")
    kept = {name: nodes[raw[nodes] >= 0] for name, nodes in splits.items()}
    left_out = {name: len(nodes) - len(kept[name]) for name, nodes in splits.items() if len(kept[name]) < len(nodes)}
    if left_out:
        warnings.warn(
            f"negative labels mean unlabelled, as in PyG: left out of "
            f"{', '.join(f'{name}_mask {count} nodes' for name, count in left_out.items())}; number the classes from 0 "
            f"if these are one",
            stacklevel=4,
        )
    if not len(kept["train"]):
        raise DataError("no node of train_mask has a label of at least 0: number the classes from 0")
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        shared = splits[first][torch.isin(splits[first], splits[second])]
        if len(shared):
            raise DataError(
                f"node {int(shared[0])} is in {first}_mask and in {second}_mask, so that accuracies would be those of "
                f"nodes that train or select: separate the masks"
            )
    return kept


def _classes(
    raw: Tensor, splits: dict[str, Tensor], missing: Missing
) -> tuple[Tensor, tuple[int, ...], tuple[int, ...]]:
    """Number the classes from 0; a negative or missing label means an unlabelled node."""
    known = raw.isfinite() & (raw >= 0)
    labels = raw[known].unique()
    train = raw[splits["train"]].unique()
    absent = labels[~torch.isin(labels, train)]
    if len(absent) and missing == "error":
        raise DataError(
            f"class {int(absent[0])} has no labelled training nodes: label one, or pass missing='skip' to leave the "
            f"class out"
        )
    if len(train) < 2:
        raise DataError(f"all training nodes are of class {int(train[0])}: classification needs two classes")
    y = torch.full((len(raw),), -1, dtype=torch.int64)
    place = torch.searchsorted(train, raw.nan_to_num(nan=-1.0)).clamp(max=len(train) - 1)
    own = known & (train[place] == raw)
    y[own] = place[own]
    return y, tuple(int(c) for c in train), tuple(int(c) for c in absent)
