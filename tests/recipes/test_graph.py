"""Does the recipe ``graph`` run from end to end, refuse bad settings first, and say what the figures show?"""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch_geometric")

from ddkit import recipes
from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.integrations.graph import METHODS, GraphEvaluation, ModelResult, load
from ddkit.recipes import graph as recipe
from ddkit.recipes.graph import Cell, best_baseline, main_rows, published, rival_of
from ddkit.recipes.job import Job

TINY: dict[str, Any] = {
    "methods": ["kmeans", "doscond"],
    "seeds": 2,
    "sizes": {"karate": [1], "block": [0.02]},
    "transfer": {"methods": ["doscond"], "seeds": 1, "models": ["gcn", "sgc", "appnp", "gat"]},
    "training": {"generated": {"epochs": 10, "hidden": 8}},
    "options": {"generated": {"doscond": {"restarts": 3}, "gcond": {"restarts": 2, "outer_steps": 2}}},
    "graphs": {"per_class": 10, "nodes": 8, "seeds": 1},
}


def test_the_recipe_condenses_trains_and_reports(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = recipes.load("graph").run({**TINY, "gcond": True}, tmp_path / "out", said.append, command="as typed")
    rows = [(row["graph"], row["set"], row["nodes"]) for row in outcome["table"]]
    assert rows == [
        ("karate", "whole", 34),
        ("karate", "means", 4),
        ("karate", "kmeans", 4),
        ("karate", "doscond", 4),
        ("karate", "gcond", 4),
        ("block", "whole", 400),
        ("block", "means", 4),
        ("block", "kmeans", 8),
        ("block", "doscond", 8),
        ("block", "gcond", 8),
    ]
    assert all(row["n"] == 2 for row in outcome["table"])
    assert "(means)" in outcome["table"][3]["less the best baseline"] or "(kmeans)" in str(outcome["table"][3])
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == outcome
    page = Path(outcome["report"]).read_text()
    assert page.count("data:image/png;base64") == 1 and "as typed" in page and "Sets of graphs" in page
    assert (tmp_path / "out" / "graph.png").stat().st_size > 1000
    stored = load(tmp_path / "out" / "sets" / "block-doscond-0.02-1.safetensors")
    assert stored.provenance["seed"] == 1 and stored.num_nodes == 8
    assert "block-gcond-0.02: 15 of 19 cells" in said
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("cells/*")}
    again = recipes.load("graph").run({**TINY, "gcond": True}, tmp_path / "out", resume=True)
    assert again["table"] == outcome["table"] and len(kept) == 19
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_the_same_settings_give_the_same_accuracies(tmp_path: Path) -> None:
    small = {**TINY, "sizes": {"karate": [1], "block": [1]}, "graphs": None, "methods": ["doscond"], "seeds": 1}
    tables = []
    for name in ("first", "second"):
        table = recipes.load("graph").run(small, tmp_path / name)["table"]
        tables.append([(row["set"], row["GCN, selected %"], row["last epoch %"]) for row in table])
    assert tables[0] == tables[1]


def test_in_a_codec_all_condensed_graphs_are_what_decodes_in_its_bytes(tmp_path: Path) -> None:
    small = {**TINY, "sizes": {"karate": [1], "block": [1]}, "methods": ["kmeans"], "seeds": 1}
    small |= {"transfer": {"methods": [], "seeds": 1, "models": ["gcn"]}}
    plain = recipes.load("graph").run(small, tmp_path / "plain")["table"]
    table = recipes.load("graph").run({**small, "codec": "float16"}, tmp_path / "coded")["table"]
    for before, after in zip(plain, table, strict=True):
        assert after["bytes"] == before["bytes"] if after["set"] == "whole" else after["bytes"] < before["bytes"]
    for path in (tmp_path / "coded" / "sets").iterdir():
        held = load(path)
        assert (held[0] if isinstance(held, list) else held).coding.codec == "float16"


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"codec": "uniform:bits=9"}, ConfigError, r"codec.bits=9 must lie in \[1, 8\]"),
        ({"codec": "palette"}, ConfigError, "palette is for images"),
        ({"data": "corra"}, UnknownNameError, "did you mean 'cora'"),
        ({"methods": ["gcon"]}, UnknownNameError, "did you mean 'gcond'"),
        ({"transfer": {"methods": ["gcdm"], "seeds": 1, "models": ["gcn"]}}, ConfigError, "add it there"),
        ({"transfer": {"methods": [], "seeds": 1, "models": ["gnc"]}}, UnknownNameError, "unknown model 'gnc'"),
        ({"sizes": {"karate": [1]}}, ConfigError, "sizes.block is empty"),
        ({"sizes": {"karate": [-1], "block": [1]}}, ConfigError, "size -1"),
        ({"training": {"generated": {"epoch": 1}}}, UnknownNameError, "did you mean 'epochs'"),
        ({"training": {"generated": {"epochs": "many"}}}, ConfigError, "epochs='many'"),
        ({"training": {"generated": {"epochs": 0}}}, ConfigError, "epochs=0"),
        ({"options": {"generated": {"doscond": {"restart": 1}}}}, UnknownNameError, "did you mean 'restarts'"),
        ({"options": {"generated": {"dosscond": {}}}}, UnknownNameError, "did you mean 'doscond'"),
        ({"options": {"cora": {}}}, ConfigError, "bad settings"),
        ({"seeds": 0}, ConfigError, "seeds=0"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    values = {**recipes.load("graph").settings, **TINY, **changes}
    with pytest.raises(kind, match=message):
        recipe.run(Job("graph", values, {}, tmp_path / "out", print, ""))
    assert not (tmp_path / "out").exists()


def test_missing_data_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ind\.cora\.x"):
        recipes.load("graph").run({"data": "cora", "data_root": str(tmp_path)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def result(values: list[float], method: str, nodes: int) -> list[GraphEvaluation]:
    return [
        GraphEvaluation(method, (ModelResult("gcn", (v,), (v,), (0,), 1.0, "none"),), None, nodes, 0, 100)
        for v in values
    ]


def cell(method: str, values: list[float], size: float | None = None, nodes: int = 70, graph: str = "cora") -> Cell:
    return Cell(graph, method, size, nodes, result(values, method, nodes or 2708), [0.5])


def test_learned_sets_are_paired_with_the_best_baseline_of_their_size() -> None:
    cells = [
        cell("whole", [0.82, 0.82], nodes=0),
        cell("means", [0.80, 0.81], nodes=7),
        cell("random", [0.70, 0.72], 0.026),
        cell("kmeans", [0.90, 0.90], 0.052, 140),
        cell("gcond-x", [0.81, 0.83], 0.026),
    ]
    rival = best_baseline(cells[4], cells)
    assert rival is not None and rival.method == "means"
    assert rival_of(cells[2], cells) is None
    row = main_rows(cells)[4]
    assert row["less the best baseline"] == "+1.5 (-4.9 to +7.9) (means)"
    assert row["published %"] == "75.7 ± 0.9" and row["within one std or better"] == "yes"
    assert main_rows(cells)[2]["within one std or better"] == "no"


def test_published_figures_are_percentages_of_known_methods() -> None:
    for graph, count in (("cora", 16), ("citeseer", 16), ("block", 0)):
        table = published(graph)
        assert len(table) == count
        assert all(30 < value < 90 and 0 < std < 6 and math.isfinite(value) for value, std in table.values())
        assert {name for name, _ in table} <= {*METHODS, "whole"}


def test_published_figures_name_the_table_they_were_checked_against() -> None:
    text = (recipes.FOLDER / "graph_published.csv").read_text(encoding="utf-8")
    for row in csv.DictReader(text.splitlines()):
        assert ("2402.04924" in row["source"]) == (row["method"] != "gcond-x")
        assert "2110.07580" in row["source"]
