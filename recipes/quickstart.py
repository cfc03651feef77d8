"""Recipe ``quickstart``: distil, evaluate beside real images, write the table and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddkit import methods
from ddkit.artifact import DistilledDataset
from ddkit.config import merge
from ddkit.data import RealData, load_pair
from ddkit.engine import Distiller, ImageGrids
from ddkit.errors import ConfigError
from ddkit.evaluation import (
    WHOLE_RECIPE,
    EvaluationResult,
    TrainingRecipe,
    evaluate,
    evaluate_real,
    merge_draws,
    published,
    recipe,
    write_evaluation,
)
from ddkit.files import write_text
from ddkit.registry import describe_validation_error
from ddkit.report import write_report

Say = Callable[[str], None]


class Settings(BaseModel):
    """The settings of the recipe's file, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    model: str
    methods: list[str] = Field(min_length=1)
    ipcs: list[int] = Field(min_length=1)
    repeats: int = Field(ge=1)
    draws: int = Field(ge=1)
    recipe: dict[str, Any]
    whole_epochs: int = Field(ge=1)
    budgets: dict[str, dict[str | int, Any]]


def run(values: Mapping[str, Any], out: Path, say: Say) -> dict[str, Any]:
    """Run every cell and write ``table.json`` and ``report.html`` into ``out``.

    Raises:
        ConfigError: a setting of the wrong type, or an unknown method or model.
    """
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(f"bad settings: {describe_validation_error(error)}") from None
    started = time.monotonic()
    train, test = load_pair(settings.data, root=settings.data_root)
    protocol = _protocol(settings, train)
    cells = [(method, ipc) for ipc in settings.ipcs for method in settings.methods]
    for method, ipc in cells:  # refuse a bad setting before the first cell runs
        methods.get(method).configure(train, ipc, settings.seed, _overrides(settings, method, ipc))
    say(f"{train.name}: {len(train)} training and {len(test)} test images; whole data first")
    plain = WHOLE_RECIPE.replace(epochs=settings.whole_epochs)
    whole = evaluate_real(train, test, (settings.model,), 1, plain, settings.seed)
    results: list[tuple[str, int, EvaluationResult, float]] = []
    for number, (method, ipc) in enumerate(cells, 1):
        say(f"[{number}/{len(cells)}] {method}, {ipc} images per class")
        begun = time.monotonic()
        distilled = _distil(settings, method, ipc, train, out / f"{method}-{ipc}")
        seconds = time.monotonic() - begun
        results.append((method, ipc, _evaluate(settings, method, distilled, train, test, protocol), seconds))
    for method, ipc, _, _ in results:
        beside = [(name, result) for name, i, result, _ in results if i == ipc and name != method]
        own = next(result for name, i, result, _ in results if (name, i) == (method, ipc))
        pairs = [(method, own), *beside, ("whole", whole)]
        write_evaluation(out / f"{method}-{ipc}", pairs, _command(settings))
    table = [_row(method, ipc, result, seconds, train) for method, ipc, result, seconds in results]
    table.append(_row("whole", None, whole, 0.0, train))
    shown = [out / f"{m}-{i}" for m, i, _, _ in results]
    order = sorted(shown, key=lambda path: methods.get(path.name.rpartition("-")[0]).is_coreset)
    report = write_report(order, out / "report.html")
    outcome = {"table": table, "report": str(report), "seconds": round(time.monotonic() - started, 1)}
    write_text(out / "table.json", json.dumps(outcome, indent=2) + "\n")
    return outcome


def _protocol(settings: Settings, train: RealData) -> TrainingRecipe:
    options = dict(settings.recipe)
    return recipe(str(options.pop("name", "dsa")), train.name, **options)


def _overrides(settings: Settings, method: str, ipc: int) -> dict[str, Any]:
    budget = settings.budgets.get(method, {})
    common = {str(key): value for key, value in budget.items() if not str(key).isdigit()}
    own = next((value for key, value in budget.items() if str(key) == str(ipc)), {})
    recipe_piece = {"name": "dsa", **settings.recipe}
    return merge({"model": settings.model, "recipe": recipe_piece}, merge(common, own))


def _distil(settings: Settings, method: str, ipc: int, train: RealData, out: Path) -> DistilledDataset:
    distiller = Distiller(
        method, ipc, seed=settings.seed, callbacks=[ImageGrids()], **_overrides(settings, method, ipc)
    )
    return distiller.fit(train, out=out, data_spec=settings.data, command=_command(settings))


def _evaluate(
    settings: Settings,
    method: str,
    distilled: DistilledDataset,
    train: RealData,
    test: RealData,
    protocol: TrainingRecipe,
) -> EvaluationResult:
    if method != "random":
        return evaluate(distilled, test, (settings.model,), settings.repeats, protocol, settings.seed)
    ipc = distilled.ipc or 1
    sets = [
        distilled if draw == 0 else Distiller("random", ipc, seed=settings.seed + draw).fit(train)
        for draw in range(settings.draws)
    ]
    parts = [evaluate(s, test, (settings.model,), 1, protocol, settings.seed + i) for i, s in enumerate(sets)]
    return merge_draws(parts)


def _command(settings: Settings) -> str:
    return f"ddkit recipe run quickstart --set data={settings.data} --set seed={settings.seed}"


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
