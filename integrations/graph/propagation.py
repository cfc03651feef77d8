"""How do features spread over a graph: the normalised adjacency, its powers, and who can reach whom."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

#: Matrices with fewer non-zero entries than this share are multiplied as CSR.
SPARSE_BELOW = 0.1


def as_csr(x: Tensor) -> Tensor:
    """Return a dense matrix as CSR, without the notices that PyTorch prints of sparse tensors once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x.to_sparse_csr()


class _Product(torch.autograd.Function):
    """A constant CSR matrix times a dense one, with the transpose given for the gradient."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, transposed: Tensor, x: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradient


class Constant:
    """A constant matrix (n, m), kept as CSR where that is cheaper: ``Constant(a) @ x`` is differentiable once in x.

    PyTorch's own gradient of a CSR product builds the transpose at every step, which takes longer than the product.

    Args:
        matrix: dense or CSR.
    """

    def __init__(self, matrix: Tensor) -> None:
        sparse = matrix.layout == torch.sparse_csr
        entries = matrix.values().numel() if sparse else int(matrix.count_nonzero())
        if entries < SPARSE_BELOW * matrix.shape[0] * matrix.shape[1]:
            self.matrix = matrix if sparse else as_csr(matrix)
            self.transposed = _transposed(self.matrix)
        else:
            self.matrix = matrix.to_dense()

    def __matmul__(self, x: Tensor) -> Tensor:
        """Return the product with x (m, k)."""
        if self.matrix.layout == torch.strided:
            return self.matrix @ x
        return _Product.apply(self.matrix, self.transposed, x)


def _transposed(matrix: Tensor) -> Tensor:
    entries = matrix.to_sparse_coo()
    return sparse_adjacency(entries.indices(), entries.values(), (matrix.shape[1], matrix.shape[0]))


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
