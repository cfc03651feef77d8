"""What does recipe ``graph`` tell: tables beside published figures, accuracy against nodes, and how to read them?"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddkit.base.files import write_atomically
from ddkit.evaluation.report.document import Section, write_document
from ddkit.evaluation.statistics import PairedDifference, Summary, paired_difference, summary
from ddkit.integrations.graph.results import GraphEvaluation

#: Sets for which nothing is learned.
BASELINES = ("means", "kmeans", "random", "herding", "kcenter")


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


def published(graph: str) -> dict[tuple[str, int | None], tuple[float, float]]:
    """Return published percentages and standard deviations of a graph by method and nodes (None for the whole)."""
    text = files("ddkit.recipes").joinpath("graph_published.csv").read_text(encoding="utf-8")
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


def difference(cell: Cell, cells: Sequence[Cell]) -> tuple[str, PairedDifference] | None:
    """Return the best baseline's name and the paired difference to it, for sets that were learned."""
    rival = best_baseline(cell, cells)
    if rival is None or cell.method in (*BASELINES, "whole"):
        return None
    return rival.method, paired_difference(cell.accuracies("gcn"), rival.accuracies("gcn"))


def main_rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Return one row a method and size: a GCN, by the rules of the published table."""
    return [_row(cell, cells) for cell in cells if cell.models == ["gcn"]]


def _row(cell: Cell, cells: Sequence[Cell]) -> dict[str, Any]:
    last = summary(cell.accuracies("gcn", last=True))
    told, against = cell.told("gcn"), difference(cell, cells)
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
        "less the best baseline": f"{points(against[1])} ({against[0]})" if against else None,
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
        gcn = [one for one in cells if one.models == ["gcn"] and (one.graph, one.method, one.size) == _key(cell)]
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


def _key(cell: Cell) -> tuple[str, str, float | None]:
    return cell.graph, cell.method, cell.size


def points(found: PairedDifference) -> str:
    """Return a difference of fractions in points with its 95 % interval, which one pair does not have."""
    ends = found.differences.interval95
    text = f"{100 * found.differences.mean:+.1f}"
    return text if ends is None else f"{text} ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})"


def reading(cells: Sequence[Cell]) -> str:
    """Return paragraphs that say what the figures show, where learning loses as well."""
    parts = []
    for graph in dict.fromkeys(cell.graph for cell in cells):
        own = [cell for cell in cells if cell.graph == graph and cell.models == ["gcn"]]
        whole, means = (next(cell for cell in own if cell.method == name) for name in ("whole", "means"))
        parts.append(
            f"{graph}: a GCN trained on the whole graph reaches {whole.told('gcn').percent()} %, one trained on a "
            f"single propagated mean a class ({means.nodes} nodes, nothing learned) {means.told('gcn').percent()} %. "
            f"That row decides: a method that does not beat it has learned nothing of use to a GCN on this graph."
        )
        parts += [_verdict(cell, cells) for cell in own if difference(cell, cells) is not None]
        figures = [row for row in main_rows(own) if row["within one std or better"] is not None]
        if figures:
            missed = [f"{row['set']} at {row['nodes']}" for row in figures if row["within one std or better"] == "no"]
            parts.append(
                f"Of {len(figures)} published figures {len(figures) - len(missed)} are reached within one of their "
                f"standard deviations or surpassed" + (f"; not {', '.join(missed)}." if missed else ".")
            )
    parts.append(
        "Selected accuracies are those of the epoch that is best on the validation nodes of the real graph, as in the "
        "papers; the validation nodes are more labels than the condensed graph holds, so read the last epoch beside "
        "them. The best baseline is picked by test accuracy, which favours it; differences are paired over repetitions "
        "with equal initial weights, and their intervals treat repetitions as independent. Bytes count dense float32 "
        "features: fewer nodes are not always fewer bytes than the sparse original."
    )
    return "\n\n".join(parts)


def _verdict(cell: Cell, cells: Sequence[Cell]) -> str:
    against = difference(cell, cells)
    assert against is not None
    ends = against[1].differences.interval95
    verdict = "cannot be told apart from"
    if ends is not None and ends[0] > 0:
        verdict = "beats"
    elif ends is not None and ends[1] < 0:
        verdict = "loses to"
    return f"{cell.graph}, {cell.nodes} nodes: {cell.method} {verdict} {against[0]}, by {points(against[1])} points."


def write_page(
    out: Path,
    cells: Sequence[Cell],
    families: list[dict[str, Any]] | None,
    settings: dict[str, Any],
    command: str,
    seconds: float,
) -> tuple[list[dict[str, Any]], Path]:
    """Write the figure and the page; return the rows of the main table and the path of the page."""
    table, transfer = main_rows(cells), transfer_rows(cells)
    figure = draw(out / "graph.png", cells)
    lines = "; ".join(f"{name}: {value}" for name, value in settings.items())
    sections = [
        Section(
            "What was done",
            f"Every method condensed every graph {settings['seeds']} times; one GCN was trained on each condensed "
            f"graph and tested on the real one. The whole run took {seconds:.0f} s with PyTorch {torch.__version__}."
            f"\n\n{lines}",
        ),
        Section("Accuracy of a GCN", table=table),
        Section("Accuracy against nodes", figure=figure, caption=_CAPTION),
        Section("How to read this", reading(cells)),
    ]
    for graph in dict.fromkeys(row["graph"] for row in transfer):
        rows = [row for row in transfer if row["graph"] == graph]
        sections.append(Section(f"Other architectures, {graph}", table=rows))
    if families:
        sections.append(Section("Sets of graphs: one condensed graph a class", _FAMILIES, table=families))
    return table, write_document(out / "report.html", f"Condensing graphs: {settings['data']}", sections, command)


_CAPTION = (
    "Test accuracy of a GCN (mean and standard deviation, epoch selected on validation nodes) against the nodes it was "
    "trained on. Dashed: the whole graph. Dotted: one propagated mean a class. Hollow: published figures."
)
_FAMILIES = (
    "Three generated families of random graphs (preferential attachment, small worlds, random cycles) with noisy "
    "degrees as features. DosCond learns features and edges of one graph a class."
)


def draw(path: Path, cells: Sequence[Cell]) -> Path:
    """Draw accuracy against nodes, one panel a graph."""
    graphs = list(dict.fromkeys(cell.graph for cell in cells))
    figure = Figure(figsize=(5.6 * len(graphs), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(graphs), squeeze=False)[0]
    for axes, graph in zip(panels, graphs, strict=True):
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
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))
