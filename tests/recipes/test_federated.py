"""Does recipe ``federated`` run on digits, tell what it measured, and refuse bad settings before it starts?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs ddkit[federated]")

from ddkit import recipes
from ddkit.base.config import merge
from ddkit.errors import ConfigError
from ddkit.recipes.federated import Settings, Way, data_of, draw, first_round, rows
from ddkit.recipes.job import checked, of_data_set

TINY: dict[str, Any] = {
    "train_images": 120,
    "test_images": 60,
    "clients": 3,
    "alpha": [0.5, 5.0],
    "seeds": 1,
    "model": "convnet:width=4,depth=2",
    "local": {"epochs": 1, "batch_size": 64},
    "rounds": 2,
    "one_shot_epochs": 1,
    "server": {"epochs": 1},
    "central": {"epochs": 1, "batch_size": 64},
    "ipc": [1],
    "options": {"steps": 1, "objective": {"real_batch": 4}},
    "feddm": {"rounds": 2, "options": {"steps": 1}},
    "dynafed": {"warmup_rounds": 1, "ipc": 1, "options": {"steps": 1, "objective": {"student_steps": 1}}},
}
NAMES = [
    "all images in one place",
    "FedAvg",
    "FedProx, mu 0.1",
    "one-shot averaging",
    "one-shot ensemble",
    "random, 1 per class",
    "herding, 1 per class",
    "dm once, 1 per class",
    "FedDM, 1 per class",
    "DynaFed",
]


def test_the_recipe_measures_every_way_at_both_alphas(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = recipes.load("federated").run(TINY, tmp_path / "out", said.append, command="what was typed")
    table = outcome["table"]
    assert [(row["alpha"], row["way"]) for row in table] == [(alpha, name) for alpha in (0.5, 5.0) for name in NAMES]
    by_name = {row["way"]: row for row in table if row["alpha"] == 0.5}
    equal = [by_name[f"{name}, 1 per class"]["kB up per client"] for name in ("random", "herding", "dm once")]
    assert equal[0] == equal[1] == equal[2] < by_name["FedAvg"]["kB up per client"]
    assert by_name["FedAvg"]["rounds"] == 2 and by_name["dm once, 1 per class"]["− best real images"] is not None
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == outcome
    page = Path(outcome["report"]).read_text()
    assert "what was typed" in page and "data:image/png;base64" in page and "private records" in page
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list((tmp_path / "out" / "sets").rglob("client-*.safetensors"))) == 2 * 3 * 3
    assert said[1:3] == ["2 partitions over 3 clients", "alpha-0.5-0-central: 1 of 18 cells"]


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "setting": ({"client": 3}, "did you mean 'clients'"),
    "one client": ({"clients": 1}, "clients"),
    "alpha": ({"alpha": [0.0]}, "alpha=0"),
    "model": ({"model": "convnett"}, "did you mean 'convnet'"),
    "coreset as method": ({"method": "random"}, "picks real images"),
    "method as coreset": ({"real": ["dm"]}, "learns images"),
    "warm-up": ({"rounds": 1, "dynafed": {"warmup_rounds": 2}}, "nothing would be refined"),
    "training field": ({"local": {"epoch": 1}}, "epoch"),
    "feddm field": ({"feddm": {"round": 1}}, "round"),
    "wire": ({"wire": "uint4"}, "wire"),
    "codec": ({"wire": "coded:uniform:bits=9"}, r"codec.bits=9 must lie in \[1, 8\]"),
    "codec for colours": ({"wire": "coded:palette"}, "palette is for images of several channels"),
    "data": ({"data": "digit"}, "did you mean 'digits'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_written(tmp_path: Path, mistake: str) -> None:
    overrides, words = MISTAKES[mistake]
    with pytest.raises(ConfigError, match=words):
        recipes.load("federated").run({**TINY, **overrides}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def way(name: str, kind: str, accuracy: list[float], up: list[float], images: int = 0) -> Way:
    return Way(name, kind, accuracy, accuracy, up, up, images, 1.0)


def results(distilled: float) -> dict[float, list[list[Way]]]:
    partitions = [
        [
            way("all images in one place", "central", [0.99], []),
            way("FedAvg", "averaging", [0.3, 0.8 + shift, 0.9], [1e5, 2e5, 3e5]),
            way("random, 1 per class", "records", [0.7 + shift], [1e3], 10),
            way("dm once, 1 per class", "distilled", [distilled + shift], [1e3], 10),
        ]
        for shift in (0.0, 0.02)
    ]
    return {0.1: partitions}


def test_the_table_pairs_partitions_and_finds_where_fedavg_gets_there() -> None:
    row = rows(results(0.75))[-1]
    assert row["accuracy %"] == "76.0 ± 1.0" and row["FedAvg gets there"] == "round 2"
    assert row["− best real images"] == "+5.0 ± 0.0"
    assert row["− best averaging"].startswith("-14.0 ±")


@pytest.mark.parametrize("accuracy, reached, gap", [(0.65, "round 2", "-5.0"), (0.95, "not in 3", "+25.0")])
def test_the_table_shows_wins_and_losses(accuracy: float, reached: str, gap: str) -> None:
    row = rows(results(accuracy))[-1]
    assert row["FedAvg gets there"] == reached and row["− best real images"] == f"{gap} ± 0.0"


def test_one_partition_has_no_interval() -> None:
    assert rows({0.1: results(0.75)[0.1][:1]})[-1]["− best real images"] == "+5.0"


def settings_of(values: dict[str, Any]) -> Settings:
    return checked(Settings, of_data_set(values)).check()


def test_settings_come_from_the_data_set_unless_given() -> None:
    values = recipes.load("federated").settings
    mnist = settings_of(merge(values, {"data": "mnist", "local": {"epochs": 7}, "model": "mlp"}))
    assert mnist.train_images == 5000 and mnist.model == "mlp"
    assert mnist.local == {**values["data_sets"]["mnist"]["local"], "epochs": 7}
    for name in values["data_sets"]:
        settings_of({**values, "data": name})


def test_validation_images_are_training_images_that_no_client_has() -> None:
    values = recipes.load("federated").settings
    train, held = data_of(settings_of({**values, "measure": "validation"}))
    whole, test = data_of(settings_of(values))
    assert len(train) + len(held) == len(whole) and len(held) == len(whole) // 5
    assert {image.numpy().tobytes() for image in [*train.images, *held.images]} == {
        image.numpy().tobytes() for image in whole.images
    }
    assert len(test) == 450


def test_fedavg_may_never_get_there() -> None:
    fedavg = [one[1] for one in results(0.5)[0.1]]
    assert first_round(fedavg, 0.2) == 1 and first_round(fedavg, 0.99) is None


def test_the_figure_has_a_panel_per_alpha() -> None:
    settings = settings_of(recipes.load("federated").settings)
    both = {0.1: results(0.7)[0.1], 0.5: results(0.8)[0.1]}
    one, two = (draw(found, settings) for found in (results(0.7), both))
    assert (len(one.axes), len(two.axes)) == (1, 2)
