"""Recipe ``private``: distil under differential privacy, audit it, and set it beside classifiers trained by DP-SGD."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ddkit.base.executor import executor
from ddkit.base.files import write_text
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.integrations.private.audit import audit_mechanism, audit_membership, require_audit
from ddkit.integrations.private.data import public_counts
from ddkit.integrations.private.methods import METHODS
from ddkit.models.spec import ModelSpec
from ddkit.recipes.private_cells import BASELINES, Cell, Outcome, measure
from ddkit.recipes.private_report import write_page
from ddkit.recipes.settings import Frozen, Say, checked, of_data_set

Epsilon = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EvaluationSettings(Frozen):
    """How networks are trained on a released set."""

    protocol: Literal["plain", "dsa"]
    model: str
    networks: int = Field(ge=1)
    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)


class LinearSettings(Frozen):
    """DP-SGD on random features."""

    steps: int = Field(ge=1)
    filters: int = Field(ge=1)
    lr: float = Field(gt=0)
    batch: int = Field(ge=1)


class NetworkSettings(Frozen):
    """DP-SGD on a network, by Opacus."""

    model: str
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)


class GeneratorSettings(Frozen):
    """DP-MERF."""

    per_class: int = Field(ge=1)
    steps: int = Field(ge=1)


class AuditSettings(Frozen):
    """Canaries and membership inference."""

    trials: int = Field(ge=0)
    epsilon: Epsilon
    runs: int = Field(ge=0)
    membership_epsilon: Epsilon


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    seeds: int = Field(ge=1)
    epsilons: list[Epsilon] = Field(min_length=1)
    delta: float = Field(gt=0, lt=1)
    accountant: Literal["prv", "rdp"]
    ipc: int = Field(ge=1)
    methods: list[str] = Field(min_length=1)
    baselines: list[str]
    networks: int = Field(ge=1)
    label_counts: list[int] | Literal["private"] | None
    model: str
    steps: dict[str, int]
    evaluation: EvaluationSettings
    linear: LinearSettings
    cnn: NetworkSettings
    merf: GeneratorSettings
    audit: AuditSettings
    executor: Literal["local", "ray"]


def run(values: Mapping[str, Any], out: Path, say: Say, command: str) -> dict[str, Any]:
    """Measure every method and baseline, audit, and write ``table.json``, ``private.png`` and ``report.html``.

    Args:
        values: the settings.
        out: folder for sets, table and report.
        say: called with a line of text at every stage.
        command: what the user typed.

    Raises:
        ConfigError: a setting of the wrong type, an unknown method or a delta that promises nothing; nothing was
            written.
    """
    settings = checked(Settings, of_data_set(values))
    started = time.monotonic()
    train, test = load_pair(settings.data, root=settings.data_root)
    cells = _cells(settings, train)
    say(f"{train.name}: {len(train)} training images, {len(cells)} rows of {settings.seeds} seeds")
    outcomes: list[tuple[Cell, list[Outcome]]] = []
    with executor(settings.executor) as pool:
        for number, cell in enumerate(cells, 1):
            say(f"[{number}/{len(cells)}] {cell.title}")
            work = partial(measure, cell, settings.model_dump(), train, test, out / "sets")
            outcomes.append((cell, pool.map(work, range(settings.seed, settings.seed + settings.seeds))))
    audit = _audit(settings, train, say)
    seconds = round(time.monotonic() - started, 1)
    table, report = write_page(out, outcomes, audit, train, settings.model_dump(mode="json"), command, seconds)
    outcome = {"table": table, "audit": audit, "report": str(report), "seconds": seconds}
    write_text(out / "table.json", json.dumps(outcome, indent=2) + "\n")
    return outcome


def _cells(settings: Settings, train: RealData) -> list[Cell]:
    """Check names, models, sizes and delta before anything is computed; return the rows in the order of the table."""
    require_audit(settings.audit.trials, settings.audit.runs)
    for name in settings.methods:
        if name not in METHODS:
            raise unknown_name("private method", name, METHODS)
    for name in settings.baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    for name in settings.steps:
        if name not in (*METHODS, "dm"):
            raise unknown_name("method with steps", name, (*METHODS, "dm"))
    if settings.delta >= 1 / len(train):
        raise ConfigError(
            f"delta={settings.delta:g} is not below 1/N={1 / len(train):.3g} for {len(train)} training images, so it "
            f"promises nothing: lower it, for instance to {min(1e-5, 0.1 / len(train)):.3g}"
        )
    if settings.label_counts != "private":
        public_counts(len(train), train.num_classes, settings.label_counts)
    for model in (settings.model, settings.evaluation.model, settings.cnn.model):
        ModelSpec.parse(model).build(train.shape, train.num_classes, 0)
    epsilons = sorted(dict.fromkeys(settings.epsilons))
    private = [name for name in dict.fromkeys((*settings.methods, *settings.baselines)) if name != "dm"]
    cells = [Cell(name, epsilon) for epsilon in epsilons for name in private]
    return [*cells, Cell("dm", None)] if "dm" in settings.baselines else cells


def _audit(settings: Settings, train: RealData, say: Say) -> list[dict[str, Any]]:
    method, chosen = settings.methods[0], settings.audit
    rows = []
    if chosen.trials:
        say(f"canary audit of {method} at epsilon {chosen.epsilon:g}, and of three mistakes")
        rows += audit_mechanism(method, chosen.epsilon, settings.delta, chosen.trials, settings.seed)
    if chosen.runs:
        say(f"membership inference on {2 * chosen.runs} sets")
        options: dict[str, Any] = {"steps": min(150, settings.steps.get(method, 150)), "model": settings.model}
        options["accountant"] = settings.accountant
        rows += audit_membership(
            method,
            train,
            chosen.membership_epsilon,
            settings.delta,
            runs=chosen.runs,
            ipc=settings.ipc,
            seed=settings.seed,
            private=options,
        )
    return [row.as_dict() for row in rows]
