"""Evaluate a distilled set together with what it has to beat, and keep the result beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ddkit.base.documents import read_json_object
from ddkit.base.files import temporary_pattern, write_text
from ddkit.base.lock import locked
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.privacy import figures_folder, folder_for_figures
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError
from ddkit.evaluation.baselines import baseline_sets
from ddkit.evaluation.choice import common_recipe, recipe_for_others, recipe_of, whole_recipe
from ddkit.evaluation.compatibility import check_compatible
from ddkit.evaluation.evaluate import evaluate, evaluate_real
from ddkit.evaluation.kernel import evaluate_kernel, kernel_of
from ddkit.evaluation.results import ArchitectureResult, EvaluationResult
from ddkit.models.kernels.features import NetworkFeatures
from ddkit.models.spec import ModelSpec
from ddkit.training.named import OWN_RECIPES
from ddkit.training.recipe import TrainingRecipe

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
    common_architectures: Sequence[str] | None = None,
    whole_epochs: int | None = None,
    seed: int = 0,
    draws: int = 3,
    report_progress: Callable[[str], None] = lambda _: None,
    on_results: Callable[[list[tuple[str, EvaluationResult]]], None] = lambda _: None,
    **options: Any,
) -> list[tuple[str, EvaluationResult]]:
    """Evaluate a distilled set and its baselines under one recipe, but for what only the set has.

    A learning rate that was learned with the set is not that of real images: baselines are trained with the recipe's
    own, see :func:`~ddkit.evaluation.choice.recipe_for_others`.

    Without a ``recipe``, a set whose method trains networks in a way of its own (steps that were learned, a kernel) is
    evaluated that way first, then by its kernel, labelled ``METHOD (kernel)``, and by the protocol that all methods
    share, ``METHOD (common protocol)``. So are baselines, each row of the set having its counterpart: those that no
    learned steps suit are trained by the protocol alone, those of a kernel are classified by the kernel as well.

    Draw d of a random baseline is evaluated with ``seed + d``, so its networks start differently from those of the
    other draws; the first draw and every baseline that is not drawn share the initialisations of the distilled set.

    Args:
        distilled: the set.
        test: untouched test data.
        train: the data that were distilled; needed for baselines.
        baselines: kinds of :func:`~ddkit.evaluation.baseline_sets`.
        architectures: what is trained.
        repeats: networks per set and architecture; for random baselines they are shared out among the draws.
        recipe: the only way to train; None for the one that the set carries, and the others above.
        common_architectures: what is trained by the common protocol; None for ``architectures``.
        whole_epochs: epochs on the whole training set; None for those of its recipe.
        seed: of networks and draws.
        draws: sets per random baseline, at most ``repeats``.
        report_progress: called with a line of text before every evaluation.
        on_results: called with all results so far, each of them complete, whenever there is a new one.
        options: device, precision, compile, executor, stacked, progress and finished of
            :func:`~ddkit.evaluation.evaluate`.

    Returns:
        (label, result) pairs, the set's own first, labelled by its method.

    Raises:
        DataError: baselines without training data, or data that do not fit.
        ConfigError: an unknown baseline, architecture or option.
    """
    if baselines and train is None:
        raise DataError("baselines are drawn from the training data: name the data that were distilled")
    if repeats < 1:
        raise ConfigError(f"{repeats} repeats: at least 1 network must be trained")
    specs = [ModelSpec.parse(text) for text in architectures]
    common = [ModelSpec.parse(text) for text in common_architectures] if common_architectures else specs
    check_compatible(distilled, test)  # like the next lines, before a baseline is built
    for spec in [*specs, *common]:
        spec.build(test.shape, test.num_classes, 0)
    label = distilled.card.method or "distilled"
    draws = max(1, min(draws, repeats))
    own = recipe_of(distilled) if recipe is None else recipe
    others = recipe_for_others(distilled, own)
    ways = _Ways(distilled, test, repeats, seed, options) if recipe is None else None
    nets = common if others.name != own.name else specs
    search = {"model": nets[0], "recipe": others, "device": options.get("device", "auto")}
    sets = (
        baseline_sets(train, distilled, baselines, seed, draws, report=report_progress, **search)
        if train is not None and baselines
        else {}
    )
    report_progress(f"training {repeats} network{'s' * (repeats != 1)} on the distilled set")
    networks: dict[ModelSpec, list[nn.Module]] = {}
    keep = networks.__setitem__ if ways is not None and ways.kernel_is_of_networks() else None
    results: list[tuple[str, EvaluationResult]] = []

    def add(one: tuple[str, EvaluationResult]) -> None:
        results.append(one)
        on_results(results)

    add((label, evaluate(distilled, test, specs, repeats, own, seed, keep=keep, **options)))
    for one in ways.further(label, specs, common, networks, report_progress) if ways else ():
        add(one)
    for kind, members in sets.items():
        report_progress(f"training networks on the baseline '{kind}'")
        if isinstance(members, RealData):
            whole = whole_recipe(members)
            whole = whole if whole_epochs is None else whole.replace(epochs=whole_epochs)
            add((kind, evaluate_real(members, test, specs, min(repeats, 3), whole, seed, **options)))
            continue
        add((kind, _pooled(members, test, nets, repeats, others, seed, options)))
        for one in ways.further_of_baseline(kind, members, specs, common, others) if ways else ():
            add(one)
    return results


@dataclass(frozen=True)
class _Ways:
    """Ways to judge a set beside its own recipe."""

    distilled: DistilledDataset
    test: RealData
    repeats: int
    seed: int
    options: dict[str, Any]

    def kernel_is_of_networks(self) -> bool:
        """Whether the kernel of the set is that of networks trained on it."""
        how = kernel_of(self.distilled)
        return how is not None and how.kernel["name"] == NetworkFeatures.name

    def further(
        self,
        label: str,
        specs: Sequence[ModelSpec],
        common: Sequence[ModelSpec],
        networks: Mapping[ModelSpec, Sequence[nn.Module]],
        report: Callable[[str], None],
    ) -> Iterator[tuple[str, EvaluationResult]]:
        """Evaluate the set by its kernel and by the common protocol, where these are not its own way already.

        ``networks`` were trained its own way; a kernel of such networks compares their features.
        """
        if kernel_of(self.distilled) is not None:
            report("classifying by the kernel of the set")
            yield f"{label} (kernel)", self._kernel(self.distilled, specs, self.repeats, networks)
        if self._trains_differently():
            report("training networks on the distilled set by the common protocol")
            how = common_recipe(self.distilled)
            result = evaluate(self.distilled, self.test, common, self.repeats, how, self.seed, **self.options)
            yield f"{label} (common protocol)", result

    def further_of_baseline(
        self,
        kind: str,
        members: Sequence[DistilledDataset],
        specs: Sequence[ModelSpec],
        common: Sequence[ModelSpec],
        trained_by: TrainingRecipe,
    ) -> Iterator[tuple[str, EvaluationResult]]:
        """Evaluate draws of a baseline like the set, where they were not ``trained_by`` that recipe already.

        A kernel that has to be trained is left out.
        """
        if kernel_of(self.distilled) is not None and not self.kernel_is_of_networks():
            yield f"{kind} (kernel)", merge_draws([self._kernel(one, specs, 1) for one in members])
        how = common_recipe(self.distilled)
        if self._trains_differently() and trained_by != how:
            result = _pooled(members, self.test, common, self.repeats, how, self.seed, self.options)
            yield f"{kind} (common protocol)", result

    def _trains_differently(self) -> bool:
        """Whether the set's own recipe belongs to its method instead of to the field."""
        return recipe_of(self.distilled).name in OWN_RECIPES

    def _kernel(
        self,
        one: DistilledDataset,
        specs: Sequence[ModelSpec],
        repeats: int,
        networks: Mapping[ModelSpec, Sequence[nn.Module]] | None = None,
    ) -> EvaluationResult:
        left_out = ("executor", "progress", "finished")
        options = {key: value for key, value in self.options.items() if key not in left_out}
        how = kernel_of(self.distilled)
        return evaluate_kernel(one, self.test, specs, repeats, how, self.seed, networks=networks, **options)


def _pooled(
    members: Sequence[DistilledDataset],
    test: RealData,
    specs: Sequence[ModelSpec],
    repeats: int,
    recipe: TrainingRecipe,
    seed: int,
    options: dict[str, Any],
) -> EvaluationResult:
    """Train ``repeats`` networks in all on the draws of a baseline."""
    pairs = zip(members, _shares(repeats, len(members)), strict=True)
    results = [evaluate(one, test, specs, share, recipe, seed + d, **options) for d, (one, share) in enumerate(pairs)]
    merged, form = merge_draws(results), members[0].metadata.get("form")
    return merged.model_copy(update={"note": f"{merged.note}; kept as {form}"}) if form else merged


def _shares(total: int, parts: int) -> list[int]:
    """Share ``total`` networks out among ``parts`` sets, the first ones getting what is left over."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Return the content of ``evaluation.json`` of a run folder, that beside it for a private release; else empty.

    Raises:
        DataError: the file is damaged.
    """
    path = figures_folder(folder) / FILE_NAME
    if not path.is_file():
        return {}
    try:
        content = read_json_object(path)
        for entry in content.get("results", []):
            hash(_key(entry))
        return content
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"'{path}' is damaged: delete it and evaluate again") from None


def write_evaluation(
    folder: Path, results: Sequence[tuple[str, EvaluationResult]], command: str | None = None, **extra: Any
) -> Path:
    """Write ``evaluation.json`` into a run folder, atomically.

    Results of an earlier call are kept unless they are of the same set, data, recipe and architectures. Exact figures
    about records are no part of a private release: they go into a folder beside it, with a warning. Two processes
    write one after the other.

    Args:
        folder: the run folder.
        results: (label, result) pairs.
        command: what the user typed.
        extra: further JSON-able entries, for instance ``scores``.

    Raises:
        DataError: the file that is there is damaged; it is left as it is.
        LockedError: another process has been writing into the folder for a minute.
    """
    folder = folder_for_figures(folder)
    entries = [{"label": label, "result": result.as_dict()} for label, result in results]
    fresh = {_key(entry) for entry in entries}
    with locked(folder, patience=60.0):
        content = read_evaluation(folder)
        kept = [entry for entry in content.get("results", []) if _key(entry) not in fresh]
        content = {**content, **extra, "results": [*entries, *kept], "command": command}
        for leftover in folder.glob(temporary_pattern(folder / FILE_NAME)):  # of a killed process
            leftover.unlink(missing_ok=True)
        return write_text(folder / FILE_NAME, json.dumps(content, indent=2) + "\n")


def _key(entry: dict[str, Any]) -> tuple[Any, ...]:
    result = entry["result"]
    return (
        entry["label"],
        result["data"],
        json.dumps(result["recipe"], sort_keys=True),
        tuple(row["architecture"] for row in result["rows"]),
    )
