"""What does a condensed graph say of itself: its tensors as PyG keeps them, its size, and what it was made from?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ddkit.errors import DivergedError
from ddkit.integrations.graph.budget import smallest_bytes, stored_bytes
from ddkit.integrations.graph.host import Data
from ddkit.integrations.graph.problem import Condensed
from ddkit.integrations.graph.task import NodeTask


def packed(made: Condensed, whole: NodeTask, task: NodeTask, told: Mapping[str, Any]) -> Data:
    """Return a condensed graph with its provenance.

    Args:
        made: features, class rows and edges.
        whole: the graph that was given.
        task: what was condensed: the same, or the subgraph of its training nodes.
        told: what the provenance says of method and options.

    Raises:
        DivergedError: features that are not finite.
    """
    if not bool(torch.isfinite(made.x).all()):
        raise DivergedError("the condensed features are not finite: scale x of the graph, such as rows to sum 1")
    edge_index, weight = made.edges
    y = torch.tensor(task.classes)[made.y]
    small = Data(x=made.x.contiguous(), edge_index=edge_index, edge_attr=weight[:, None], y=y)
    small.edge_weight = weight
    small.train_mask = torch.ones(len(y), dtype=torch.bool)
    small.num_nodes = len(y)
    small.provenance = {
        **told,
        "classes": list(task.classes),
        "dropped_classes": list(task.dropped),
        "counts": torch.bincount(made.y, minlength=task.num_classes).tolist(),
        "ratio": len(y) / task.num_nodes,
        "bytes": stored_bytes(small),
        "source": {
            "nodes": whole.num_nodes,
            "edges": whole.edge_index.shape[1],
            "features": whole.x.shape[1],
            "labelled": len(whole.train),
            "bytes": smallest_bytes(whole.x, whole.edge_index.shape[1], bool((whole.edge_weight != 1).any())),
            "fingerprint": whole.fingerprint(),
        },
    }
    return small
