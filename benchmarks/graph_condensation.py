"""Settings of gradient matching on graphs, and what they reach on graphs that did not choose them.

    DDKIT_DATA=... python benchmarks/graph_condensation.py choose --out benchmarks/results/recipes/graph-settings.json
    python benchmarks/graph_condensation.py measure --out benchmarks/results/recipes/graph-held-out.json

``choose`` looks at no test node: half of the validation nodes of Cora and of three generated graphs select the epoch of
a GCN, the other half score it. ``measure`` takes two generated graphs of other sizes and vocabularies, whose test nodes
are used here only, and those of Cora: five condensed graphs each, beside the whole graph, class means, random nodes,
k-means centres and the settings of ``gcond`` and ``gcond-x`` before. Features are bags of words as they are, or with
rows that sum to 1.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import Data

from ddkit.base.files import write_text
from ddkit.engine import environment
from ddkit.evaluation.statistics import summary
from ddkit.integrations.graph import GraphCondenser, Training, citation_model, evaluate, evaluate_whole, planetoid

CHOOSING: dict[str, Callable[[], Data]] = {
    "words-3700": partial(citation_model, nodes=3300, features=3700, words=32, topical=0.33, degree=2.8, seed=1),
    "counts-500": partial(
        citation_model,
        nodes=4000,
        classes=3,
        features=500,
        words=50,
        repeated=True,
        topical=0.1,
        degree=4.5,
        homophily=0.8,
        seed=2,
    ),
    "words-2000": partial(citation_model, nodes=2500, classes=4, words=60, topical=0.15, homophily=0.7, seed=4),
}
CHOSEN_ON = [("cora", True), ("words-3700", True), ("words-3700", False), ("counts-500", False), ("words-2000", True)]
HELD_OUT: dict[str, Callable[[], Data]] = {
    "words-3000": partial(citation_model, classes=5, features=3000, words=25, degree=3.2, homophily=0.78, seed=101),
    "counts-800": partial(
        citation_model,
        nodes=2500,
        classes=7,
        features=800,
        words=60,
        repeated=True,
        topical=0.15,
        degree=5.0,
        homophily=0.72,
        seed=102,
    ),
}
BEFORE: dict[str, dict[str, Any]] = {
    "gcond": {"lr": 0.1, "row_sum": None, "weights": "glorot", "keep_moments": True},
    "gcond-x": {"row_sum": None},
}
#: Changes of ``gcond`` from its present settings, each one alone but for those of before.
SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "before": BEFORE["gcond"],
    "lr=0.1": {"lr": 0.1},
    "lr=0.03": {"lr": 0.03},
    "features as they are": {"row_sum": None},
    "row_sum=4": {"row_sum": 4.0},
    "Glorot weights": {"weights": "glorot"},
    "kept moments": {"keep_moments": True},
}
#: Rows of ``measure`` as method and changes of its settings, and what is run in turn on every graph.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("means", "random", "kmeans", "doscond", "gcond-x", "gcond")},
    **{f"before: {name}": (name, changes) for name, changes in BEFORE.items()},
}
TURNS: list[tuple[bool, tuple[str, ...]]] = [
    (True, ("means", "random", "kmeans", "gcond", "whole")),
    (True, ("before: gcond",)),
    (False, ("means", "random", "kmeans", "gcond", "before: gcond", "whole")),
    (True, ("doscond", "gcond-x", "before: gcond-x")),
    (False, ("doscond", "gcond-x", "before: gcond-x")),
]
PER_CLASS = 5


def graph(name: str, normalised: bool) -> Data:
    """Return a graph by name, its features as they are or with rows that sum to 1."""
    if name == "cora":
        return planetoid("cora", normalise=normalised)
    data = (CHOOSING | HELD_OUT)[name]()
    if normalised:
        data.x = data.x / data.x.sum(1, keepdim=True)
    return data


def without_test(data: Data) -> Data:
    """Return the graph with half of its validation nodes in place of the test nodes."""
    nodes = data.val_mask.nonzero().flatten()
    for mask, own in (("val_mask", nodes[1::2]), ("test_mask", nodes[::2])):
        data[mask] = torch.zeros(len(data.y), dtype=torch.bool)
        data[mask][own] = True
    return data


def row(
    graph_name: str, normalised: bool, method: str, graphs: list[Data], data: Data, plan: Training
) -> dict[str, Any]:
    """Train one GCN on every condensed graph and tell how it did; None in place of graphs is the whole one."""
    found = [evaluate(own, data, ["gcn"], 1, seed=n, training=plan, means=False) for n, own in enumerate(graphs)]
    told = [own.provenance for own in graphs]
    return {
        **head(graph_name, normalised, method, found),
        "condense s": round(statistics.mean(one["seconds"] for one in told), 1),
        "moved": round(statistics.mean(one["moved"] for one in told), 2) if "moved" in told[0] else None,
    }


def head(graph_name: str, normalised: bool, method: str, found: list[Any]) -> dict[str, Any]:
    """Return the columns that every row has."""
    selected, last = ([value for one in found for value in getattr(one.rows[0], part)] for part in ("selected", "last"))
    return {
        "graph": graph_name,
        "features": "rows of sum 1" if normalised else "counts",
        "method": method,
        "nodes": found[0].nodes,
        "selected %": summary(selected).percent(),
        "last epoch %": summary(last).percent(),
        "bytes": round(statistics.mean(one.bytes for one in found)),
        "selected": [round(value, 4) for value in selected],
        "last": [round(value, 4) for value in last],
    }


def condensed(data: Data, method: str, changes: dict[str, Any], count: int) -> list[Data]:
    """Condense ``count`` times from different seeds."""
    size: dict[str, Any] = {} if method == "means" else {"nodes_per_class": PER_CLASS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bytes, and of settings that are here to fail
        return [GraphCondenser(method, seed=seed, **size, **changes).condense(data) for seed in range(count)]


def choose() -> Iterator[dict[str, Any]]:
    """Yield rows of settings, scored on validation nodes."""
    plan = Training(epochs=300, validate_every=10)
    for name, normalised in CHOSEN_ON:
        data = without_test(graph(name, normalised))
        tell = partial(row, name, normalised, data=data, plan=plan)
        yield tell("means", condensed(data, "means", {}, 1) * 2)
        for setting, changes in SETTINGS.items():
            yield tell(setting, condensed(data, "gcond", changes, 2))
        for method in ("gcond-x", "doscond"):
            yield tell(method, condensed(data, method, {}, 2))
            yield tell(f"{method}, features as they are", condensed(data, method, {"row_sum": None}, 2))


def measure(names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield rows of methods on test nodes: of graphs that chose nothing, and of Cora."""
    plan = Training(validate_every=20)
    for (normalised, told), name in ((turn, name) for turn in TURNS for name in names):
        data = graph(name, normalised)
        for method in told:
            if method == "whole":
                short = Training(epochs=200, validate_every=20)
                whole = [evaluate_whole(data, ["gcn"], 1, seed=n, training=short) for n in range(5)]
                yield {**head(name, normalised, method, whole), "condense s": 0.0, "moved": None}
                continue
            own, changes = METHODS[method]
            graphs = condensed(data, own, changes, 1 if own == "means" else 5)
            yield row(name, normalised, method, graphs * (5 if own == "means" else 1), data, plan)


def main() -> None:
    """Run what was asked for; the table grows in the file after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["choose", "measure"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--graphs", nargs="+", choices=[*HELD_OUT, "cora"], default=[*HELD_OUT, "cora"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    begun, table = time.process_time(), []
    for one in choose() if given.what == "choose" else measure(given.graphs):
        table.append(one)
        table.sort(key=lambda own: (own["graph"], own["features"]))
        print(one["graph"], one["features"], one["method"], one["selected %"], one["last epoch %"], flush=True)
        content = {
            "command": " ".join(["python benchmarks/graph_condensation.py", *sys.argv[1:]]),
            "seconds": round(time.process_time() - begun, 1),
            "table": table,
            **environment("cpu"),
        }
        write_text(given.out, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
