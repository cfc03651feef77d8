"""Does the recipe learn digits class by class, compare memories fairly, and refuse bad settings before it starts?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("avalanche")

from ddkit import recipes
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.integrations.continual import StreamAccuracies
from ddkit.recipes.continual import (
    Outcome,
    Run,
    best_other,
    class_order,
    finals,
    settings_of,
    sizes_of,
    table_of,
)

TINY: dict[str, Any] = {
    "budgets": [10, 20],
    "seeds": 2,
    "images_per_class": 12,
    "test_images": 40,
    "model": "mlp:width=8",
    "training": {"epochs": 1, "lr": 0.05, "momentum": 0.9, "batch": 8, "memory_batch": 8},
    "retrain": {"name": "dsa", "epochs": 2},
    "distil": {"method": "dm", "steps": 2, "objective": {"real_batch": 8}},
}
FEW: dict[str, Any] = {**TINY, "policies": ["none", "distilled"], "budgets": [10], "seeds": 1}


def run(out: Path, **overrides: Any) -> dict[str, Any]:
    return recipes.load("continual").run({**TINY, **overrides}, out, command="what was typed")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("continual") / "out"
    before = torch.get_rng_state()
    outcome = run(out)
    assert torch.equal(before, torch.get_rng_state())
    return out, outcome


def test_all_policies_protocols_and_sizes_are_in_the_table(finished: tuple[Path, dict[str, Any]]) -> None:
    rows = finished[1]["table"]
    real = ["reservoir", "adaptive", "random", "herding"]
    wanted = {("interleave", None, "none")} | {(p, None, "joint") for p in ("interleave", "retrain")}
    wanted |= {(p, b, q) for p in ("interleave", "retrain") for b in (10, 20) for q in (*real, "distilled")}
    assert {(row["protocol"], row["memory"], row["policy"]) for row in rows} == wanted and len(rows) == len(wanted)
    assert {row["seeds"] for row in rows} == {2}


def test_memories_of_one_size_cost_the_same_bytes(finished: tuple[Path, dict[str, Any]]) -> None:
    for row in finished[1]["table"]:
        assert row["bytes"] == (None if row["memory"] is None else 64 * row["memory"])


def test_in_a_codec_all_memories_hold_more_images_in_the_same_bytes(tmp_path: Path) -> None:
    settings = {"policies": ["reservoir", "adaptive", "random", "distilled"], "budgets": [20], "seeds": 1}
    rows = run(tmp_path / "out", **settings, codec="uniform:bits=3", protocols=["interleave"])["table"]
    assert len(rows) == 4
    for row in rows:
        assert 0.7 * 64 * 20 < row["bytes"] <= 64 * 20 and row["images"] > 20


def test_every_row_is_compared_with_the_best_memory_of_real_images(finished: tuple[Path, dict[str, Any]]) -> None:
    for protocol in ("interleave", "retrain"):
        for budget in (10, 20):
            cell = [row for row in finished[1]["table"] if (row["protocol"], row["memory"]) == (protocol, budget)]
            best = [row["policy"] for row in cell if row["minus best other (95 %)"] is None]
            assert len(best) == 1 and best[0] != "distilled"
            assert all("[" in row["minus best other (95 %)"] for row in cell if row["policy"] not in best)


def test_report_figure_and_raw_numbers_are_written(finished: tuple[Path, dict[str, Any]]) -> None:
    out, outcome = finished
    page = (out / "report.html").read_text()
    assert outcome["report"] == str(out / "report.html")
    assert "what was typed" in page and "data:image/png;base64," in page and "How to read this" in page
    assert "after 5" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (out / "continual.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    kept = json.loads((out / "table.json").read_text())
    assert kept["table"] == outcome["table"] and len(kept["runs"]) == 2 * (2 + 2 * 5)
    assert all(len(one["matrix"]) == 5 for one in kept["runs"] if one["policy"] != "joint")


def test_a_finished_run_that_is_resumed_computes_nothing(finished: tuple[Path, dict[str, Any]]) -> None:
    out, outcome = finished
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    again = recipes.load("continual").run(TINY, out, command="what was typed", resume=True)
    assert again["table"] == outcome["table"] and len(kept) == 2 * (2 + 2 * 5)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_distilled_sets_are_kept_once_for_both_protocols(finished: tuple[Path, dict[str, Any]]) -> None:
    assert len(list((finished[0] / "distilled").glob("*.safetensors"))) == 2 * 2 * 5  # seeds, sizes, experiences


def test_the_same_settings_give_the_same_numbers(tmp_path: Path) -> None:
    numbers = []
    for name in ("first", "second"):
        torch.manual_seed(len(name))
        run(tmp_path / name, **FEW)
        content = json.loads((tmp_path / name / "table.json").read_text())["runs"]
        numbers.append([(one["matrix"], one["retrain"]) for one in content])
    assert numbers[0] == numbers[1]


def test_retraining_after_every_experience_gives_a_curve(tmp_path: Path) -> None:
    outcome = run(tmp_path / "out", **{**FEW, "retrain_after": "every", "protocols": ["retrain"]})
    content = json.loads((tmp_path / "out" / "table.json").read_text())["runs"]
    assert [len(one["retrain"]) for one in content] == [0, 5]
    assert [row["policy"] for row in outcome["table"]] == ["distilled"]
    assert outcome["table"][0]["incremental %"] is not None


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "setting": ({"seed": 3}, "did you mean 'seeds'"),
    "benchmark": ({"benchmark": "split-digit"}, "did you mean 'split-digits'"),
    "policy": ({"policies": ["hoarding"]}, "policies"),
    "protocol": ({"protocols": []}, "protocols"),
    "budget": ({"budgets": [9]}, "at least 10"),
    "training": ({"training": {"epochs": 1}}, "training"),
    "model": ({"model": "convnett"}, "did you mean 'convnet'"),
    "method": ({"distil": {"method": "dmm"}}, "did you mean 'dm'"),
    "option": ({"distil": {"method": "dm", "stepz": 2}}, "did you mean 'steps'"),
    "bytes": ({"distil": {"method": "idc"}}, "policy 'distilled' with budget 10: .* at least 2560 bytes"),
    "codec": ({"codec": "uniform:bits=0"}, r"codec.bits=0 must lie in \[1, 8\]"),
    "codec for colours": ({"codec": "palette"}, "^codec palette is for images of several channels"),
    "decided codec": ({"distil": {"method": "dm", "codec": "float16"}}, "distil.codec is decided by the recipe"),
    "decided": ({"distil": {"method": "dm", "seed": 3}}, "distil.seed is decided by the recipe"),
    "recipe": ({"retrain": {"name": "dsaa"}}, "did you mean 'dsa'"),
    "recipe field": ({"retrain": {"epoch": 1}}, "did you mean 'epochs'"),
    "executor": ({"executor": "rey"}, "did you mean 'ray'"),
    "block": ({"benchmarks": {"split-digits": {"seed": 3}}}, "did you mean 'seeds'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_written(tmp_path: Path, mistake: str) -> None:
    overrides, words = MISTAKES[mistake]
    with pytest.raises((ConfigError, UnknownNameError), match=words) as caught:
        run(tmp_path / "out", **overrides)
    assert not (tmp_path / "out").exists() and "\n" not in str(caught.value)


def outcome(policy: str, seed: int, final: float, budget: int = 10) -> Outcome:
    return Outcome(
        Run(policy, budget, seed),  # type: ignore[arg-type]
        StreamAccuracies([[1.0, 0.0], [2 * final - 1, 1.0]], [5, 5]),
        [final],
        budget,
        650,
        1.0,
        0.0,
    )


def outcomes(distilled: list[float]) -> list[Outcome]:
    real = [
        ("random", 0.60),
        ("random", 0.62),
        ("random", 0.64),
        ("herding", 0.70),
        ("herding", 0.72),
        ("herding", 0.74),
    ]
    made = [outcome(policy, number % 3, value) for number, (policy, value) in enumerate(real)]
    return made + [outcome("distilled", seed, value) for seed, value in enumerate(distilled)]


def test_the_best_memory_of_real_images_has_the_highest_mean() -> None:
    assert best_other(finals(outcomes([0.80, 0.82, 0.84])), "retrain", 10) == "herding"


def test_means_deviations_and_paired_differences_are_over_seeds() -> None:
    settings = SETTINGS.model_copy(update={"protocols": ["interleave"], "budgets": [10]})
    rows = {row["policy"]: row for row in table_of(settings, outcomes([0.80, 0.82, 0.84]))}
    assert rows["distilled"]["final %"] == "82.0 ± 1.6"
    assert rows["distilled"]["minus best other (95 %)"] == "+10.0 [+10.0, +10.0]"
    assert rows["distilled"]["forgetting %"] == "36.0 ± 3.3"  # 1 - (2 · 0.82 - 1)
    assert rows["herding"]["minus best other (95 %)"] is None


def test_class_orders_are_permutations_that_depend_on_the_seed_only() -> None:
    assert sorted(class_order(3, 10)) == list(range(10))
    assert class_order(3, 10) == class_order(3, 10) != class_order(4, 10)
    assert sizes_of(10, 3) == [3, 3, 3, 1] and sizes_of(10, 2) == [2] * 5


SETTINGS = settings_of({**recipes.load("continual").settings, **TINY})
