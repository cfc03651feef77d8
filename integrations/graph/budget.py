"""How many nodes does a condensed graph have, class by class, and how many bytes does a graph take?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.integrations.graph.host import Data
from ddkit.integrations.graph.task import NodeTask

RatioOf = Literal["nodes", "labelled"]


def check_size(ratio: float | None, nodes_per_class: int | None, ratio_of: str, optional: bool) -> None:
    """Refuse a size that is ambiguous or out of range.

    Args:
        ratio: of the nodes.
        nodes_per_class: nodes of every class.
        ratio_of: what the ratio counts.
        optional: whether neither may be given.

    Raises:
        ConfigError: both or neither, or a value out of range.
    """
    if ratio is not None and nodes_per_class is not None:
        raise ConfigError(f"ratio={ratio} and nodes_per_class={nodes_per_class} are both given: give one of them")
    if ratio is None and nodes_per_class is None and not optional:
        raise ConfigError("how large is the condensed graph? give ratio (such as 0.026) or nodes_per_class")
    if ratio is not None and not (math.isfinite(ratio) and 0 < ratio <= 1):
        raise ConfigError(f"ratio={ratio} must be above 0 and at most 1: it is a share of the nodes, not a percentage")
    if nodes_per_class is not None and (isinstance(nodes_per_class, bool) or nodes_per_class < 1):
        raise ConfigError(f"nodes_per_class={nodes_per_class} must be at least 1")
    if ratio_of not in ("nodes", "labelled"):
        raise ConfigError(f"ratio_of={ratio_of!r} must be 'nodes' (as in papers) or 'labelled' (as in some programs)")


def node_counts(
    task: NodeTask, ratio: float | None, nodes_per_class: int | None, ratio_of: RatioOf = "nodes"
) -> list[int]:
    """Return the number of condensed nodes of every class.

    A ratio is rounded to whole nodes, as papers do (0.9 % of 3327 are 30), and shared in proportion to the labelled
    nodes by largest remainders, at least one node a class. Where it gives fewer nodes than classes, it is raised to one
    a class with a warning; more nodes than the graph has draw one too.
    """
    labelled = [len(nodes) for nodes in task.labelled()]
    if nodes_per_class is not None:
        if nodes_per_class * task.num_classes > task.num_nodes:
            warnings.warn(
                f"{nodes_per_class} nodes for each of {task.num_classes} classes are more than the {task.num_nodes} of "
                f"the graph: nothing is condensed, ask for fewer",
                stacklevel=4,
            )
        return [nodes_per_class] * task.num_classes
    assert ratio is not None
    base = task.num_nodes if ratio_of == "nodes" else sum(labelled)
    total = int(ratio * base + 0.5)
    if int(ratio * base) == sum(labelled) < total:  # 5.2 % of Cora, 140.8, are its 140 labelled nodes in papers
        total = sum(labelled)
    if total < task.num_classes:
        warnings.warn(
            f"ratio={ratio} gives {total} nodes for {task.num_classes} classes: raised to one a class, a ratio of "
            f"{task.num_classes / base:.3g}",
            stacklevel=4,
        )
        total = task.num_classes
    return shares(labelled, total)


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """Share ``total`` in proportion to ``sizes``, every share at least 1, by largest remainders (ties: first)."""
    counts = [1] * len(sizes)
    exact = [total * size / sum(sizes) for size in sizes]
    for _ in range(total - len(sizes)):
        behind = max(range(len(sizes)), key=lambda row: (exact[row] - counts[row], -row))
        counts[behind] += 1
    return counts


def check_selectable(task: NodeTask, counts: Sequence[int], method: str) -> None:
    """Refuse to select more nodes of a class than are labelled."""
    for label, nodes, wanted in zip(task.classes, task.labelled(), counts, strict=True):
        if wanted > len(nodes):
            raise ConfigError(
                f"method={method} cannot take {wanted} of the {len(nodes)} labelled nodes of class {label}: lower the "
                f"size, or use a method that learns features, such as gcond-x"
            )


def smallest_bytes(x: Tensor, edges: int, weighted: bool) -> int:
    """Return the bytes of a graph in its smaller form: x dense in float32 or as CSR, edges as pairs of int64.

    Args:
        x: (N, F).
        edges: stored pairs.
        weighted: whether every pair has a float32 weight.
    """
    dense = 4 * x.numel()
    sparse = 8 * int(x.count_nonzero()) + 4 * (len(x) + 1)
    return min(dense, sparse) + edges * (16 + 4 * weighted) + 8 * len(x)


def stored_bytes(graph: Data) -> int:
    """Return the bytes of features, edges, weights and labels as they are saved, coded ones as the codec keeps them."""
    if (coding := getattr(graph, "coding", None)) is not None:
        return int(coding.nbytes)
    weight = getattr(graph, "edge_weight", None)
    kept = [graph.x, graph.edge_index, graph.y, *([] if weight is None else [weight])]
    return sum(tensor.nbytes for tensor in kept)


def warn_of_bytes(condensed: int, source: int) -> None:
    """Say where a condensed graph takes more bytes than what it was made from."""
    if condensed > source:
        warnings.warn(
            f"the condensed graph takes {condensed} bytes and the original {source}, with features and edges stored "
            f"sparse: fewer nodes or fewer edges make it smaller, float32 features are dense",
            stacklevel=3,
        )
