"""Recipe ``graph``: condense graphs, train six architectures on them, compare with class means and the papers."""

from __future__ import annotations

import csv
import functools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from pydantic import Field

from ddkit.base.executor import Executor, executor
from ddkit.base.registry import checked_options
from ddkit.base.streams import Streams
from ddkit.errors import ConfigError, unknown_name
from ddkit.evaluation.statistics import Summary, summary
from ddkit.integrations.graph.artifact import coded, load, save
from ddkit.integrations.graph.coded import code_graph
from ddkit.integrations.graph.condenser import GraphCondenser
from ddkit.integrations.graph.evaluation import evaluate, evaluate_whole
from ddkit.integrations.graph.generated import block_model, karate_club, random_families
from ddkit.integrations.graph.graph_evaluation import evaluate_graphs
from ddkit.integrations.graph.judging import Training
from ddkit.integrations.graph.models import MODELS
from ddkit.integrations.graph.planetoid import planetoid
from ddkit.integrations.graph.presets import METHODS
from ddkit.integrations.graph.results import GraphEvaluation
from ddkit.recipes.job import Cells, Frozen, Job, checked
from ddkit.recipes.page import Page, difference, panels

SETS = ("generated", "cora", "citeseer", "pubmed")
#: Sets for which nothing is learned.
BASELINES = ("means", "kmeans", "random", "herding", "kcenter")
#: How the ends of an interval are written.
ENDS = " ({:+.1f} to {:+.1f})"


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
    codec: str | None
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


@dataclass(frozen=True)
class Cell:
    """One method at one size on one graph.

    Args:
        graph: its name.
        method: of condensation, or ``whole``.
        size: a ratio below 1 or nodes per class; None for ``means`` and ``whole``.
        nodes: condensed nodes; 0 for ``whole``.
        results: evaluations; those of condensed sets hold one network of every model each.
        seconds: processor seconds of condensing each set.
    """

    graph: str
    method: str
    size: float | None
    nodes: int
    results: list[GraphEvaluation]
    seconds: list[float]

    @property
    def key(self) -> tuple[str, str, float | None]:
        """Graph, method and size."""
        return self.graph, self.method, self.size

    @property
    def models(self) -> list[str]:
        """Architectures of this cell."""
        return [row.model for row in self.results[0].rows]

    def accuracies(self, model: str, last: bool = False) -> list[float]:
        """Return a fraction per network: of the selected epoch, or of the last one."""
        rows = [result.row(model) for result in self.results]
        return [value for row in rows for value in (row.last if last else row.accuracies)]

    def told(self, model: str) -> Summary:
        """Statistics of :meth:`accuracies`."""
        return summary(self.accuracies(model))


def run(job: Job) -> dict[str, Any]:
    """Condense, train and compare; write ``table.json``, ``table.csv``, ``graph.png`` and ``report.html``."""
    settings = checked(Settings, job.values)
    training = check(settings)
    graphs = graphs_of(settings)
    plans = {name: plan_of(settings, name) for name in graphs}
    families = settings.graphs if settings.data == "generated" else None
    cells = job.cells(sum(len(plan) for plan in plans.values()) + (3 if families else 0))
    found: list[Cell] = []
    with executor(settings.executor) as pool:
        for name, data in graphs.items():
            job.say(f"{name}: {data.num_nodes} nodes, {data.num_edges // 2} edges")
            work = Condensation(settings, training, name, data, job.out / "sets", pool)
            found += cells.map(Cell, work.run, {one.name: one for one in plans[name]})
    family_rows = (
        condense_families(families, settings.seed, settings.codec, job.out / "sets", cells) if families else []
    )
    table, transfer = main_rows(found), transfer_rows(found)
    page = Page(job, f"Condensing graphs: {settings.data}", {"condensed graphs of each kind": settings.seeds})
    page.add("Accuracy of a GCN", table)
    page.draw("Accuracy against nodes", draw(found), "graph.png")
    page.add("Other architectures", transfer)
    page.add("Sets of graphs: one condensed graph a class", family_rows)
    return page.finish(table, settings.model_dump(mode="json"))


def check(settings: Settings) -> Training:
    """Build every piece once, so that a bad setting is refused before the first runs."""
    if settings.data not in SETS:
        raise unknown_name("data of recipe graph", settings.data, SETS)
    if settings.codec is not None:
        code_graph({"x": torch.rand(2, 8), "y": torch.arange(2)}, settings.codec)
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
                condenser_of(settings, name, size, 0)
    for name in settings.transfer.methods:
        if name != "means" and name not in settings.names:
            raise ConfigError(f"transfer.methods names {name}, which methods does not: add it there")
    plan = settings.training.get(settings.kind, {})
    return Training(**checked_options("training", Training, plan))


def condenser_of(settings: Settings, method: str, size: float, number: int) -> GraphCondenser:
    """Return the condenser of one cell; the seed of repetition ``number`` follows from that of the recipe."""
    options = settings.options.get(settings.kind, {}).get(method, {})
    if not size > 0 or not math.isfinite(size):
        raise ConfigError(f"size {size} must be a ratio below 1 or a whole number of nodes per class")
    how: dict[str, Any] = {"nodes_per_class": int(size)} if size >= 1 else {"ratio": size}
    return GraphCondenser(method, seed=1000 * settings.seed + number, **how, **options)


def graphs_of(settings: Settings) -> dict[str, Any]:
    """Return graphs by name."""
    if settings.data == "generated":
        return {"karate": karate_club(settings.seed), "block": block_model(noise=3.0, seed=settings.seed)}
    return {settings.data: planetoid(settings.data, settings.data_root, normalise=True)}  # as every published figure


@dataclass(frozen=True)
class Plan:
    """What a cell is: one kind of set, and the architectures trained on it.

    Args:
        name: of the cell.
        method: of condensation, ``means``, or ``whole`` for the graph itself.
        size: a ratio below 1 or nodes per class; None for ``means`` and ``whole``.
        models: architectures.
        count: repetitions.
    """

    name: str
    method: str
    size: float | None
    models: list[str]
    count: int


def plan_of(settings: Settings, graph: str) -> list[Plan]:
    """Return the cells of a graph: whole, means, then every method at every size; other architectures at the middle."""
    sizes = list(dict.fromkeys(settings.sizes[graph]))
    middle, others = sizes[len(sizes) // 2], [model for model in settings.transfer.models if model != "gcn"]
    kinds = [("whole", None), ("means", None), *((method, size) for size in sizes for method in settings.names)]
    plans, last = list[Plan](), list[Plan]()
    for method, size in kinds:
        name = "-".join([graph, method, *([] if size is None else [f"{size:g}"])])
        plans.append(Plan(name, method, size, ["gcn"], settings.seeds))
        if others and (size is None or (size == middle and method in settings.transfer.methods)):
            count = min(settings.transfer.seeds, settings.seeds)
            (last if method == "whole" else plans).append(Plan(f"{name}-others", method, size, others, count))
    return plans + last


@dataclass(frozen=True)
class Condensation:
    """What condenses one graph into ``folder``, and trains networks on what comes out."""

    settings: Settings
    training: Training
    graph: str
    data: Any
    folder: Path
    pool: Executor

    def run(self, plan: Plan) -> Cell:
        """Train one network of every model on each set; a repetition has the same initial weights in all cells."""
        seed = self.settings.seed
        if plan.method == "whole":
            how = Training(**{**vars(self.training), "epochs": max(50, self.training.epochs // 3)})
            found = evaluate_whole(self.data, plan.models, plan.count, seed=seed, training=how, executor=self.pool)
            return Cell(self.graph, "whole", None, 0, [found], [0.0])
        job = functools.partial(condensed, self.settings, plan.method, plan.size, self.graph, self.data, self.folder)
        sets: list[Any] = [load(path) for path in self.pool.map(job, range(plan.count if plan.size is not None else 1))]
        sets = sets if plan.size is not None else sets * plan.count
        work = functools.partial(judged, self.data, plan.models, seed, self.training)
        results = self.pool.map(work, list(enumerate(sets)))
        seconds = [float(one.provenance["seconds"]) for one in sets]
        return Cell(self.graph, plan.method, plan.size, results[0].nodes, results, seconds)


def condensed(
    settings: Settings, method: str, size: float | None, graph: str, data: Any, folder: Path, number: int
) -> Path:
    """Condense once and keep the result as ``<graph>-<method>-<size>-<number>.safetensors``; what is there is kept."""
    stem = "-".join([graph, method, *([] if size is None else [f"{size:g}"]), str(number)])
    path = folder / f"{stem}.safetensors"
    if not path.is_file():
        condenser = GraphCondenser("means") if size is None else condenser_of(settings, method, size, number)
        save(kept(condenser.condense(data), settings.codec), path)
    return path


def judged(data: Any, models: list[str], seed: int, training: Training, numbered: tuple[int, Any]) -> GraphEvaluation:
    """Train one network of every model on a set and test it on the real graph."""
    number, one = numbered
    return evaluate(one, data, models, 1, seed=1000 * seed + number, training=training, means=False)


@dataclass(frozen=True)
class Family:
    """What a way to condense a set of graphs gave: accuracies of a GCN, one a repetition, and processor seconds."""

    accuracies: list[float]
    graphs: int
    bytes: int
    seconds: float


def kept(made: Any, codec: str | None) -> Any:
    """Return condensed graphs in the bytes of a codec; None leaves them as they are."""
    return made if codec is None else coded(made, codec)


def condense_families(
    settings: FamilySettings, seed: int, codec: str | None, folder: Path, cells: Cells
) -> list[dict[str, Any]]:
    """Return the table of sets of graphs, generated families: random picks beside DosCond, and the whole set."""
    graphs = random_families(settings.per_class, settings.nodes, seed=seed)
    order = torch.randperm(len(graphs), generator=Streams(seed)("families")).tolist()
    half, most = len(order) // 2, len(order) * 2 // 3
    train, val, test = ([graphs[i] for i in part] for part in (order[:half], order[half:most], order[most:]))

    def measured(method: str) -> Family:
        begun, stored, count, found = time.process_time(), 0, 0, list[float]()
        for number in range(settings.seeds):
            made: Any = train
            if method != "whole":
                made = GraphCondenser(method, graphs_per_class=1, seed=1000 * seed + number).condense(train)
                made = kept(made, codec)
                save(made, folder / f"families-{method}-{number}.safetensors")
            result = evaluate_graphs(made, test, seeds=1, val=val, seed=1000 * seed + number)
            found.extend(result.rows[0].accuracies)
            stored, count = result.bytes, len(made)
        return Family(found, count, stored, time.process_time() - begun)

    names = ("random", "doscond", "whole")
    sets: list[Family] = cells.map(Family, measured, {f"families-{name}": name for name in names})
    return [
        {
            "set": name,
            "graphs": one.graphs,
            "GCN, selected %": summary(one.accuracies).percent(),
            "n": len(one.accuracies),
            "less random": difference(one.accuracies, sets[0].accuracies, ENDS) if name == "doscond" else None,
            "bytes": one.bytes,
            "CPU s": round(one.seconds, 1),
        }
        for name, one in zip(names, sets, strict=True)
    ]


def published(graph: str) -> dict[tuple[str, int | None], tuple[float, float]]:
    """Return published percentages and standard deviations of a graph by method and nodes (None for the whole)."""
    text = Path(__file__).with_name("graph_published.csv").read_text(encoding="utf-8")
    return {
        (row["method"], int(row["nodes"]) if row["nodes"] else None): (float(row["accuracy"]), float(row["std"]))
        for row in csv.DictReader(text.splitlines())
        if row["dataset"].lower() == graph
    }


def best_baseline(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """Return the set of at most this size, made without learning, on which a GCN is best on test nodes.

    Test accuracy decides, which favours the baselines: one is picked from several, in hindsight.
    """
    rivals = [
        one
        for one in cells
        if one.graph == cell.graph
        and one.method in BASELINES
        and one.size in (None, cell.size)
        and one.models == ["gcn"]
        and one.method != cell.method
    ]
    return max(rivals, key=lambda one: one.told("gcn").mean, default=None)


def rival_of(cell: Cell, cells: Sequence[Cell]) -> Cell | None:
    """Return the best baseline of a set that was learned."""
    return None if cell.method in (*BASELINES, "whole") else best_baseline(cell, cells)


def main_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return one row a method and size: a GCN, by the rules of the published table."""
    return [row_of(cell, cells) for cell in cells if cell.models == ["gcn"]]


def row_of(cell: Cell, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the row of a set, with the difference to the best baseline and what was published."""
    last = summary(cell.accuracies("gcn", last=True))
    told, rival = cell.told("gcn"), rival_of(cell, cells)
    against = None
    if rival is not None:
        against = f"{difference(cell.accuracies('gcn'), rival.accuracies('gcn'), ENDS)} ({rival.method})"
    figure = published(cell.graph).get((cell.method, cell.nodes or None))
    reached = None
    if figure is not None:
        reached = "yes" if 100 * told.mean >= figure[0] - figure[1] else "no"
    return {
        "graph": cell.graph,
        "set": cell.method,
        "nodes": cell.results[0].nodes,
        "edges": cell.results[0].edges // 2,
        "GCN, selected %": told.percent(),
        "last epoch %": last.percent(),
        "n": told.count,
        "less the best baseline": against,
        "published %": f"{figure[0]:.1f} ± {figure[1]:.1f}" if figure else None,
        "within one std or better": reached,
        "bytes": cell.results[0].bytes,
        "condense CPU s": round(sum(cell.seconds) / len(cell.seconds), 2),
        "train CPU s": round(sum(r.row("gcn").seconds for r in cell.results) / told.count, 1),
    }


def transfer_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return one row a set with a column an architecture; the last one is the mean over GCN, SGC, APPNP and GAT."""
    found: dict[tuple[str, str], dict[str, Summary]] = {}
    nodes = {}
    others = [cell for cell in cells if cell.models != ["gcn"]]
    for cell in others:
        own = found.setdefault((cell.graph, cell.method), {})
        nodes[cell.graph, cell.method] = cell.results[0].nodes
        gcn = [one for one in cells if one.models == ["gcn"] and one.key == cell.key]
        for one in [*gcn, cell]:
            own.update({model: one.told(model) for model in one.models})
    rows = []
    for (graph, method), own in found.items():
        core = [own[model].mean for model in ("gcn", "sgc", "appnp", "gat") if model in own]
        rows.append(
            {
                "graph": graph,
                "set": method,
                "nodes": nodes[graph, method],
                **{f"{model} %": told.percent() for model, told in own.items()},
                "mean of GCN, SGC, APPNP, GAT": round(100 * sum(core) / len(core), 1) if len(core) == 4 else None,
            }
        )
    return rows


def draw(cells: Sequence[Cell]) -> Figure:
    """Draw accuracy against nodes, one panel a graph."""
    graphs = list(dict.fromkeys(cell.graph for cell in cells))
    figure, row = panels(len(graphs))
    for axes, graph in zip(row, graphs, strict=True):
        own = [cell for cell in cells if cell.graph == graph and cell.models == ["gcn"]]
        figures = published(graph)
        for cell in own:
            if cell.method in ("whole", "means"):
                style = "--" if cell.method == "whole" else ":"
                axes.axhline(100 * cell.told("gcn").mean, color="#5d6570", ls=style, lw=1, label=cell.method)
        for method in dict.fromkeys(cell.method for cell in own if cell.size is not None):
            mine = [cell for cell in own if cell.method == method]
            told = [cell.told("gcn") for cell in mine]
            drawn = axes.errorbar(
                [cell.nodes for cell in mine],
                [100 * one.mean for one in told],
                yerr=[100 * one.std for one in told],
                marker="o",
                ms=4,
                lw=1.2,
                label=method,
            )
            points = [(nodes, value) for (name, nodes), (value, _) in figures.items() if name == method and nodes]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", mfc="none", ls="none", color=drawn[0].get_color())
        axes.set_title(graph)
        axes.set_xlabel("condensed nodes")
        axes.set_ylabel("test accuracy of a GCN, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    return figure
