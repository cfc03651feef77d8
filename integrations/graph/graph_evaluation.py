"""How well do networks that are trained on a few condensed graphs classify real graphs?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.executor import Executor, InProcess
from ddkit.base.streams import default_draws
from ddkit.errors import DataError
from ddkit.integrations.graph.budget import stored_bytes
from ddkit.integrations.graph.host import Data, GCNConv, GINConv, Linear, SAGEConv
from ddkit.integrations.graph.judging import Training, train_and_select
from ddkit.integrations.graph.results import GraphEvaluation, checked_plan, results_of
from ddkit.integrations.graph.sets import Laid, checked_graphs, laid

#: Training of networks on graphs: fewer epochs than on nodes, and narrower, as in DosCond.
GRAPH_TRAINING = Training(epochs=300, hidden=64, weight_decay=0.0, dropout=0.0, validate_every=10)


class GraphNetwork(nn.Module):
    """Two layers of message passing, the mean over nodes, and a linear classifier.

    Layers are PyG's; they are applied as products with the constant matrices of the graphs, which is cheaper than
    PyG's gathering and scattering of messages.

    Args:
        kind: ``gcn``, ``sage`` or ``gin``.
        features: F.
        classes: C.
        hidden: width.
        dropout: of hidden units.
    """

    def __init__(self, kind: str, features: int, classes: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second = (_layer(kind, inputs, hidden) for inputs in (features, hidden))
        self.last, self.dropout = Linear(hidden, classes), dropout

    def forward(self, graphs: Laid) -> Tensor:
        """Return logits (G, C) of G graphs laid one after the other."""
        hidden = F.relu(self.apply_layer(self.first, graphs, graphs.x))
        hidden = F.dropout(hidden, self.dropout, self.training)
        hidden = F.relu(self.apply_layer(self.second, graphs, hidden))
        return self.last(graphs.readout @ hidden)

    def apply_layer(self, layer: Any, graphs: Laid, x: Tensor) -> Tensor:
        """Return what PyG's ``layer(x, edge_index)`` returns (N, H)."""
        if self.kind == "gcn":
            return graphs.matrix @ layer.lin(x) + layer.bias
        if self.kind == "sage":
            return layer.lin_l(graphs.means @ x) + layer.lin_r(x)
        return layer.nn(x + graphs.sums @ x)


def _layer(kind: str, inputs: int, outputs: int) -> nn.Module:
    if kind == "gin":
        return GINConv(nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, outputs)))
    return {"gcn": GCNConv, "sage": SAGEConv}[kind](inputs, outputs)


GRAPH_MODELS = ("gcn", "sage", "gin")


@dataclass(frozen=True)
class GraphJudge:
    """Trains one network on condensed graphs and tests it on real ones."""

    small: Laid
    val: Laid | None
    test: Laid
    classes: int
    plan: Training

    def run(self, job: tuple[str, int]) -> tuple[float | None, float, float, str]:
        """Return the test accuracy of the selected and the last epoch, seconds, and which edges the model saw."""
        begun = time.process_time()
        plan = self.plan
        with default_draws(job[1]):
            network = GraphNetwork(job[0], self.small.x.shape[1], self.classes, plan.hidden, plan.dropout)
            selected, last = train_and_select(
                network,
                plan,
                lambda: F.cross_entropy(network(self.small), self.small.y),
                lambda: (None if self.val is None else _accuracy(network, self.val), _accuracy(network, self.test)),
                self.val is not None,
            )
        return selected, last, time.process_time() - begun, "unweighted"


@torch.no_grad()
def _accuracy(network: nn.Module, graphs: Laid) -> float:
    return float((network(graphs).argmax(1) == graphs.y).float().mean())


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
    plan = checked_plan(models, seeds, training, GRAPH_TRAINING, GRAPH_MODELS, builds=False)
    told = getattr(condensed[0], "provenance", {}) if len(condensed) else {}
    small, classes = checked_graphs(condensed, None)
    joined = laid(small)
    real = [
        _real(graphs, told.get("features"), classes, joined.x.shape[1]) for graphs in (test, val) if graphs is not None
    ]
    judge = GraphJudge(joined, real[1] if len(real) > 1 else None, real[0], len(classes), plan)
    rows = results_of(judge, models, seeds, seed, executor or InProcess())
    edges = sum(graph.edge_index.shape[1] for graph in small)
    stored = sum(stored_bytes(graph) for graph in condensed)
    return GraphEvaluation(told.get("method", "graphs"), rows, None, len(joined.x), edges, stored)


def _real(graphs: Sequence[Any], features: Any, classes: tuple[int, ...], width: int) -> Laid:
    checked, own = checked_graphs(graphs, features, fewest=1)
    if checked[0].x.shape[1] != width:
        raise DataError(f"real graphs have {checked[0].x.shape[1]} features and the condensed ones {width}")
    rows = {label: row for row, label in enumerate(classes)}
    return laid(checked, [rows.get(own[graph.row], -1) for graph in checked])
