"""Which edges does a condensed graph have while it is learned: none, or those that an MLP predicts from features?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.integrations.graph.propagation import normalised_dense

#: The MLP sees all pairs of nodes, and a dense adjacency is stored.
MOST_NODES = 3000


class LearnedStructure(nn.Module):
    r"""Adjacency predicted from pairs of features (Jin et al. 2022, GCond, arXiv 2110.07580, Eq. 11).

    .. math::
        A'_{ij} = \sigma\Big(\tfrac{\mathrm{MLP}([x_i; x_j]) + \mathrm{MLP}([x_j; x_i])}{2}\Big), \qquad A'_{ii} = 0

    The first layer of the MLP on :math:`[x_i; x_j]` is :math:`W_1 x_i + W_2 x_j`: two products of n rows instead of one
    of :math:`n^2` rows. Batch norm is over all pairs, which are the same set in training and afterwards, so that it
    keeps no running statistics (the authors leave theirs in training mode); the layers before it have no biases, which
    it would take out again.

    Args:
        features: F.
        hidden: width of the MLP.
        generator: on the CPU, for the initial weights.
    """

    def __init__(self, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()

        def linear(inputs: int, outputs: int) -> nn.Parameter:
            bound = inputs**-0.5
            return nn.Parameter((2 * torch.rand(outputs, inputs, generator=generator) - 1) * bound)

        both = linear(2 * features, hidden).detach()
        self.source, self.target = nn.Parameter(both[:, :features].clone()), nn.Parameter(both[:, features:].clone())
        self.middle, self.last = linear(hidden, hidden), linear(hidden, 1)
        self.last_bias = nn.Parameter(torch.zeros(1))
        self.gains = nn.Parameter(torch.ones(2, hidden))
        self.shifts = nn.Parameter(torch.zeros(2, hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Return A' (n, n) in [0, 1], symmetric with a zero diagonal, from features (n, F)."""
        pairs = (x @ self.source.T)[:, None] + (x @ self.target.T)[None]
        hidden = self._normalised(pairs.flatten(0, 1), 0)
        hidden = self._normalised(hidden @ self.middle.T, 1)
        logits = F.linear(hidden, self.last, self.last_bias).view(len(x), len(x))
        # One half is copied: the sigmoid of equal numbers can differ in its last bit by their place in memory.
        upper = torch.sigmoid((logits + logits.T) / 2).triu(1)
        return upper + upper.T

    def _normalised(self, rows: Tensor, layer: int) -> Tensor:
        return F.batch_norm(rows, None, None, self.gains[layer], self.shifts[layer], training=True).relu_()


def spread(x: Tensor, adjacency: Tensor | None, hops: int) -> Tensor:
    r"""Return :math:`\hat A'^{hops} X'` (n, F); no adjacency means :math:`\hat A' = I`."""
    if adjacency is None:
        return x
    matrix = normalised_dense(adjacency)
    for _ in range(hops):
        x = matrix @ x
    return x


def edges_above(adjacency: Tensor | None, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the entries of a dense adjacency (n, n) of at least ``threshold`` as edges (2, E) and weights (E,)."""
    if adjacency is None:
        return torch.empty(2, 0, dtype=torch.int64), torch.empty(0)
    kept = (adjacency >= threshold) & (adjacency > 0)
    edges = kept.nonzero().T.contiguous()
    return edges, adjacency[kept].detach().clone()
