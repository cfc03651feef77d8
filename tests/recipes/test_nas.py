"""Does recipe ``nas`` rank, compare and report on a small scale, and refuse mistakes before it writes?"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ddkit import recipes
from ddkit.errors import ConfigError, DataError
from ddkit.integrations.nas import Ranking
from ddkit.recipes.nas_data import load_parts

TINY: dict[str, Any] = {
    "train_images": 100,
    "validation_images": 50,
    "test_images": 60,
    "space": {"depth": [1], "width": [2, 4, 8], "norm": ["none", "instance"], "activation": ["relu"]},
    "truth": {"steps": 8, "seeds": 2},
    "training": {"lr": 0.02, "batch_size": 20, "schedule": "constant", "augmentation": "none"},
    "proxies": ["random", "dm", "early-stop", "quarter", "params", "naswot"],
    "ipcs": [1],
    "steps": 10,
    "early_steps": [6],
    "draws": 2,
    "budgets": {"dm": {"steps": 2, "model": "convnet:width=4,depth=1", "objective": {"real_batch": 8}}},
}


@pytest.mark.filterwarnings("ignore:.*does not separate")
def test_nas_ranks_compares_and_reports(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = recipes.load("nas").run(TINY, tmp_path / "out", said.append, command="what was typed")
    table = {row["proxy"]: row for row in outcome["table"]}
    assert list(table) == [
        "random, 1 per class",
        "dm, 1 per class",
        "early-stop, 5 steps",
        "early-stop, 6 steps",
        "quarter, 2 steps",
        "params",
        "naswot",
    ]
    assert table["dm, 1 per class"]["image passes"] == table["early-stop, 5 steps"]["image passes"] == 100
    made = 2 * 10 * (8 + 1)  # steps, classes, real and synthetic images
    assert table["dm, 1 per class"]["with preparation"] == round((6 * 100 + made) / 6)
    assert table["dm, 1 per class"]["less the best baseline"].endswith("(random)")
    assert table["params"]["images"] == 0 and table["params"]["n"] == 6
    page = Path(outcome["report"]).read_text()
    for words in ("what was typed", "dm, 1 per class", "data:image/png;base64", "in time alone"):
        assert words.lower() in page.lower()
    assert (tmp_path / "out" / "nas.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == outcome
    truth = Ranking.from_json((tmp_path / "out" / "rankings" / "truth.json").read_text())
    rows = list(csv.DictReader((tmp_path / "out" / "rankings" / "truth.csv").open()))
    assert len(truth) == len(rows) == 6 and truth.cost.images == 100
    assert any("ground truth" in line for line in said)


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
    "executor": ({"executor": "cluster"}, "executor='cluster'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_written(tmp_path: Path, mistake: str) -> None:
    overrides, words = MISTAKES[mistake]
    values = {**recipes.load("nas").settings, **TINY, **overrides}
    from ddkit.recipes.nas import run

    with pytest.raises((ConfigError, DataError), match=words):
        run(values, tmp_path / "out", print, "")
    assert not (tmp_path / "out").exists()
