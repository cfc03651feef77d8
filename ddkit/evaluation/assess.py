"""Evaluate a distilled set together with what it has to beat, and keep the result beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddkit.artifact import DistilledDataset
from ddkit.data import RealData
from ddkit.errors import DataError
from ddkit.evaluation.baselines import baseline_sets
from ddkit.evaluation.evaluate import WHOLE_RECIPE, evaluate, evaluate_real
from ddkit.evaluation.recipe import TrainingRecipe
from ddkit.evaluation.results import ArchitectureResult, EvaluationResult
from ddkit.files import write_text

FILE_NAME = "evaluation.json"


def merge_draws(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Put the evaluations of several draws of one baseline into one result whose networks are pooled."""
    if len(results) == 1:
        return results[0]
    rows = []
    for position, first in enumerate(results[0].rows):
        same = [result.rows[position] for result in results]
        rows.append(
            ArchitectureResult(
                **{
                    **first.model_dump(),
                    "accuracies": tuple(value for row in same for value in row.accuracies),
                    "seeds": tuple(seed for row in same for seed in row.seeds),
                    "seconds": sum(row.seconds for row in same),
                }
            )
        )
    note = f"{results[0].note}; networks of {len(results)} draws pooled"
    return results[0].model_copy(update={"rows": tuple(rows), "note": note})


def assess(
    distilled: DistilledDataset,
    test: RealData,
    *,
    train: RealData | None = None,
    baselines: Sequence[str] = (),
    architectures: Sequence[str] = ("convnet",),
    repeats: int = 5,
    recipe: TrainingRecipe | None = None,
    whole_epochs: int = WHOLE_RECIPE.epochs,
    seed: int = 0,
    draws: int = 3,
    report_progress: Callable[[str], None] = lambda _: None,
    **options: Any,
) -> list[tuple[str, EvaluationResult]]:
    """Evaluate a distilled set and its baselines under one recipe, with the same initialisations.

    Args:
        distilled: the set.
        test: untouched test data.
        train: the data that were distilled; needed for baselines.
        baselines: kinds of :func:`~ddkit.evaluation.baseline_sets`.
        architectures: what is trained.
        repeats: networks per set and architecture; for random baselines they are shared among the draws.
        recipe: None for the one that the set carries.
        whole_epochs: epochs on the whole training set.
        seed: of networks and draws.
        draws: sets per random baseline, at most ``repeats``.
        report_progress: called with a line of text before every evaluation.
        options: device, precision, compile, executor, stacked of :func:`~ddkit.evaluation.evaluate`.

    Returns:
        (label, result) pairs, the set's own first, labelled by its method.

    Raises:
        DataError: baselines without training data, or data that do not fit.
        ConfigError: an unknown baseline, architecture or option.
    """
    if baselines and train is None:
        raise DataError("baselines are drawn from the training data: name the data that were distilled")
    label = str(distilled.metadata.get("method") or "distilled")
    draws = max(1, min(draws, repeats))
    sets = baseline_sets(train, distilled, baselines, seed, draws) if train is not None and baselines else {}
    report_progress(f"training {repeats} networks on the distilled set")
    results = [(label, evaluate(distilled, test, architectures, repeats, recipe, seed, **options))]
    for kind, members in sets.items():
        report_progress(f"training networks on the baseline '{kind}'")
        if isinstance(members, RealData):
            whole = WHOLE_RECIPE.replace(epochs=whole_epochs)
            count = min(repeats, 3)
            results.append((kind, evaluate_real(members, test, architectures, count, whole, seed, **options)))
            continue
        each = max(1, repeats // len(members))
        parts = [
            evaluate(member, test, architectures, each, recipe, seed + draw, **options)
            for draw, member in enumerate(members)
        ]
        results.append((kind, merge_draws(parts)))
    return results


def write_evaluation(
    folder: Path, results: Sequence[tuple[str, EvaluationResult]], command: str | None = None, **extra: Any
) -> Path:
    """Write ``evaluation.json`` into a run folder, atomically; rows of an earlier call with other labels are kept.

    Args:
        folder: the run folder.
        results: (label, result) pairs.
        command: what the user typed.
        extra: further JSON-able entries, for instance ``scores``.
    """
    path = folder / FILE_NAME
    entries = [{"label": label, "result": result.as_dict()} for label, result in results]
    content: dict[str, Any] = {}
    if path.is_file():
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise DataError(f"'{path}' is damaged: delete it and evaluate again") from None
    fresh = {_key(entry) for entry in entries}
    kept = [entry for entry in content.get("results", []) if _key(entry) not in fresh]
    content = {**content, **extra, "results": [*entries, *kept], "command": command}
    return write_text(path, json.dumps(content, indent=2) + "\n")


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    result = entry["result"]
    return (
        entry["label"],
        json.dumps(result["recipe"], sort_keys=True),
        tuple(row["architecture"] for row in result["rows"]),
    )
