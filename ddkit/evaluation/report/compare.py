"""How do several runs compare with each other and with the published figures."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ddkit.evaluation.report.accuracy import AccuracyRow, accuracy_rows
from ddkit.evaluation.report.runs import RunContent, read_run


def comparison_table(runs: Iterable[Path | str | RunContent], baselines: bool = False) -> list[dict[str, Any]]:
    """Put runs side by side: one row per run and architecture.

    Args:
        runs: run folders or artifact files, or runs read before.
        baselines: also list the baselines (``random``, ``herding``, ``whole``) evaluated with each run.

    Returns:
        JSON-able rows sorted by data, images per class, architecture and falling mean. Keys: ``run``,
        ``label``, ``method``, ``data``, ``ipc``, ``seed``, ``images``, ``bytes``, ``label_kind``,
        ``architecture``, ``mean``, ``std``, ``interval95``, ``repeats``, ``published``, ``published_std``,
        ``published_source``, ``difference`` (accuracies are fractions), ``steps``, ``seconds`` (of
        distillation), ``evaluation_seconds`` and, for private sets, ``epsilon``, ``delta``, ``adjacency``,
        ``unit`` and ``privacy`` (all four in words). What is not known is None; a run without evaluation has one
        row whose ``architecture`` and ``mean`` are None.

    Raises:
        DataError: a path is not a run, or a file of it cannot be read.
        ArtifactError: an artifact is damaged.
    """
    rows: list[dict[str, Any]] = []
    for item in runs:
        run = item if isinstance(item, RunContent) else read_run(item)
        measured = accuracy_rows(run)
        chosen = [row for row in measured if baselines or row.distilled]
        rows.extend([_row(run, row) for row in chosen] or [_row(run, None)])
    return sorted(rows, key=_order)


def _row(run: RunContent, measured: AccuracyRow | None) -> dict[str, Any]:
    own = measured is None or measured.distilled
    budget = run.distilled.budget if run.distilled is not None and own else None
    row: dict[str, Any] = {
        "run": str(run.path),
        "label": run.method if measured is None else measured.label,
        "method": run.method,
        "data": run.data,
        "ipc": run.ipc,
        "seed": run.find("seed"),
        "images": budget.images if budget else measured.images if measured else None,
        "bytes": budget.payload if budget else measured.bytes if measured else None,
        "label_kind": run.distilled.label_kind if run.distilled is not None and own else None,
        "steps": run.steps if own else None,
        "seconds": run.seconds if own else None,
    }
    keys = ("architecture", "mean", "std", "repeats", "difference")
    row |= {key: getattr(measured, key, None) for key in keys}
    has_interval = measured is not None and measured.low is not None and measured.high is not None
    published = measured.published if measured is not None else None
    row |= {
        "interval95": [measured.low, measured.high] if measured is not None and has_interval else None,
        "evaluation_seconds": measured.seconds if measured is not None else None,
        "published": published.accuracy if published else None,
        "published_std": published.std if published else None,
        "published_source": published.source if published else None,
    }
    if measured is not None and not own:
        row["label_kind"] = measured.label_kind
    statement = run.privacy if own else None
    terms = {key: statement.content.get(key) for key in ("epsilon", "delta", "adjacency")} if statement else {}
    row |= {key: terms.get(key) for key in ("epsilon", "delta", "adjacency")}
    row |= {"unit": statement.unit if statement else None, "privacy": statement.terms if statement else None}
    return row


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    mean = row["mean"]
    return (
        row["data"],
        row["ipc"] is None,
        row["ipc"] or 0,
        row["architecture"] is None,
        row["architecture"] or "",
        -mean if mean is not None else 0.0,
        row["run"],
    )
