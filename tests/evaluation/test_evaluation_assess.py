"""Is a set assessed beside its baselines fairly, repeatably, and is nothing measured earlier lost?"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.evaluation import (
    EvaluationResult,
    assess,
    baseline_sets,
    evaluate,
    merge_draws,
    read_evaluation,
    recipe_of,
    write_evaluation,
)
from ddkit.models import ModelSpec
from ddkit.testing import toy_data
from ddkit.training import TrainingRecipe

from .conftest import TINY, random_set

Pair = tuple[RealData, RealData]
RECIPE = TrainingRecipe(name="short", epochs=2, batch_size=64)


@pytest.fixture(scope="module")
def distilled(digits: Pair) -> DistilledDataset:
    return random_set(digits[0], 1, method="dm")


@pytest.fixture(scope="module")
def result(digits: Pair, distilled: DistilledDataset) -> EvaluationResult:
    return evaluate(distilled, digits[1], (TINY,), 2, RECIPE)


def test_the_set_comes_first_then_its_baselines_in_order(digits: Pair, distilled: DistilledDataset) -> None:
    train, test = digits
    said: list[str] = []
    results = assess(
        distilled,
        test,
        train=train,
        baselines=("whole", "class-mean"),
        architectures=(TINY.canonical(),),
        repeats=1,
        recipe=RECIPE,
        whole_epochs=1,
        report_progress=said.append,
    )
    assert [label for label, _ in results] == ["dm", "whole", "class-mean"]
    assert results[1][1].recipe.epochs == 1 and results[1][1].train_images == len(train)
    assert results[2][1].recipe == RECIPE
    assert said[0] == "training 1 network on the distilled set" and len(said) == 3


@pytest.mark.parametrize("repeats, shares", [(5, [2, 2, 1]), (2, [1, 1]), (1, [1])])
def test_networks_are_shared_out_among_the_draws(
    digits: Pair, distilled: DistilledDataset, repeats: int, shares: list[int]
) -> None:
    train, test = digits
    options = {"train": train, "baselines": ("random",), "architectures": (TINY.canonical(),), "recipe": RECIPE}
    own, drawn = assess(distilled, test, repeats=repeats, **options)  # type: ignore[arg-type]
    row = drawn[1].rows[0]
    assert len(row.accuracies) == len(row.seeds) == repeats == sum(shares)
    assert row.seeds[: shares[0]] == own[1].rows[0].seeds[: shares[0]]  # the first draw is paired with the set
    assert len(set(row.seeds)) == repeats
    assert ("draws pooled" in drawn[1].note) == (len(shares) > 1)


def test_assessing_twice_gives_the_same_accuracies(digits: Pair, distilled: DistilledDataset) -> None:
    train, test = digits
    first, second = (
        assess(
            distilled,
            test,
            train=train,
            baselines=("random",),
            architectures=("mlp",),
            repeats=2,
            recipe=RECIPE,
            seed=4,
        )
        for _ in range(2)
    )
    accuracies = [[row.accuracies for _, result in half for row in result.rows] for half in (first, second)]
    assert accuracies[0] == accuracies[1]


def test_mistakes_are_refused_before_a_network_is_trained(
    digits: Pair, distilled: DistilledDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = digits
    module = importlib.import_module("ddkit.evaluation.evaluate")
    monkeypatch.setattr(module, "train_networks", lambda *_, **__: pytest.fail("a network was trained"))
    with pytest.raises(DataError, match="name the data"):
        assess(distilled, test, baselines=("random",))
    with pytest.raises(UnknownNameError, match="did you mean 'random'"):
        assess(distilled, test, train=train, baselines=("randm",))
    with pytest.raises(UnknownNameError, match="did you mean 'convnet'"):
        assess(distilled, test, architectures=("convnett",))
    with pytest.raises(ConfigError, match="lenet cannot take 1x8x8"):
        assess(distilled, test, architectures=("convnet", "lenet"))
    with pytest.raises(ConfigError, match="0 repeats"):
        assess(distilled, test, repeats=0)
    with pytest.raises(DataError, match="10 classes, the test set 3"):
        assess(distilled, toy_data(split="test"))


def test_pooling_draws_keeps_order_and_adds_seconds(result: EvaluationResult) -> None:
    pooled = merge_draws([result, result])
    row, one = pooled.rows[0], result.rows[0]
    assert row.accuracies == (*one.accuracies, *one.accuracies)
    assert row.seconds == pytest.approx(2 * one.seconds)
    assert pooled.note.endswith("networks of 2 draws pooled")
    assert merge_draws([result]) is result


def test_writing_replaces_the_same_evaluation_and_keeps_the_others(tmp_path: Path, result: EvaluationResult) -> None:
    other_recipe = result.model_copy(update={"recipe": RECIPE.replace(epochs=3)})
    other_data = result.model_copy(update={"data": "elsewhere"})
    for one in (result, other_recipe, other_data, result):
        write_evaluation(tmp_path, [("dm", one)], "typed", scores={"lrs": 1.0})
    write_evaluation(tmp_path, [("random", result)], "typed again")
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content == read_evaluation(tmp_path)
    assert [entry["label"] for entry in content["results"]] == ["random", "dm", "dm", "dm"]
    assert content["command"] == "typed again" and content["scores"] == {"lrs": 1.0}
    assert EvaluationResult.from_dict(content["results"][1]["result"]) == result


def test_a_folder_without_evaluation_reads_as_empty(tmp_path: Path) -> None:
    assert read_evaluation(tmp_path) == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"results": [3]}', '{"results": [{"label": "dm"}]}', "[" * 10**5]
)
def test_a_damaged_file_is_refused_and_left_alone(tmp_path: Path, result: EvaluationResult, text: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(DataError, match="is damaged: delete it and evaluate again"):
        write_evaluation(tmp_path, [("dm", result)])
    assert path.read_text() == text


def test_model_specs_are_accepted_beside_texts(digits: Pair, distilled: DistilledDataset) -> None:
    specs = (ModelSpec.parse(TINY), TINY.canonical())
    ((_, measured),) = assess(distilled, digits[1], architectures=specs, repeats=1, recipe=RECIPE)  # type: ignore[arg-type]
    assert measured.rows[0].accuracies == measured.rows[1].accuracies


def test_baselines_do_not_inherit_what_was_learned_with_the_set(digits: Pair) -> None:
    train, test = digits
    recipe = RECIPE.replace(lr=0.07)
    own = random_set(
        train, 1, method="mtt", recipe=recipe.model_dump(mode="json"), learned={"lr": 0.07}, config={"recipe": "dc"}
    )
    options: dict[str, Any] = {"train": train, "baselines": ("random",), "architectures": (TINY.canonical(),)}
    (_, mine), (_, random) = assess(own, test, repeats=1, **options)
    assert (mine.recipe.lr, random.recipe.lr) == (0.07, TrainingRecipe().lr)
    assert random.recipe.epochs == recipe.epochs
    _, (_, random) = assess(own, test, repeats=1, recipe=recipe.replace(lr=0.05), **options)
    assert random.recipe.lr == 0.05, "a rate that the user asks for holds for all"
    assert recipe_of(baseline_sets(train, own, ("random",))["random"][0]).lr == TrainingRecipe().lr
