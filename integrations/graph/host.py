"""What of PyTorch Geometric does the adapter use? No other file of it imports the library."""

from __future__ import annotations

import warnings

from ddkit.errors import MissingExtraError

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optional compiled libraries that the adapter does not need
        from torch_geometric import __version__ as host_version
        from torch_geometric.data import Batch, Data, HeteroData, TemporalData
        from torch_geometric.data import Dataset as GraphDataset
        from torch_geometric.datasets import KarateClub
        from torch_geometric.nn import GATConv, GCNConv, GINConv, SAGEConv, SGConv
        from torch_geometric.nn.dense.linear import Linear
        from torch_geometric.transforms import BaseTransform
        from torch_geometric.utils import coalesce, is_undirected, remove_self_loops, subgraph, to_edge_index
except ImportError as error:
    raise MissingExtraError("graph condensation with PyTorch Geometric", "graph") from error

__all__ = [
    "BaseTransform",
    "Batch",
    "Data",
    "GATConv",
    "GCNConv",
    "GINConv",
    "GraphDataset",
    "HeteroData",
    "KarateClub",
    "Linear",
    "SAGEConv",
    "SGConv",
    "TemporalData",
    "coalesce",
    "host_version",
    "is_undirected",
    "remove_self_loops",
    "subgraph",
    "to_edge_index",
]
