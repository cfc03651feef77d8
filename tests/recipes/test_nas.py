"""Does recipe ``nas`` rank, compare and report on a small scale, and refuse mistakes before it writes?"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddkit import recipes
from ddkit.errors import ConfigError, DataError
from ddkit.integrations.nas import Cost, Entry, Ranking
from ddkit.recipes.job import Job, of_data_set
from ddkit.recipes.nas import Proxy, Settings, Way, judge, load_parts, rivals_of, run

TINY: dict[str, Any] = {
    "train_images": 100,
    "validation_images": 50,
    "test_images": 60,
    "space": {"depth": [1], "width": [2, 4, 8], "norm": ["none", "instance"], "activation": ["relu"]},
    "truth": {"steps": 8, "seeds": 2},
    "training": {"lr": 0.02, "batch_size": 20, "schedule": "constant", "augmentation": "none"},
    "proxies": ["random", "herding", "dm", "early-stop", "quarter", "params", "naswot"],
    "ipcs": [1, 3],
    "steps": 10,
    "early_steps": [6],
    "draws": 2,
    "budgets": {
        "herding": {"selection": {"epochs": 1}},
        "dm": {"steps": 2, "model": "convnet:width=4,depth=1", "objective": {"real_batch": 8}},
    },
}


@pytest.mark.filterwarnings("ignore:.*does not separate")
def test_nas_ranks_compares_and_reports(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = recipes.load("nas").run(TINY, tmp_path / "out", said.append, command="what was typed")
    table = {row["proxy"]: row for row in outcome["table"]}
    assert list(table) == [
        "random, 1 per class",
        "random, 3 per class",
        "herding, 1 per class",
        "herding, 3 per class",
        "dm, 1 per class",
        "dm, 3 per class",
        "early-stop, 5 steps",
        "early-stop, 6 steps",
        "early-stop, 10 steps",
        "quarter, 2 steps",
        "params",
        "naswot",
    ]
    assert table["dm, 1 per class"]["image passes"] == table["early-stop, 5 steps"]["image passes"] == 100
    made = 2 * 10 * (8 + 1)  # steps, classes, real and synthetic images
    assert table["dm, 1 per class"]["with preparation"] == round((6 * 100 + made) / 6)
    assert table["random, 1 per class"]["with preparation"] == 100
    assert table["herding, 1 per class"]["with preparation"] is None  # nobody counts what its network was trained on
    assert table["dm, 1 per class"]["less the best selected set"].endswith(("(random)", "(herding)"))
    assert table["params"]["images"] == 0 and table["params"]["n"] == 6
    page = Path(outcome["report"]).read_text()
    for words in (
        "what was typed",
        "dm, 1 per class",
        "data:image/png;base64",
        "in time alone",
        "pays from candidates",
    ):
        assert words.lower() in page.lower()
    assert (tmp_path / "out" / "nas.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == outcome
    truth = Ranking.from_json((tmp_path / "out" / "rankings" / "truth.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "rankings" / "truth.csv").open()))
    assert len(truth) == len(rows) == 6 and truth.cost.images == 100
    assert any("ground truth" in line for line in said) and said[-1] == "rank-naswot-0: 25 of 25 cells"
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("cells/*")}
    again = recipes.load("nas").run(TINY, tmp_path / "out", resume=True)
    assert again["table"] == outcome["table"] and len(kept) == 25
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_distilled_sets_stand_beside_selection_early_stopping_and_the_truth() -> None:
    rng = np.random.default_rng(0)
    true = np.arange(40.0)

    def proxy(name: str, kind: str, ipc: int | None, noise: float, cost: Cost, steps: int = 10) -> Proxy:
        rankings = [_ranking(true + rng.normal(scale=noise, size=40), cost) for _ in range(2)]
        return Proxy(Way(name, kind, ipc, steps), rankings)

    truth = _ranking(true / 40, Cost(cpu_seconds=400))
    short = Cost(cpu_seconds=10, image_passes=1000)
    dear = Cost(cpu_seconds=10, image_passes=1000, preparation_seconds=60)
    longer = Cost(cpu_seconds=60, image_passes=9000)

    def beside(*proxies: Proxy) -> list[dict[str, Any]]:
        return rivals_of([judge(one, proxies, truth) for one in proxies], truth)

    random, dm = proxy("random", "selected", 10, 40, short), proxy("dm", "distilled", 10, 2, dear)
    noisy = proxy("early-stop", "real", None, 40, short)
    rows = beside(random, dm, noisy, proxy("early-stop", "real", None, 0, longer, 90))
    assert [(row["rival"], row["pays from candidates"]) for row in rows] == [
        ("random, 10 per class", "never"),
        ("early-stop, 10 steps", "never"),
        ("early-stop, 90 steps", "48"),
        ("the truth", "7"),
    ]
    assert rows[0]["rho less its rho"].startswith("+") and rows[3]["rho less its rho"] is None
    assert {row["set"] for row in rows} == {"dm, 10 per class"} and {row["seconds"] for row in rows} == {70.0}
    assert [row["its seconds"] for row in rows] == [10.0, 10.0, 60.0, 400.0] and rows[3]["its regret %"] == 0.0
    assert [row["rival"] for row in beside(random, dm)] == ["random, 10 per class", "the truth"]
    assert beside(random, noisy) == []


@pytest.mark.parametrize("data", ["digits", "mnist", "cifar10", "some/folder"])
def test_every_data_set_has_settings_of_its_own(data: str) -> None:
    values = {**recipes.load("nas").settings, "data": data}
    settings, block = Settings(**of_data_set(values)), values["data_sets"].get(data, values["data_sets"]["other"])
    assert (settings.steps, settings.truth.steps, settings.truth.seeds) == (block["steps"], block["truth"]["steps"], 2)
    mine = Settings(**of_data_set({**values, "truth": {"steps": 7, "seeds": 1}, "steps": 3}))
    assert (mine.steps, mine.truth.steps, mine.train_images) == (3, 7, block["train_images"])


def test_parts_are_disjoint_small_and_share_the_training_statistics() -> None:
    parts = load_parts("digits", None, 4, (200, 100, 50), 0)
    assert parts.train.shape == parts.validation.shape == parts.test.shape == (1, 4, 4)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (200, 100, 50)
    assert parts.validation.split == "train-held-out" and parts.test.split == "test"
    assert parts.train.preprocessing == parts.validation.preprocessing == parts.test.preprocessing
    whole = load_parts("digits", None, 8, (2000, 100, 50), 0)
    images = {image.numpy().tobytes() for image in whole.train.images}
    held_out = {image.numpy().tobytes() for image in whole.validation.images}
    assert len(whole.train) + 100 == 1347 and len(images & held_out) < 3  # a few digits are equal


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "proxy": ({"proxies": ["dmm"]}, "did you mean 'dm'"),
    "proxy of early stopping": ({"proxies": ["early-stopp"]}, "did you mean 'early-stop'"),
    "space": ({"space": {"dept": [1]}}, "did you mean 'depth'"),
    "named space": ({"space": "big"}, "space"),
    "candidate": ({"space": {"depth": [9]}}, "depth 9"),
    "training": ({"training": {"lrr": 1}}, "did you mean 'lr'"),
    "truth": ({"truth": {"step": 1}}, "step=1"),
    "steps": ({"steps": 0}, "steps=0"),
    "ipc": ({"ipcs": [500]}, "images"),
    "validation": ({"validation_images": 1347}, "hold out fewer"),
    "budget": ({"budgets": {"dm": {"stepz": 1}}}, "did you mean 'steps'"),
    "data sets": ({"data_sets": {"other": {"stepz": 1}}}, "did you mean 'steps'"),
    "executor": ({"executor": "cluster"}, "executor='cluster'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_written(tmp_path: Path, mistake: str) -> None:
    overrides, words = MISTAKES[mistake]
    values = {**recipes.load("nas").settings, **TINY, **overrides}
    with pytest.raises((ConfigError, DataError), match=words):
        run(Job("nas", values, {}, tmp_path / "out", print, ""))
    assert not (tmp_path / "out").exists()


def _ranking(scores: np.ndarray, cost: Cost) -> Ranking:
    return Ranking(tuple(Entry(f"n{place}", "ok", (float(score),)) for place, score in enumerate(scores)), cost)
