"""How well do networks that are trained on a few condensed graphs classify real graphs?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.errors import ConfigError, DataError, unknown_name
from ddkit.executor import Executor, InProcess
from ddkit.integrations.graph.condenser import stored_bytes
from ddkit.integrations.graph.evaluation import GraphEvaluation, results_of
from ddkit.integrations.graph.graphs import Graph, checked_graphs
from ddkit.integrations.graph.host import Data, GCNConv, GINConv, Linear, SAGEConv, global_mean_pool
from ddkit.integrations.graph.judging import Training, train_and_select

#: Training of networks on graphs: fewer epochs than on nodes, and narrower, as in DosCond.
GRAPH_TRAINING = Training(epochs=300, hidden=64, weight_decay=0.0, dropout=0.0, validate_every=10)


class GraphNetwork(nn.Module):
    """Two layers of message passing, the mean over nodes, and a linear classifier.

    Args:
        kind: ``gcn``, ``sage`` or ``gin``.
        features: F.
        classes: C.
        hidden: width.
        dropout: of hidden units.
    """

    def __init__(self, kind: str, features: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.first, self.second = (_layer(kind, inputs, hidden) for inputs in (features, hidden))
        self.last, self.dropout = Linear(hidden, classes), dropout

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, count: int) -> Tensor:
        """Return logits (count, C) of graphs laid one after the other; ``batch`` (N,) says whose a node is."""
        hidden = F.relu(self.first(x, edge_index))
        hidden = F.relu(self.second(F.dropout(hidden, self.dropout, self.training), edge_index))
        return self.last(global_mean_pool(hidden, batch, count))


def _layer(kind: str, inputs: int, outputs: int) -> nn.Module:
    if kind == "gin":
        return GINConv(nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs)))
    return {"gcn": GCNConv, "sage": SAGEConv}[kind](inputs, outputs)


GRAPH_MODELS = ("gcn", "sage", "gin")


@dataclass(frozen=True)
class _Laid:
    """Graphs laid one after the other: features, edges, owner of every node, class rows (-1: none of the trained)."""

    x: Tensor
    edge_index: Tensor
    batch: Tensor
    y: Tensor

    def logits(self, network: nn.Module) -> Tensor:
        return network(self.x, self.edge_index, self.batch, len(self.y))


def _laid(graphs: Sequence[Graph], labels: Sequence[int]) -> _Laid:
    sizes = torch.tensor([len(graph.x) for graph in graphs])
    first = sizes.cumsum(0) - sizes
    edges = torch.cat([graph.edge_index + at for graph, at in zip(graphs, first, strict=True)], dim=1)
    owner = torch.arange(len(graphs)).repeat_interleave(sizes)
    return _Laid(torch.cat([graph.x for graph in graphs]), edges, owner, torch.tensor(labels))


@dataclass(frozen=True)
class GraphJudge:
    """Trains one network on condensed graphs and tests it on real ones."""

    small: _Laid
    val: _Laid | None
    test: _Laid
    classes: int
    plan: Training

    def run(self, job: tuple[str, int]) -> tuple[float | None, float, float, str]:
        """Return the test accuracy of the selected and the last epoch, seconds, and which edges the model saw."""
        begun = time.process_time()
        plan = self.plan
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(job[1])
            network = GraphNetwork(job[0], self.small.x.shape[1], self.classes, plan.hidden, plan.dropout)
            selected, last = train_and_select(
                network,
                plan,
                lambda: F.cross_entropy(self.small.logits(network), self.small.y),
                lambda: (None if self.val is None else _accuracy(network, self.val), _accuracy(network, self.test)),
                self.val is not None,
            )
        return selected, last, time.process_time() - begun, "unweighted"


@torch.no_grad()
def _accuracy(network: nn.Module, graphs: _Laid) -> float:
    return float((graphs.logits(network).argmax(1) == graphs.y).float().mean())


def evaluate_graphs(
    condensed: Sequence[Data],
    test: Sequence[Any],
    models: Sequence[str] = ("gcn",),
    seeds: int = 3,
    *,
    val: Sequence[Any] | None = None,
    seed: int = 0,
    training: Training | None = None,
    executor: Executor | None = None,
) -> GraphEvaluation:
    """Train networks on condensed graphs and test them on real ones.

    Args:
        condensed: from :meth:`GraphCondenser.condense`, :func:`load`, or any labelled graphs (the whole training set).
        test: real graphs.
        models: of ``gcn``, ``sage`` and ``gin``.
        seeds: networks of every architecture.
        val: real graphs that choose the epoch; without them only the last epoch is known.
        seed: from which theirs are derived.
        training: None for 300 epochs of width 64.
        executor: where networks are trained; None for this process.

    Raises:
        DataError: graphs that cannot be used, or features of another width.
        ConfigError: an unknown model, or no network to train.
    """
    for model in models:
        if model not in GRAPH_MODELS:
            raise unknown_name("model of graphs", model, GRAPH_MODELS)
    if seeds < 1 or not models:
        raise ConfigError(f"seeds={seeds} and {len(models)} models: at least one network must be trained")
    told = getattr(condensed[0], "provenance", {}) if len(condensed) else {}
    small, classes = checked_graphs(condensed, None)
    laid = _laid(small, [graph.row for graph in small])
    real = [
        _real(graphs, told.get("features"), classes, laid.x.shape[1]) for graphs in (test, val) if graphs is not None
    ]
    judge = GraphJudge(laid, real[1] if len(real) > 1 else None, real[0], len(classes), training or GRAPH_TRAINING)
    rows = results_of(judge, models, seeds, seed, executor or InProcess())
    edges = sum(graph.edge_index.shape[1] for graph in small)
    stored = sum(stored_bytes(graph) for graph in condensed)
    return GraphEvaluation(told.get("method", "graphs"), rows, None, len(laid.x), edges, stored)


def _real(graphs: Sequence[Any], features: Any, classes: tuple[int, ...], width: int) -> _Laid:
    checked, own = checked_graphs(graphs, features)
    if checked[0].x.shape[1] != width:
        raise DataError(f"real graphs have {checked[0].x.shape[1]} features and the condensed ones {width}")
    rows = {label: row for row, label in enumerate(classes)}
    return _laid(checked, [rows.get(own[graph.row], -1) for graph in checked])
