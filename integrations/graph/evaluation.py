"""How well do networks that are trained on a condensed graph classify the nodes of the real one?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ddkit.errors import ConfigError, DataError, unknown_name
from ddkit.evaluation.statistics import Summary, summary
from ddkit.executor import Executor, InProcess
from ddkit.integrations.graph.budget import smallest_bytes
from ddkit.integrations.graph.condenser import GraphCondenser, stored_bytes
from ddkit.integrations.graph.host import Data
from ddkit.integrations.graph.judging import Judge, Training, network_seed
from ddkit.integrations.graph.models import MODELS, Build, GraphInput
from ddkit.integrations.graph.task import NodeTask, node_task


@dataclass(frozen=True)
class ModelResult:
    """Accuracies of the networks of one architecture, trained on one graph.

    Args:
        model: its name.
        selected: test accuracies (fractions) of the epoch that is best on validation nodes; None without such nodes.
        last: those of the last epoch.
        seeds: of the networks.
        seconds: processor seconds of training and judging all of them.
        edges: what it saw of the condensed edges: ``weighted``, ``unweighted`` (those above the threshold) or ``none``.
    """

    model: str
    selected: tuple[float, ...] | None
    last: tuple[float, ...]
    seeds: tuple[int, ...]
    seconds: float
    edges: str

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The selected ones, or those of the last epoch where nothing could be selected."""
        return self.last if self.selected is None else self.selected

    @property
    def summary(self) -> Summary:
        """Statistics of :attr:`accuracies`."""
        return summary(self.accuracies)


@dataclass(frozen=True)
class GraphEvaluation:
    """What :func:`evaluate` found.

    Args:
        method: of the condensed graph.
        rows: one result a model.
        means: the same of the class means, the baseline that decides; None where it was not asked for.
        nodes: of the condensed graph.
        edges: of the condensed graph, both directions.
        bytes: stored bytes of it.
    """

    method: str
    rows: tuple[ModelResult, ...]
    means: tuple[ModelResult, ...] | None
    nodes: int
    edges: int
    bytes: int

    def row(self, model: str) -> ModelResult:
        """Return the result of a model."""
        for row in self.rows:
            if row.model == model:
                return row
        raise unknown_name("model of the evaluation", model, [row.model for row in self.rows])

    def table(self) -> list[dict[str, Any]]:
        """Return rows for people: of the condensed graph, then of the class means."""
        sets = [(self.method, self.rows), ("means", self.means or ())]
        return [
            {
                "set": name,
                "model": row.model,
                "selected %": None if row.selected is None else summary(row.selected).percent(),
                "last epoch %": summary(row.last).percent(),
                "networks": len(row.seeds),
                "edges seen": row.edges,
                "seconds": round(row.seconds, 1),
            }
            for name, rows in sets
            for row in rows
        ]


def evaluate(
    condensed: Data,
    data: Data,
    models: Sequence[str | Build] = tuple(MODELS),
    seeds: int = 3,
    *,
    seed: int = 0,
    training: Training | None = None,
    means: bool = True,
    unweighted_threshold: float = 0.5,
    split: int | None = None,
    executor: Executor | None = None,
) -> GraphEvaluation:
    """Train networks on a condensed graph and test them on the real one.

    Args:
        condensed: from :meth:`GraphCondenser.condense` or :func:`load`.
        data: the real graph, with ``test_mask`` and, for selection of the epoch, ``val_mask``.
        models: of ``gcn``, ``sgc``, ``sage``, ``appnp``, ``gat`` and ``mlp``, or functions of (features, classes) that
            build a PyG network, called with x, edge_index and, where it supports them, edge_weight.
        seeds: networks of every architecture.
        seed: from which theirs are derived; equal seeds mean equal initial weights.
        training: None for that of the GCond paper.
        means: also evaluate the class means, the baseline that decides whether learning paid.
        unweighted_threshold: models that take no weights see the edges of at least this weight, all alike.
        split: column of masks that hold several splits.
        executor: where networks are trained; None for this process. With processes, pass models by name.

    Raises:
        DataError: no test nodes, or a condensed graph that does not fit the real one.
        ConfigError: an unknown model, or no network to train.
    """
    plan = training or Training()
    for model in models:
        if isinstance(model, str) and model not in MODELS:
            raise unknown_name("model", model, MODELS)
    if seeds < 1 or not models:
        raise ConfigError(f"seeds={seeds} and {len(models)} models: at least one network must be trained")
    real = _real(condensed, data, split)
    small = condensed_input(condensed, unweighted_threshold)
    labels = rows_of_labels(condensed.y, real)
    judge = Judge(small, labels, real, plan)
    workers = executor or InProcess()
    rows = results_of(judge, models, seeds, seed, workers)
    beside = None
    if means:
        told = getattr(condensed, "provenance", {})
        kept = {name: told[name] for name in ("hops", "setting", "features", "directed") if name in told}
        missing = "skip" if told.get("dropped_classes") else "error"
        other = GraphCondenser("means", split=split, missing=missing, **kept).condense(data)
        judge = Judge(condensed_input(other, unweighted_threshold), rows_of_labels(other.y, real), real, plan)
        beside = results_of(judge, models, seeds, seed, workers)
    method = getattr(condensed, "provenance", {}).get("method", "condensed")
    return GraphEvaluation(
        method, rows, beside, int(condensed.num_nodes or 0), condensed.edge_index.shape[1], stored_bytes(condensed)
    )


def evaluate_whole(
    data: Data,
    models: Sequence[str | Build] = tuple(MODELS),
    seeds: int = 3,
    *,
    seed: int = 0,
    training: Training | None = None,
    split: int | None = None,
    executor: Executor | None = None,
    **options: Any,
) -> GraphEvaluation:
    """Train networks on the labelled nodes of the whole real graph: what condensation is measured against.

    Args:
        data: the real graph.
        models: see :func:`evaluate`.
        seeds: networks of every architecture.
        seed: from which theirs are derived.
        training: None for that of the GCond paper with 200 epochs.
        split: column of masks that hold several splits.
        executor: where networks are trained.
        options: ``features``, ``directed`` and ``missing`` of :class:`GraphCondenser`.

    Raises:
        DataError: no test nodes, or a graph that cannot be used.
    """
    real = node_task(data, split=split, **options)
    _require_test(real)
    graph = GraphInput(real.x, real.edge_index, real.edge_weight)
    judge = Judge(
        graph, torch.where(_among(real.train, len(real.y)), real.y, -1), real, training or Training(epochs=200)
    )
    rows = results_of(judge, models, seeds, seed, executor or InProcess())
    size = smallest_bytes(real.x, real.edge_index.shape[1], bool((real.edge_weight != 1).any()))
    return GraphEvaluation("whole", rows, None, real.num_nodes, real.edge_index.shape[1], size)


def _among(nodes: Tensor, count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[nodes] = True
    return mask


def _real(condensed: Data, data: Data, split: int | None) -> NodeTask:
    told = getattr(condensed, "provenance", {})
    real = node_task(
        data,
        split=split,
        missing="skip" if told.get("dropped_classes") else "error",
        features=told.get("features"),
        directed=told.get("directed", "symmetrise"),
    )
    _require_test(real)
    if condensed.x.shape[1] != real.x.shape[1]:
        raise DataError(
            f"the condensed graph has {condensed.x.shape[1]} features and the real one {real.x.shape[1]}: evaluate on "
            f"the graph that was condensed, transformed alike"
        )
    return real


def _require_test(real: NodeTask) -> None:
    if not len(real.test):
        raise DataError("the graph has no test nodes: add masks with torch_geometric.transforms.RandomNodeSplit()")


def condensed_input(condensed: Data, unweighted_threshold: float) -> GraphInput:
    """Return a condensed graph as networks see it."""
    weight = getattr(condensed, "edge_weight", None)
    weight = torch.ones(condensed.edge_index.shape[1]) if weight is None else weight
    return GraphInput(condensed.x, condensed.edge_index, weight, unweighted_threshold)


def rows_of_labels(y: Tensor, real: NodeTask) -> Tensor:
    """Return class rows (n,) of original labels.

    Raises:
        DataError: a label that the real graph does not have.
    """
    rows = {label: row for row, label in enumerate(real.classes)}
    strange = sorted(set(y.tolist()) - set(rows))
    if strange:
        raise DataError(
            f"the condensed graph has class {strange[0]}, which the real graph does not label: wrong graph?"
        )
    return torch.tensor([rows[label] for label in y.tolist()])


class Judging(Protocol):
    """What trains one network of a model from a seed and tests it."""

    def run(self, job: tuple[Any, int]) -> tuple[float | None, float, float, str]:
        """Return the test accuracy of the selected and the last epoch, seconds, and which edges the model saw."""


def results_of(
    judge: Judging, models: Sequence[str | Build], seeds: int, seed: int, workers: Executor
) -> tuple[ModelResult, ...]:
    """Train ``seeds`` networks of every model, the same initial weights for equal seeds, and return their results."""
    own = [network_seed(seed, number) for number in range(seeds)]
    outcomes = workers.map(judge.run, [(model, one) for model in models for one in own])
    rows = []
    for place, model in enumerate(models):
        part = outcomes[place * seeds : (place + 1) * seeds]
        selected = [one[0] for one in part if one[0] is not None]
        rows.append(
            ModelResult(
                model=model if isinstance(model, str) else getattr(model, "__name__", "custom"),
                selected=tuple(selected) if selected else None,
                last=tuple(one[1] for one in part),
                seeds=tuple(own),
                seconds=sum(one[2] for one in part),
                edges=part[0][3],
            )
        )
    return tuple(rows)
