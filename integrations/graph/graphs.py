"""How is a set of graphs condensed into a few small ones: DosCond with features and edges of every graph learned?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ddkit.base.ranges import Count, Rate, Weight, in_range
from ddkit.base.streams import Streams
from ddkit.errors import ConfigError, DivergedError
from ddkit.integrations.graph.backbones import glorot
from ddkit.integrations.graph.budget import smallest_bytes
from ddkit.integrations.graph.checks import Features
from ddkit.integrations.graph.host import Data
from ddkit.integrations.graph.propagation import Constant, normalised_dense
from ddkit.integrations.graph.sets import Graph, checked_graphs, laid
from ddkit.objectives.distances import gradient_distance


@in_range("")
@dataclass(frozen=True)
class GraphOptions:
    """How condensed graphs are learned (Jin et al. 2022, DosCond).

    Args:
        steps: networks, one step each.
        lr_features: of the features, in units of the root mean square of real features.
        lr_edges: of the edge logits.
        hidden: width of the network.
        batch: real graphs of a class at once.
        temperature: of the relaxed edges at the end; it starts at 1 and falls geometrically.
        sparsity: weight of the penalty on edges beyond the initial density.
    """

    steps: Count = 200
    lr_features: Rate = 0.01
    lr_edges: Rate = 1.0
    hidden: Count = 64
    batch: Count = 64
    temperature: Annotated[float, Field(gt=0, le=1)] = 0.01
    sparsity: Weight = 0.1


def condense_graphs(
    graphs: Sequence[Any],
    per_class: int,
    nodes: int | None,
    options: GraphOptions | None,
    features: Features | None,
    streams: Streams,
) -> tuple[list[Data], dict[str, Any]]:
    """Return ``per_class`` graphs of every class, and facts about the set.

    Args:
        graphs: real graphs.
        per_class: graphs of every class.
        nodes: of every learned graph; None for the mean of the set.
        options: of DosCond; None picks real graphs at random.
        features: what takes the place of missing features.
        streams: random numbers.

    Raises:
        DataError: graphs that cannot be condensed.
        ConfigError: more graphs than a class has.
    """
    real, classes = checked_graphs(graphs, features)
    own = [[graph for graph in real if graph.row == row] for row in range(len(classes))]
    for label, members in zip(classes, own, strict=True):
        if per_class > len(members):
            raise ConfigError(
                f"graphs_per_class={per_class} is more than class {label} has ({len(members)} graphs): lower it"
            )
    picked = [
        [members[i] for i in torch.randperm(len(members), generator=streams("graphs"))[:per_class].tolist()]
        for members in own
    ]
    if options is None:
        made = [_as_data(graph.x, graph.edge_index, classes[graph.row]) for members in picked for graph in members]
    else:
        size = nodes or max(2, round(sum(len(graph.x) for graph in real) / len(real)))
        made = DosCond(own, picked, size, options, streams).fit(classes)
    source = {
        "graphs": len(real),
        "nodes": sum(len(graph.x) for graph in real),
        "bytes": sum(smallest_bytes(graph.x, graph.edge_index.shape[1], False) for graph in real),
        "classes": list(classes),
    }
    return made, source


def _as_data(x: Tensor, edge_index: Tensor, label: int) -> Data:
    graph = Data(x=x.contiguous(), edge_index=edge_index, y=torch.tensor([label]))
    graph.num_nodes = len(x)
    return graph


class DosCond:
    r"""One-step gradient matching of graphs with learned features and edges (arXiv 2206.07746, Eqs. 6 to 9).

    Every condensed graph has features X' (n, F) and edge logits L (n, n). Edges are relaxed,

    .. math:: A'_{ij} = \sigma\big((L_{ij} + \log u_{ij} - \log (1 - u_{ij})) / \tau\big), \qquad u \sim U(0, 1)

    with :math:`\tau` from 1 down, and cut at one half in the end. Gradients of a GCN of two layers with a mean readout,
    drawn anew for every step, are compared per class: squared differences relative to the real gradient.

    Args:
        real: graphs of every class.
        start: those from which the condensed ones start: their first n nodes, repeated where there are fewer.
        size: n.
        options: rates and length.
        streams: random numbers.
    """

    def __init__(
        self,
        real: Sequence[Sequence[Graph]],
        start: Sequence[Sequence[Graph]],
        size: int,
        options: GraphOptions,
        streams: Streams,
    ) -> None:
        self.options, self.streams, self.size = options, streams, size
        self.num_classes, self.per_class = len(real), len(start[0])
        self.batches = [self._batches(members) for members in real]
        graphs = [graph for members in start for graph in members]
        self.x = torch.stack([graph.x[torch.arange(size) % len(graph.x)] for graph in graphs]).requires_grad_()
        adjacency = torch.stack([_first_nodes(graph, size) for graph in graphs])
        self.logits = (10 * adjacency - 5).requires_grad_()
        self.density = float(torch.sigmoid(self.logits.detach()).mean())
        scale = float(torch.cat([g.x for members in real for g in members]).square().mean().sqrt().clamp(min=1e-12))
        self.optimiser = torch.optim.Adam(
            [
                {"params": [self.x], "lr": options.lr_features * scale},
                {"params": [self.logits], "lr": options.lr_edges},
            ]
        )

    def _batches(self, members: Sequence[Graph]) -> list[tuple[Tensor, Constant, Constant]]:
        """Return chunks of a class as once propagated features, matrix and readout, each block-diagonal."""
        order = torch.randperm(len(members), generator=self.streams("batches")).tolist()
        size = self.options.batch
        joined = [laid([members[i] for i in order[at : at + size]]) for at in range(0, len(order), size)]
        return [(own.matrix @ own.x, own.matrix, own.readout) for own in joined]

    def fit(self, classes: Sequence[int]) -> list[Data]:
        """Learn, and return the graphs class by class."""
        for step in range(self.options.steps):
            temperature = self.options.temperature ** (step / max(1, self.options.steps - 1))
            loss = self._loss(temperature)
            if not bool(torch.isfinite(loss.detach())):
                raise DivergedError(f"the matching loss is {float(loss.detach())}: lower lr_features or lr_edges")
            self.x.grad, self.logits.grad = torch.autograd.grad(loss, [self.x, self.logits])
            self.optimiser.step()
        symmetric = (self.logits + self.logits.transpose(1, 2)).detach() / 2
        labels = [label for label in classes for _ in range(self.per_class)]
        return [_as_data(x, _cut(own), label) for x, own, label in zip(self.x.detach(), symmetric, labels, strict=True)]

    def _loss(self, temperature: float) -> Tensor:
        generator, options = self.streams("networks"), self.options
        features = self.x.shape[2]
        weights = [
            glorot(options.hidden, features, generator),
            glorot(options.hidden, options.hidden, generator),
            glorot(self.num_classes, options.hidden, generator),
        ]
        weights = [weight.requires_grad_() for weight in weights]
        real = []
        for row, batches in enumerate(self.batches):
            once, matrix, readout = batches[int(torch.randint(len(batches), (1,), generator=self.streams("chunks")))]
            logits = _network(weights, once, lambda h, m=matrix: m @ h, lambda h, r=readout: r @ h)  # type: ignore[misc]
            real.append(torch.autograd.grad(F.cross_entropy(logits, torch.full((len(logits),), row)), weights))
        matrices = normalised_dense(self._relaxed(temperature))
        logits = _network(weights, matrices @ self.x, lambda h: matrices @ h, lambda h: h.mean(1))
        losses = [
            F.cross_entropy(own, torch.full((len(own),), row)) for row, own in enumerate(logits.split(self.per_class))
        ]
        synthetic = [torch.autograd.grad(loss, weights, create_graph=True) for loss in losses]
        distance = gradient_distance(_stacked(synthetic), _stacked(real), "mse")
        norms = gradient_distance([torch.zeros_like(g) for g in _stacked(real)], _stacked(real), "mse").clamp(min=1e-30)
        surplus = F.relu(torch.sigmoid(self.logits).mean() - self.density)
        return (distance / norms).sum() + options.sparsity * surplus

    def _relaxed(self, temperature: float) -> Tensor:
        u = torch.rand(self.logits.shape, generator=self.streams("edges")).clamp(1e-6, 1 - 1e-6).triu(1)
        u = u + u.transpose(1, 2) + 0.5 * torch.eye(self.size)
        symmetric = (self.logits + self.logits.transpose(1, 2)) / 2
        return torch.sigmoid((symmetric + u.logit()) / temperature) * (1 - torch.eye(self.size))


def _network(weights: Sequence[Tensor], once: Tensor, spread: Any, readout: Any) -> Tensor:
    """Return logits of a GCN of two layers with a mean readout from once propagated features."""
    hidden = F.relu(once @ weights[0].T)
    hidden = F.relu(spread(hidden @ weights[1].T))
    return readout(hidden) @ weights[2].T


def _stacked(gradients: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(own) for own in zip(*gradients, strict=True)]


def _first_nodes(graph: Graph, size: int) -> Tensor:
    """Return the adjacency (n, n) of the first n nodes; repeated nodes have the edges of their originals."""
    whole = torch.zeros(len(graph.x), len(graph.x))
    whole[graph.edge_index[0], graph.edge_index[1]] = 1.0
    order = torch.arange(size) % len(graph.x)
    return whole[order][:, order] * (1 - torch.eye(size))


def _cut(logits: Tensor) -> Tensor:
    """Return edges (2, E) of positive logits; where there are none, the largest one is kept."""
    logits = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -torch.inf)
    kept = logits > 0
    if not bool(kept.any()) and len(logits) > 1:
        row, column = divmod(int(logits.argmax()), len(logits))
        kept[row, column] = kept[column, row] = True
    return kept.nonzero().T.contiguous()
