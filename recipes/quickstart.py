"""Recipe ``quickstart``: distil, evaluate beside real images, write the table and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from ddkit import methods
from ddkit.base.config import DistillConfig, merge
from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.engine.callbacks import ImageGrids
from ddkit.engine.devices import precision_for
from ddkit.engine.distiller import Distiller
from ddkit.engine.selection import CoresetSession
from ddkit.engine.session import Session
from ddkit.errors import ConfigError
from ddkit.evaluation.assess import merge_draws, write_evaluation
from ddkit.evaluation.baselines import baseline_sets
from ddkit.evaluation.choice import whole_recipe
from ddkit.evaluation.evaluate import evaluate, evaluate_real
from ddkit.evaluation.published import published
from ddkit.evaluation.report.html import write_report
from ddkit.evaluation.results import EvaluationResult
from ddkit.recipes.settings import Frozen, Say, checked
from ddkit.training.named import recipe
from ddkit.training.recipe import TrainingRecipe


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    model: str
    methods: list[str] = Field(min_length=1)
    ipcs: list[int] = Field(min_length=1)
    repeats: int = Field(ge=1)
    draws: int = Field(ge=1)
    recipe: dict[str, Any]
    whole_epochs: int | None = Field(ge=1)
    budgets: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class _Cell:
    """One method at one number of images per class.

    Args:
        method: its name.
        ipc: images per class.
        config: full configuration.
        out: run folder.
    """

    method: str
    ipc: int
    config: DistillConfig
    out: Path


def run(values: Mapping[str, Any], out: Path, say: Say, command: str) -> dict[str, Any]:
    """Run every cell and write ``table.json`` and ``report.html`` into ``out``.

    Args:
        values: the settings.
        out: folder for the runs, the table and the report.
        say: called with a line of text at every stage.
        command: what the user typed.

    Raises:
        ConfigError: a setting of the wrong type, or an unknown method, model or option; nothing was written.
    """
    settings = checked(Settings, values)
    started = time.monotonic()
    train, test = load_pair(settings.data, root=settings.data_root)
    protocol = _protocol(settings, train)
    cells = _cells(settings, train, out)
    say(f"{train.name}: {len(train)} training and {len(test)} test images; whole data first")
    whole = _evaluate_whole(settings, train, test)
    results: list[tuple[_Cell, EvaluationResult, float]] = []
    equal_bytes: dict[int, EvaluationResult] = {}
    for number, cell in enumerate(cells, 1):
        say(f"[{number}/{len(cells)}] {cell.method}, {cell.ipc} images per class")
        begun = time.monotonic()
        distiller = Distiller(cell.config, callbacks=[ImageGrids()])
        distilled = distiller.fit(train, out=cell.out, data_spec=settings.data, command=command)
        seconds = time.monotonic() - begun
        results.append((cell, _evaluate(settings, cell, distilled, train, test, protocol), seconds))
        if not methods.get(cell.method).is_coreset and cell.ipc not in equal_bytes:
            equal_bytes[cell.ipc] = _evaluate_equal_bytes(settings, distilled, train, test, protocol)
    for cell, own, _ in results:
        beside = [(other.method, result) for other, result, _ in results if other.ipc == cell.ipc and other != cell]
        if cell.ipc in equal_bytes:
            beside.append(("random-bytes", equal_bytes[cell.ipc]))
        write_evaluation(cell.out, [(cell.method, own), *beside, ("whole", whole)], command)
    table = [_row(cell.method, cell.ipc, result, seconds, train) for cell, result, seconds in results]
    table += [_row("random-bytes", ipc, result, 0.0, train) for ipc, result in equal_bytes.items()]
    table.append(_row("whole", None, whole, 0.0, train))
    order = sorted(cells, key=lambda cell: methods.get(cell.method).is_coreset)
    report = write_report([cell.out for cell in order], out / "report.html")
    outcome = {"table": table, "report": str(report), "seconds": round(time.monotonic() - started, 1)}
    write_text(out / "table.json", json.dumps(outcome, indent=2) + "\n")
    return outcome


def _protocol(settings: Settings, train: RealData) -> TrainingRecipe:
    options = dict(settings.recipe)
    return recipe(str(options.pop("name", "dsa")), train.name, **options)


def _cells(settings: Settings, train: RealData, out: Path) -> list[_Cell]:
    """Configure every cell and put its pieces together once, so that a bad setting is refused before the first runs."""
    cells = []
    for ipc in dict.fromkeys(settings.ipcs):
        for method in dict.fromkeys(settings.methods):
            config = methods.get(method).configure(train, ipc, settings.seed, _overrides(settings, method, ipc))
            if config.selection:
                CoresetSession(config, train)
            else:
                Session(config, train)
            cells.append(_Cell(method, ipc, config, out / f"{method}-{ipc}"))
    return cells


def _overrides(settings: Settings, method: str, ipc: int) -> dict[str, Any]:
    budget = settings.budgets.get(method, {})
    common = {key: value for key, value in budget.items() if not key.isdigit()}
    own = budget.get(str(ipc), {})
    if not isinstance(own, Mapping):
        raise ConfigError(f"budgets.{method}.{ipc}={own!r} must map settings to values, for instance {{steps: 100}}")
    recipe_piece = {"name": "dsa", **settings.recipe}
    return merge({"model": settings.model, "recipe": recipe_piece}, merge(common, own))


def _evaluate(
    settings: Settings,
    cell: _Cell,
    distilled: DistilledDataset,
    train: RealData,
    test: RealData,
    protocol: TrainingRecipe,
) -> EvaluationResult:
    if cell.method != "random":
        return evaluate(distilled, test, (settings.model,), settings.repeats, protocol, settings.seed)
    sets = [
        distilled if draw == 0 else Distiller("random", cell.ipc, seed=settings.seed + draw).fit(train)
        for draw in range(settings.draws)
    ]
    return _evaluate_draws(settings, sets, test, protocol)


def _evaluate_draws(
    settings: Settings, sets: list[DistilledDataset], test: RealData, protocol: TrainingRecipe
) -> EvaluationResult:
    """Train one network on every draw of a baseline and pool them."""
    parts = [evaluate(s, test, (settings.model,), 1, protocol, settings.seed + i) for i, s in enumerate(sets)]
    return merge_draws(parts)


def _evaluate_equal_bytes(
    settings: Settings, distilled: DistilledDataset, train: RealData, test: RealData, protocol: TrainingRecipe
) -> EvaluationResult:
    """Evaluate as many random real images, at 8 bits a pixel, as fit the bytes of a distilled set."""
    sets = baseline_sets(train, distilled, ("random-bytes",), settings.seed, settings.draws)["random-bytes"]
    assert isinstance(sets, list)
    return _evaluate_draws(settings, sets, test, protocol)


def _evaluate_whole(settings: Settings, train: RealData, test: RealData) -> EvaluationResult:
    """Train one network on all real images, compiled where the set is large enough to repay it."""
    whole = whole_recipe(train)
    whole = whole if settings.whole_epochs is None else whole.replace(epochs=settings.whole_epochs)
    how = precision_for(settings.model, train, 3.0 * len(train) * whole.total_epochs, torch.device("cpu"))
    return evaluate_real(
        train,
        test,
        (settings.model,),
        1,
        whole,
        settings.seed,
        precision=how.name,
        compile=how.compile,
    )


def _row(method: str, ipc: int | None, result: EvaluationResult, seconds: float, train: RealData) -> dict[str, Any]:
    row = result.rows[0]
    figure = published(method, train.name, ipc)
    return {
        "set": method,
        "ipc": ipc,
        "images": result.train_images,
        "accuracy %": f"{100 * row.mean:.1f} ± {100 * row.std:.1f}",
        "networks": len(row.accuracies),
        "published % (ConvNet, full schedule)": f"{figure.accuracy:.1f}" if figure else None,
        "distil s": round(seconds, 1),
        "evaluate s": round(row.seconds, 1),
    }
