"""Does recipe ``private`` distil, compare, audit and report on a small scale, and refuse mistakes before it writes?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ddkit import Distiller, recipes
from ddkit.base.config import merge
from ddkit.data import load_pair
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError
from ddkit.recipes.private import accuracy_of, equally_long
from ddkit.training import TrainingRecipe, train_networks

TINY: dict[str, Any] = {
    "seeds": 2,
    "epsilons": [8],
    "accountant": "rdp",
    "ipc": 1,
    "methods": ["dp-dm", "dp-kip"],
    "networks": 2,
    "model": "convnet:width=4,depth=1",
    "steps": {"dp-dm": 3, "dp-dm-iterated": 2, "psg": 2, "dp-kip": 2, "dm": 2},
    "evaluation": {"protocol": "plain", "model": "convnet:width=4,depth=1", "networks": 1, "epochs": 2, "lr": 0.02},
    "linear": {"steps": 3, "filters": 4, "lr": 8.0, "batch": 64},
    "cnn": {"model": "convnet:width=4,depth=1", "epochs": 1, "batch": 512, "lr": 0.5},
    "merf": {"per_class": 4, "steps": 2},
    "audit": {"trials": 60, "epsilon": 4.0, "runs": 0, "membership_epsilon": 1.0},
}


def test_private_distils_compares_audits_and_reports(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = recipes.load("private").run(TINY, tmp_path / "out", said.append, command="what was typed")
    rows = {row["method"]: row for row in outcome["table"]}
    assert list(rows) == ["dp-dm", "dp-kip", "dp-sgd-linear", "dp-sgd-cnn", "dp-merf", "dm"]
    assert rows["dm"]["epsilon"] == "none" and rows["dp-dm"]["epsilon"] == "8"
    assert rows["dp-sgd-linear"]["releases"] == "classifier" and rows["dp-merf"]["releases"] == "set"
    bar = [rows[name]["minus best DP-SGD (95 %)"] for name in ("dp-sgd-linear", "dp-sgd-cnn")]
    assert bar.count(None) == 1 and rows["dp-dm"]["minus best DP-SGD (95 %)"] is not None
    kept = DistilledDataset.load(tmp_path / "out" / "sets" / "dp-dm-8-0")
    assert 7.9 < kept.metadata["privacy"]["epsilon"] <= 8
    assert {row["subject"] for row in outcome["audit"]} >= {"dp-dm", "dp-dm, mutant no-clip"}
    page = Path(outcome["report"]).read_text()
    for words in ("what was typed", "data:image/png;base64", "dp-sgd-linear", "independent", "proves nothing"):
        assert words in page
    for words in (">evaluation.epochs<", ">dp-dm, dp-kip<", ">audit.trials<"):
        assert words in page
    assert "{&#39;" not in page
    assert (tmp_path / "out" / "private.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == outcome
    assert said[-1] == "audit-canary: 13 of 13 cells"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json") if "table" not in path.name}
    again = recipes.load("private").run(TINY, tmp_path / "out", resume=True)
    assert again["table"] == outcome["table"] and again["audit"] == outcome["audit"]  # no set is released twice
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"methods": ["dp-mtt"]}, "unknown private method 'dp-mtt'"),
        ({"baselines": ["dp-sgd-cnm"]}, "did you mean 'dp-sgd-cnn'"),
        ({"delta": 0.01}, "is not below 1/N"),
        ({"epsilons": []}, "epsilons"),
        ({"epsilons": [1, -1]}, "epsilons"),
        ({"accountant": "gdp"}, "accountant"),
        ({"steps": {"dp-dn": 3}}, "did you mean 'dp-dm'"),
        ({"model": "convnet:widht=3"}, "widht"),
        ({"seeds": 0}, "seeds"),
        ({"data": "mnits"}, "did you mean 'mnist'"),
        ({"data_sets": {"digits": {"stepz": {}}}}, "did you mean 'steps'"),
        ({"evaluation": {"protocol": "dsb"}}, "evaluation.protocol"),
        ({"audit": {"trials": 5}}, "make at least 20, or 0"),
        ({"audit": {"runs": 3}}, "make at least 4, or 0"),
        ({"audit": {"epsilon": float("inf")}}, "audit.epsilon"),
        ({"label_counts": [100, 100]}, "one for each of 10 classes"),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        recipes.load("private").run(merge(TINY, change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("images", "epochs"), [(100, 120), (256, 120), (500, 60), (5000, 6)])
def test_networks_take_as_many_steps_on_a_larger_set(images: int, epochs: int) -> None:
    recipe = equally_long(TrainingRecipe(name="test", epochs=120, schedule="cosine"), 100, images)
    assert recipe.epochs == epochs and recipe.steps(images) == 120


@pytest.mark.parametrize("protocol", ["plain", "dsa"])
def test_sets_are_judged_by_the_protocol_that_is_asked_for(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = load_pair("digits")
    how = {"protocol": protocol, "model": "convnet:width=4,depth=1", "networks": 2, "epochs": 2, "lr": 0.3}
    seen: list[TrainingRecipe] = []

    def spy(images: Any, labels: Any, spec: Any, recipe: TrainingRecipe, *rest: Any, **more: Any) -> Any:
        seen.append(recipe)
        return train_networks(images, labels, spec, recipe, *rest, **more)

    monkeypatch.setattr("ddkit.recipes.private.train_networks", spy)
    made = Distiller("random", 1, seed=0).fit(train)
    accuracy_of({"evaluation": how, "ipc": 1}, made, test, 0)
    (recipe,) = seen
    assert (recipe.augmentation == "none") == (protocol == "plain")
    assert (recipe.epochs, recipe.lr) == (2, 0.3)
