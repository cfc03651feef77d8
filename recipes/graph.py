"""Recipe ``graph``: condense graphs, train six architectures on them, compare with class means and the papers."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ddkit.base.executor import Executor, executor
from ddkit.base.files import write_text
from ddkit.base.registry import checked_options
from ddkit.errors import ConfigError, unknown_name
from ddkit.integrations.graph.artifact import load, save
from ddkit.integrations.graph.condenser import GraphCondenser
from ddkit.integrations.graph.evaluation import evaluate, evaluate_whole
from ddkit.integrations.graph.generated import block_model, karate_club
from ddkit.integrations.graph.judging import Training
from ddkit.integrations.graph.models import MODELS
from ddkit.integrations.graph.planetoid import planetoid
from ddkit.integrations.graph.presets import METHODS
from ddkit.integrations.graph.results import GraphEvaluation
from ddkit.recipes.graph_families import condense_families
from ddkit.recipes.graph_report import Cell, write_page
from ddkit.recipes.settings import Frozen, Say, checked

_SETS = ("generated", "cora", "citeseer", "pubmed")


class TransferSettings(Frozen):
    """Which sets are trained on with which architectures."""

    methods: list[str]
    seeds: int = Field(ge=1)
    models: list[str]


class FamilySettings(Frozen):
    """Graphs to condense as a set."""

    per_class: int = Field(ge=10)
    nodes: int = Field(ge=8)
    seeds: int = Field(ge=1)


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    methods: list[str]
    gcond: bool
    seeds: int = Field(ge=1)
    sizes: dict[str, list[float]]
    transfer: TransferSettings
    training: dict[Literal["generated", "planetoid"], dict[str, Any]]
    options: dict[Literal["generated", "planetoid"], dict[str, dict[str, Any]]]
    graphs: FamilySettings | None
    executor: Literal["local", "ray"]

    @property
    def kind(self) -> Literal["generated", "planetoid"]:
        """Whose training and options apply."""
        return "generated" if self.data == "generated" else "planetoid"

    @property
    def names(self) -> list[str]:
        """Methods that are run, without repeats: means first, which needs no size."""
        asked = [*self.methods, *(["gcond"] if self.gcond else [])]
        return [name for name in dict.fromkeys(asked) if name != "means"]


def run(values: Mapping[str, Any], out: Path, say: Say, command: str) -> dict[str, Any]:
    """Condense, train and compare; write ``table.json``, ``graph.png`` and ``report.html``.

    Args:
        values: the settings.
        out: folder for condensed graphs, table and report.
        say: called with a line of text at every stage.
        command: what the user typed.

    Raises:
        ConfigError: a setting of the wrong type, or an unknown method, model or option; nothing was written.
        DataError: the graph is not there.
    """
    settings = checked(Settings, values)
    started = time.monotonic()
    training = _check(settings)
    graphs = _graphs(settings)
    cells: list[Cell] = []
    with executor(settings.executor) as pool:
        for name, data in graphs.items():
            cells += _of_graph(settings, name, data, training, out, pool, say)
        families = None
        if settings.graphs is not None and settings.data == "generated":
            say("sets of graphs: random and doscond, one a class")
            families = condense_families(settings.graphs.model_dump(), settings.seed, out)
    seconds = round(time.monotonic() - started, 1)
    table, report = write_page(out, cells, families, settings.model_dump(mode="json"), command, seconds)
    outcome = {"table": table, "report": str(report), "seconds": seconds}
    write_text(out / "table.json", json.dumps(outcome, indent=2) + "\n")
    return outcome


def _check(settings: Settings) -> Training:
    """Build every piece once, so that a bad setting is refused before the first runs."""
    if settings.data not in _SETS:
        raise unknown_name("data of recipe graph", settings.data, _SETS)
    for name in settings.transfer.models:
        if name not in MODELS:
            raise unknown_name("model", name, MODELS)
    for name in settings.options.get(settings.kind, {}):
        if name not in METHODS:
            raise unknown_name("method in options", name, METHODS)
    wanted = ("karate", "block") if settings.data == "generated" else (settings.data,)
    for graph in wanted:
        if not settings.sizes.get(graph):
            raise ConfigError(f"sizes.{graph} is empty: give at least one ratio or number of nodes per class")
        for size in settings.sizes[graph]:
            for name in settings.names:
                _condenser(settings, name, size, 0)
    for name in settings.transfer.methods:
        if name != "means" and name not in settings.names:
            raise ConfigError(f"transfer.methods names {name}, which methods does not: add it there")
    plan = settings.training.get(settings.kind, {})
    return Training(**checked_options("training", Training, plan))


def _condenser(settings: Settings, method: str, size: float, number: int) -> GraphCondenser:
    """Return the condenser of one cell; the seed of repetition ``number`` follows from that of the recipe."""
    options = settings.options.get(settings.kind, {}).get(method, {})
    if not size > 0 or not math.isfinite(size):
        raise ConfigError(f"size {size} must be a ratio below 1 or a whole number of nodes per class")
    how: dict[str, Any] = {"nodes_per_class": int(size)} if size >= 1 else {"ratio": size}
    return GraphCondenser(method, seed=1000 * settings.seed + number, **how, **options)


def _graphs(settings: Settings) -> dict[str, Any]:
    if settings.data == "generated":
        return {"karate": karate_club(settings.seed), "block": block_model(noise=3.0, seed=settings.seed)}
    return {settings.data: planetoid(settings.data, settings.data_root, normalise=True)}  # as every published figure


def _of_graph(
    settings: Settings, name: str, data: Any, training: Training, out: Path, pool: Executor, say: Say
) -> Iterator[Cell]:
    """Yield the cells of one graph: whole, means, then every method at every size, then other architectures."""
    sizes = list(dict.fromkeys(settings.sizes[name]))
    others = [model for model in settings.transfer.models if model != "gcn"]
    count = min(settings.transfer.seeds, settings.seeds)
    say(f"{name}: {data.num_nodes} nodes, {data.num_edges // 2} edges; the whole graph and class means")
    short = Training(**{**vars(training), "epochs": max(50, training.epochs // 3)})
    run = functools.partial(evaluate_whole, data, seed=settings.seed, training=short, executor=pool)
    yield Cell(name, "whole", None, 0, [run(models=["gcn"], seeds=settings.seeds)], [0.0])
    middle = sizes[len(sizes) // 2]
    for method, size in [("means", None), *((m, s) for s in sizes for m in settings.names)]:
        say(f"{name}: {method}" + (f", {size:g}" if size else ""))
        job = functools.partial(_condensed, settings, method, size, name, data, out)
        paths = pool.map(job, range(settings.seeds if method != "means" else 1))
        sets = [load(path) for path in paths]
        sets = sets * settings.seeds if method == "means" else sets
        yield _cell(name, method, size, sets, data, ["gcn"], settings, training, pool)
        if others and (method == "means" or (size == middle and method in settings.transfer.methods)):
            yield _cell(name, method, size, sets[:count], data, others, settings, training, pool)
    if others:
        yield Cell(name, "whole", None, 0, [run(models=others, seeds=count)], [0.0])


def _condensed(
    settings: Settings, method: str, size: float | None, name: str, data: Any, out: Path, number: int
) -> Path:
    """Condense once and keep the result as ``out/sets/<graph>-<method>-<size>-<number>.safetensors``."""
    condenser = GraphCondenser("means") if size is None else _condenser(settings, method, size, number)
    stem = "-".join([name, method, *([] if size is None else [f"{size:g}"]), str(number)])
    return save(condenser.condense(data), out / "sets" / f"{stem}.safetensors")


def _cell(
    name: str,
    method: str,
    size: float | None,
    sets: list[Any],
    data: Any,
    models: list[str],
    settings: Settings,
    training: Training,
    pool: Executor,
) -> Cell:
    """Train one network of every model on each set, the same initial weights for the same repetition of every cell."""
    job = functools.partial(_judged, data, models, settings.seed, training)
    results: list[GraphEvaluation] = pool.map(job, list(enumerate(sets)))
    seconds = [float(one.provenance["seconds"]) for one in sets]
    return Cell(name, method, size, results[0].nodes, results, seconds)


def _judged(data: Any, models: list[str], seed: int, training: Training, numbered: tuple[int, Any]) -> GraphEvaluation:
    number, condensed = numbered
    return evaluate(condensed, data, models, 1, seed=1000 * seed + number, training=training, means=False)
