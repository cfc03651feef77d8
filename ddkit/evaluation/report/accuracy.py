"""Which accuracies does an evaluation hold, and which published figure belongs beside each."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ddkit.evaluation.published import published
from ddkit.evaluation.report.formats import known
from ddkit.evaluation.report.runs import RunContent


@dataclass(frozen=True)
class Reference:
    """A published accuracy and its standard deviation, both fractions, and where it was printed."""

    accuracy: float
    std: float | None
    source: str


@dataclass(frozen=True)
class AccuracyRow:
    """Test accuracy of networks of one architecture trained on one set; accuracies are fractions.

    Args:
        label: name of the training set (``dm``, ``random``, ``whole``).
        architecture: network that was trained.
        mean: mean over the repeats.
        std: standard deviation over the repeats (ddof 0).
        low: lower end of the 95 % confidence interval of the mean; None with one repeat.
        high: upper end.
        repeats: networks trained.
        seconds: training and testing, all repeats together.
        images: training images.
        bytes: payload of the training set; stored bytes where an older evaluation has none.
        label_kind: ``hard``, ``soft`` or ``regression``.
        recipe: name of the recipe that trained them, ``kernel`` for a kernel classifier; None where nothing says.
        distilled: whether this is the run's own set, as opposed to a baseline.
        published: the published figure for the same setting, if there is one.
    """

    label: str
    architecture: str
    mean: float
    std: float | None
    low: float | None
    high: float | None
    repeats: int
    seconds: float | None
    images: int | None
    bytes: int | None
    label_kind: str | None
    recipe: str | None
    distilled: bool
    published: Reference | None

    @property
    def difference(self) -> float | None:
        """Measured minus published mean, as a fraction; None without a published figure."""
        return self.mean - self.published.accuracy if self.published is not None else None


def accuracy_rows(run: RunContent) -> list[AccuracyRow]:
    """Flatten a run's ``evaluation.json``, the run's own set first.

    The run's own set is the entry labelled with the method's name or ``distilled``, else the first one, and those
    that judge it in further ways: ``METHOD (kernel)``, ``METHOD (common protocol)``.

    Returns:
        One row per training set and architecture, grouped by architecture in order of appearance. Several
        sets that share a label (draws of one baseline) are numbered: ``random 1``, ``random 2``. Empty
        without evaluation.
    """
    labels = [label for label, _ in run.results]
    own_names = {run.method.casefold(), "distilled"}
    own = next((i for i, label in enumerate(labels) if label.casefold() in own_names), 0)
    rows: list[AccuracyRow] = []
    for position, ((label, result), name) in enumerate(zip(run.results, _numbered(labels), strict=True)):
        further = label.startswith(f"{labels[own]} (")
        method = run.method if position == own else label
        for entry in _architecture_entries(result):
            reference = _reference(run, method, str(entry["architecture"]))
            rows.append(_row(run, name, entry, result, position == own or further, reference))
    rows = [row for row in rows if math.isfinite(row.mean)]
    order = list(dict.fromkeys(row.architecture for row in rows))
    return sorted(rows, key=lambda row: (order.index(row.architecture), not row.distilled))


def _numbered(labels: list[str]) -> list[str]:
    totals, seen, names = Counter(labels), Counter[str](), []
    for label in labels:
        seen[label] += 1
        names.append(f"{label} {seen[label]}" if totals[label] > 1 else label)
    return names


def _architecture_entries(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the dictionaries of one evaluation that describe an architecture."""
    for value in result.values():
        rows = value if isinstance(value, list) else []
        if rows and all(isinstance(row, Mapping) and "architecture" in row for row in rows):
            return rows
    return []


def _row(
    run: RunContent,
    label: str,
    row: Mapping[str, Any],
    result: Mapping[str, Any],
    distilled: bool,
    reference: Reference | None,
) -> AccuracyRow:
    listed = row.get("accuracies")
    accuracies = [float(value) for value in listed if known(value)] if isinstance(listed, list) else []
    mean, std = _finite(row.get("mean")), _finite(row.get("std"))
    if mean is None:
        mean = statistics.fmean(accuracies) if accuracies else math.nan
    if std is None and accuracies:
        std = statistics.pstdev(accuracies)
    bounds = row.get("interval95")
    ends = bounds if isinstance(bounds, list | tuple) and len(bounds) == 2 else (None, None)
    low, high = _finite(ends[0]), _finite(ends[1])
    budget = result.get("budget")
    budget = budget if isinstance(budget, Mapping) else {}
    images, stored = _whole(budget.get("images")), _whole(budget.get("payload", budget.get("bytes")))
    if images is None:
        images = _whole(result.get("train_images"))
        stored = run.real_bytes if images == run.real_count else None
    recipe = result.get("recipe")
    return AccuracyRow(
        label=label,
        architecture=str(row["architecture"]),
        mean=mean,
        std=std,
        low=low,
        high=high,
        repeats=len(accuracies),
        seconds=_finite(row.get("seconds")),
        images=images,
        bytes=stored,
        label_kind=str(result["label_kind"]) if result.get("label_kind") else None,
        recipe=str(recipe["name"]) if isinstance(recipe, Mapping) and recipe.get("name") else None,
        distilled=distilled,
        published=reference,
    )


def _reference(run: RunContent, method: str, architecture: str) -> Reference | None:
    """Return the published figure for a training set and architecture of this run.

    The shipped table comes first; figures listed in ``evaluation.json`` (percent, as there) fill its gaps.
    """
    figure = published(method, run.data, run.ipc, architecture)
    candidates: list[Mapping[str, Any]] = [figure.as_dict()] if figure is not None else []
    further = (run.evaluation or {}).get("published")
    for listed in further if isinstance(further, list) else []:
        if isinstance(listed, Mapping) and (
            str(listed.get("method", "")).casefold() == method.casefold()
            and str(listed.get("architecture", "")).casefold() == architecture.casefold()
        ):
            candidates.append(listed)
    for candidate in candidates:
        accuracy, std = _finite(candidate.get("accuracy")), _finite(candidate.get("std"))
        if accuracy is not None:
            source = str(candidate.get("source") or "")
            return Reference(accuracy / 100, None if std is None else std / 100, source)
    return None


def _finite(value: object) -> float | None:
    return float(value) if known(value) else None


def _whole(value: object) -> int | None:
    return int(value) if known(value) else None
