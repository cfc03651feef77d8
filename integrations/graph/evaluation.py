"""How well do networks that are trained on a condensed graph classify the nodes of the real one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddkit.base.executor import Executor, InProcess
from ddkit.base.registry import checked_options
from ddkit.errors import DataError
from ddkit.integrations.graph.budget import smallest_bytes, stored_bytes
from ddkit.integrations.graph.checks import check_kind, edges_of, features_of
from ddkit.integrations.graph.condenser import GraphCondenser
from ddkit.integrations.graph.host import Data
from ddkit.integrations.graph.judging import Judge, Training
from ddkit.integrations.graph.models import MODELS, Build, GraphInput
from ddkit.integrations.graph.results import GraphEvaluation, checked_plan, results_of
from ddkit.integrations.graph.task import Missing, NodeTask, node_task


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
    plan = checked_plan(models, seeds, training, Training(), MODELS)
    _check_condensed(condensed)
    small = condensed_input(condensed, unweighted_threshold)
    real = _real(condensed, data, split)
    labels = rows_of_labels(condensed.y, real)
    judge = Judge(small, labels, real, plan)
    workers = executor or InProcess()
    rows = results_of(judge, models, seeds, seed, workers)
    beside = None
    if means:
        told = getattr(condensed, "provenance", {})
        kept = {name: told[name] for name in ("hops", "setting", "features", "directed") if name in told}
        missing: Missing = "skip" if told.get("dropped_classes") else "error"
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
        ConfigError: an unknown model or option, or no network to train.
    """
    plan = checked_plan(models, seeds, training, Training(epochs=200), MODELS)
    real = node_task(data, split=split, **checked_options("evaluate_whole", node_task, options, ("data", "inductive")))
    _require_test(real)
    graph = GraphInput(real.x, real.edge_index, real.edge_weight)
    judge = Judge(graph, torch.where(_among(real.train, len(real.y)), real.y, -1), real, plan)
    rows = results_of(judge, models, seeds, seed, executor or InProcess())
    size = smallest_bytes(real.x, real.edge_index.shape[1], bool((real.edge_weight != 1).any()))
    return GraphEvaluation("whole", rows, None, real.num_nodes, real.edge_index.shape[1], size)


def _among(nodes: Tensor, count: int) -> Tensor:
    mask = torch.zeros(count, dtype=torch.bool)
    mask[nodes] = True
    return mask


def _check_condensed(condensed: Data) -> None:
    check_kind(condensed)
    if condensed.x is None or condensed.edge_index is None or condensed.y is None:
        raise DataError("the condensed graph lacks x, edge_index or y: pass what GraphCondenser.condense returned")
    if condensed.y.shape != (len(condensed.x),):
        raise DataError(f"the condensed graph has {len(condensed.x)} nodes and labels {tuple(condensed.y.shape)}")


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
    """Return a condensed graph as networks see it: on the CPU, coalesced, without self loops.

    Raises:
        DataError: features, labels or edges that no network can be trained on.
    """
    count = len(condensed.x)
    x = features_of(condensed, count, condensed.edge_index, None)
    return GraphInput(x, *edges_of(condensed, count, "keep"), unweighted_threshold)


def rows_of_labels(y: Tensor, real: NodeTask) -> Tensor:
    """Return class rows (n,) of original labels.

    Raises:
        DataError: a label that the real graph does not have.
    """
    y = y.cpu()
    rows = {label: row for row, label in enumerate(real.classes)}
    strange = sorted(set(y.tolist()) - set(rows))
    if strange:
        raise DataError(
            f"the condensed graph has class {strange[0]}, which the real graph does not label: wrong graph?"
        )
    return torch.tensor([rows[label] for label in y.tolist()])
