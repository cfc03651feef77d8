"""How does recipe ``graph`` condense sets of graphs: generated families, random picks beside DosCond?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from ddkit.base.streams import Streams
from ddkit.evaluation.statistics import paired_difference, summary
from ddkit.integrations.graph.artifact import save
from ddkit.integrations.graph.condenser import GraphCondenser
from ddkit.integrations.graph.generated import random_families
from ddkit.integrations.graph.graph_evaluation import evaluate_graphs
from ddkit.recipes.graph_report import points


def condense_families(settings: dict[str, int], seed: int, out: Path) -> list[dict[str, Any]]:
    """Return the rows of the table of sets of graphs.

    Args:
        settings: ``per_class``, ``nodes`` and ``seeds``.
        seed: of the recipe.
        out: folder for the condensed sets.
    """
    graphs = random_families(settings["per_class"], settings["nodes"], seed=seed)
    order = torch.randperm(len(graphs), generator=Streams(seed)("families")).tolist()
    half, most = len(order) // 2, len(order) * 2 // 3
    train, val, test = ([graphs[i] for i in part] for part in (order[:half], order[half:most], order[most:]))
    found: dict[str, list[float]] = {}
    rows = []
    for method in ("random", "doscond", "whole"):
        begun, stored, count = time.process_time(), 0, 0
        found[method] = []
        for number in range(settings["seeds"]):
            made: Any = train
            if method != "whole":
                made = GraphCondenser(method, graphs_per_class=1, seed=1000 * seed + number).condense(train)
                save(made, out / "sets" / f"families-{method}-{number}.safetensors")
            result = evaluate_graphs(made, test, seeds=1, val=val, seed=1000 * seed + number)
            found[method].extend(result.rows[0].accuracies)
            stored, count = result.bytes, len(made)
        told = summary(found[method])
        against = points(paired_difference(found[method], found["random"])) if method == "doscond" else None
        rows.append(
            {
                "set": method,
                "graphs": count,
                "GCN, selected %": told.percent(),
                "n": told.count,
                "less random": against,
                "bytes": stored,
                "CPU s": round(time.process_time() - begun, 1),
            }
        )
    return rows
