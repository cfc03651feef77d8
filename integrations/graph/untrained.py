"""Which condensed nodes need no training: class means, k-means centres and coresets of propagated features?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from ddkit.base.streams import Streams
from ddkit.data.coresets.herding import herding_indices
from ddkit.data.coresets.kcenter import kcenter_indices
from ddkit.data.coresets.random import random_indices
from ddkit.integrations.graph.host import subgraph
from ddkit.integrations.graph.problem import Condensed, Problem

#: ``choose(rows, n, streams)``: picks n of the (n_c, F) propagated rows of a class.
Choose = Callable[[Tensor, int, Streams], Tensor]


def class_means(problem: Problem) -> Condensed:
    r"""Return one node a class: the mean of :math:`\hat A^k X` over its labelled nodes, without edges.

    It is the optimum of distribution matching with linear embeddings, has no parameters and takes no time.
    """
    rows = torch.stack([own.mean(0) for own in problem.propagated])
    return Condensed(rows, torch.arange(len(rows)))


def kmeans_centres(problem: Problem) -> Condensed:
    r"""Return the k-means centres of :math:`\hat A^k X` in every class, without edges."""
    return Condensed(torch.cat(centres(problem)), problem.labels)


def centres(problem: Problem) -> list[Tensor]:
    """Return for every class its k-means centres (n_c', F), at most as many as it has distinct rows."""
    found = []
    for row, (own, count) in enumerate(zip(problem.propagated, problem.counts, strict=True)):
        seed = problem.streams.integer(f"kmeans/{row}") % 2**32
        distinct = min(count, len(own.unique(dim=0)))
        model = KMeans(distinct, n_init=10, random_state=seed).fit(own.double().numpy())
        fitted = torch.from_numpy(model.cluster_centers_).float()
        found.append(fitted[torch.arange(count) % distinct])
    return found


def random_nodes(rows: Tensor, count: int, streams: Streams) -> Tensor:
    """Pick nodes at random."""
    return random_indices([torch.arange(len(rows))], count, streams("random"))


def herded_nodes(rows: Tensor, count: int, streams: Streams) -> Tensor:
    """Pick the nodes whose mean stays closest to the class mean."""
    return herding_indices(rows, [torch.arange(len(rows))], count)


def covering_nodes(rows: Tensor, count: int, streams: Streams) -> Tensor:
    """Pick the nodes that cover the class by the smallest balls."""
    return kcenter_indices(rows, [torch.arange(len(rows))], count)


CHOICES: dict[str, Choose] = {"random": random_nodes, "herding": herded_nodes, "kcenter": covering_nodes}


def coreset(problem: Problem, method: str, structure: str) -> Condensed:
    r"""Return real nodes picked on their propagated features.

    Args:
        problem: the graph.
        method: ``random``, ``herding`` or ``kcenter``.
        structure: ``induced``: their own features and the edges between them; ``identity``: their rows of
            :math:`\hat A^k X` and no edges.
    """
    picked = [
        CHOICES[method](rows, count, problem.streams)
        for rows, count in zip(problem.propagated, problem.counts, strict=True)
    ]
    if structure == "identity":
        rows = [own[index] for own, index in zip(problem.propagated, picked, strict=True)]
        return Condensed(torch.cat(rows), problem.labels)
    task = problem.task
    nodes = torch.cat([own[index] for own, index in zip(task.labelled(), picked, strict=True)])
    # PyG's relabelling follows the order of node numbers, not that of `nodes`.
    order = nodes.argsort()
    edges = subgraph(nodes[order], task.edge_index, task.edge_weight, relabel_nodes=True, num_nodes=task.num_nodes)
    return Condensed(task.x[nodes[order]], problem.labels[order], edges)
