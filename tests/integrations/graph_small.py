"""Graphs that the tests of the graph adapter share."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.data import Data

from ddkit.integrations.graph import GraphCondenser, block_model


def small_graph(**changes: Any) -> Data:
    """Return a block model of 3 x 20 nodes, 6 labelled nodes a class, with attributes changed or, for None, removed."""
    data = block_model(3, 20, features=8, within=0.3, between=0.02, noise=0.5, labelled=6)
    for name, value in changes.items():
        data[name] = value
    return data


def condensed(data: Data, method: str = "means", **options: Any) -> Data:
    """Condense with two nodes a class unless told otherwise."""
    size = {} if method == "means" or "ratio" in options else {"nodes_per_class": 2}
    return GraphCondenser(method, **{**size, **options}).condense(data)


#: Options that make every learned method quick.
QUICK: dict[str, dict[str, Any]] = {
    "gcond": {
        "restarts": 4,
        "outer_steps": 3,
        "inner_steps": 2,
        "hidden": 16,
        "structure_period": 2,
        "structure_share": 1,
    },
    "gcond-x": {"restarts": 2, "outer_steps": 3, "inner_steps": 2},
    "doscond": {"restarts": 5},
    "gcdm": {"restarts": 5, "hidden": 16},
    "gc-krr": {"restarts": 5},
}


def dense_normalised(data: Data) -> torch.Tensor:
    """Return D^-1/2 (A + I) D^-1/2 by the textbook, in float64."""
    count = int(data.num_nodes)
    matrix = torch.zeros(count, count, dtype=torch.float64)
    matrix[data.edge_index[0], data.edge_index[1]] = 1.0
    matrix += torch.eye(count)
    scale = matrix.sum(1).rsqrt()
    return scale[:, None] * matrix * scale[None]
