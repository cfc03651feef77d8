"""How do features spread over a graph: the normalised adjacency, its powers, and who can reach whom."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def as_csr(x: Tensor) -> Tensor:
    """Return a dense matrix as CSR, without the notices that PyTorch prints of sparse tensors once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x.to_sparse_csr()


def normalised_entries(edge_index: Tensor, weight: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""Return the entries of :math:`\hat A = D^{-1/2} (A + I) D^{-1/2}` as (2, E + N) and (E + N,).

    As in ``GCNConv``: D is the weighted in-degree with the loop, so that a node without edges keeps its own features.

    Args:
        edge_index: (2, E) from source to target, without self loops.
        weight: (E,).
        count: N.
    """
    loops = torch.arange(count, device=edge_index.device).expand(2, -1)
    edges = torch.cat([edge_index, loops], dim=1)
    values = torch.cat([weight, weight.new_ones(count)])
    degree = values.new_zeros(count).index_add_(0, edges[1], values)
    scale = degree.rsqrt()
    return edges, scale[edges[0]] * values * scale[edges[1]]


def sparse_adjacency(edges: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """Return the CSR matrix that sums over the sources of every target, from (2, E) source-target pairs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.sparse_coo_tensor(edges.flip(0), values, shape).to_sparse_csr()


def propagation_matrix(edge_index: Tensor, weight: Tensor, count: int) -> Tensor:
    r"""Return :math:`\hat A` (N, N) as CSR."""
    return sparse_adjacency(*normalised_entries(edge_index, weight, count), (count, count))


def mean_matrix(edge_index: Tensor, count: int) -> Tensor:
    """Return the CSR matrix (N, N) of means over neighbours, without the node itself, as in ``SAGEConv``."""
    degree = torch.bincount(edge_index[1], minlength=count).clamp(min=1)
    return sparse_adjacency(edge_index, 1.0 / degree[edge_index[1]].float(), (count, count))


def propagate(matrix: Tensor, x: Tensor, hops: int) -> Tensor:
    r"""Return :math:`\hat A^{hops} X` (N, F)."""
    for _ in range(hops):
        x = matrix @ x
    return x


def normalised_dense(adjacency: Tensor) -> Tensor:
    r"""Return :math:`D^{-1/2} (A + I) D^{-1/2}` of dense adjacencies (..., n, n), differentiable."""
    whole = adjacency + torch.eye(adjacency.shape[-1], dtype=adjacency.dtype, device=adjacency.device)
    scale = whole.sum(-1).rsqrt()
    return scale[..., :, None] * whole * scale[..., None, :]


def rows_and_reach(matrix: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows ``targets`` of a CSR matrix restricted to the columns they use.

    Args:
        matrix: (N, N) CSR.
        targets: (t,) int64.

    Returns:
        A dense (t, r) block and the r columns.
    """
    pointer, columns, values = matrix.crow_indices(), matrix.col_indices(), matrix.values()
    counts = pointer[targets + 1] - pointer[targets]
    row = torch.arange(len(targets)).repeat_interleave(counts)
    start = pointer[targets].repeat_interleave(counts)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    entry = start + torch.arange(len(row)) - first
    reach, place = columns[entry].unique(return_inverse=True)
    block = torch.zeros(len(targets), len(reach))
    block[row, place] = values[entry]
    return block, reach
