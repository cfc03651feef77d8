"""Does a distilled set get the accuracy it deserves, repeatably, and are hopeless pairs refused?"""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from ddkit.base import precision as precisions
from ddkit.base.executor import InProcess
from ddkit.data import Preprocessing, RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DataError
from ddkit.evaluation import (
    ArchitectureResult,
    EvaluationResult,
    evaluate,
    evaluate_real,
    network_seeds,
    recipe_of,
    summary,
    whole_recipe,
)
from ddkit.models import ModelSpec
from ddkit.training import TrainingRecipe, accuracies, accuracy, accuracy_and_loss, probabilities, train_networks

from .conftest import SMALL, TINY, random_set, with_labels

Pair = tuple[RealData, RealData]
QUICK = TrainingRecipe(name="test", epochs=60)
BRIEF = TrainingRecipe(name="brief", epochs=3)


def mean_over_draws(digits: Pair, ipc: int, recipe: TrainingRecipe, draws: int) -> float:
    train, test = digits
    results = [evaluate(random_set(train, ipc, draw), test, [SMALL], 1, recipe, seed=draw) for draw in range(draws)]
    return summary([result.rows[0].mean for result in results]).mean


def test_random_digits_reach_the_known_accuracies(digits: Pair) -> None:
    plain = TrainingRecipe(epochs=150)
    measured = [mean_over_draws(digits, ipc, plain, draws) for ipc, draws in ((1, 6), (5, 4), (10, 4))]
    assert measured[0] == pytest.approx(0.66, abs=0.08)
    assert measured[1] == pytest.approx(0.87, abs=0.04)
    assert measured[2] == pytest.approx(0.92, abs=0.03)
    assert measured == sorted(measured)


def test_augmentation_helps_at_one_image_per_class(digits: Pair) -> None:
    augmented = TrainingRecipe(epochs=300, augmentation="color_crop_cutout_scale_rotate")
    gain = mean_over_draws(digits, 1, augmented, 4) - mean_over_draws(
        digits, 1, augmented.replace(augmentation="none"), 4
    )
    assert gain > 0


def test_whole_training_set_reaches_the_known_accuracy(digits: Pair) -> None:
    recipe = whole_recipe(digits[0]).replace(epochs=8)
    assert evaluate_real(*digits, [SMALL], 1, recipe).rows[0].mean >= 0.95


def test_shuffled_labels_give_chance(digits: Pair) -> None:
    train, test = digits
    distilled = random_set(train, 10)
    generator = torch.Generator().manual_seed(0)
    shuffled = with_labels(distilled, distilled.labels[torch.randperm(100, generator=generator)], "hard")
    assert evaluate(shuffled, test, [SMALL], 3, QUICK).rows[0].mean == pytest.approx(0.1, abs=0.05)
    permuted = test.labels[torch.randperm(len(test), generator=generator)]
    wrong_test = RealData.from_tensors(test.images, permuted, split="test")
    assert evaluate(distilled, wrong_test, [SMALL], 3, QUICK).rows[0].mean == pytest.approx(0.1, abs=0.05)


def test_evaluation_is_repeatable_and_leaves_the_set_alone(digits: Pair) -> None:
    train, test = digits
    distilled = random_set(train, 1)
    before = distilled.checksum()
    first, second = (evaluate(distilled, test, [TINY, SMALL], 3, QUICK, seed=4) for _ in range(2))
    assert [row.accuracies for row in first.rows] == [row.accuracies for row in second.rows]
    assert len(set(first.rows[1].accuracies)) > 1
    assert evaluate(distilled, test, [TINY], 3, QUICK, seed=5).rows[0].accuracies != first.rows[0].accuracies
    assert distilled.checksum() == before


def test_seeds_depend_on_evaluation_architecture_and_repeat_only(digits: Pair) -> None:
    train, test = digits
    rows = [evaluate(random_set(train, ipc), test, [TINY], 2, BRIEF, seed=1).rows[0] for ipc in (1, 2)]
    assert rows[0].seeds == rows[1].seeds == network_seeds(1, TINY, 2)
    assert network_seeds(1, TINY, 3)[:2] == rows[0].seeds
    assert not set(network_seeds(2, TINY, 2)) & set(rows[0].seeds)
    assert not set(network_seeds(1, SMALL, 2)) & set(rows[0].seeds)


def test_executor_changes_nothing_but_where_networks_are_trained(digits: Pair) -> None:
    train, test = digits
    distilled = random_set(train, 1)
    here = evaluate(distilled, test, [TINY, SMALL], 2, BRIEF, stacked=False)
    there = evaluate(distilled, test, [TINY, SMALL], 2, BRIEF, stacked=False, executor=InProcess())
    assert [row.accuracies for row in here.rows] == [row.accuracies for row in there.rows]
    assert [row.seeds for row in here.rows] == [row.seeds for row in there.rows]


def test_accuracy_counts_correct_images_and_restores_the_mode(digits: Pair) -> None:
    train, test = digits
    distilled = random_set(train, 2)
    images, labels = distilled.tensors()
    networks = train_networks(images, labels, TINY, BRIEF, [1, 2], num_classes=10)
    networks[0].train()
    networks[1].eval()
    values = accuracies(networks, test, batch=64)
    for network, value in zip(networks, values, strict=True):
        with torch.no_grad():
            predicted = network(test.batch(torch.arange(len(test)))).argmax(dim=1)
        assert value == int((predicted == test.labels).sum()) / len(test)
        assert accuracy(network, test) == value
    assert [network.training for network in networks] == [True, False]


def test_loss_and_probabilities_are_those_of_the_outputs(digits: Pair) -> None:
    train, test = digits
    (network,) = train_networks(train, None, TINY, BRIEF, [1], num_classes=10)
    with torch.no_grad():
        logits = network.eval()(test.batch(torch.arange(len(test))))
    network.train()
    value, loss = accuracy_and_loss(network, test, batch=64)
    assert value == accuracy(network, test)
    assert loss == pytest.approx(float(F.cross_entropy(logits, test.labels)), rel=1e-5)
    torch.testing.assert_close(probabilities(network, test, batch=64), logits.softmax(dim=1))
    assert network.training


def test_images_are_preprocessed_as_the_artifact_says(digits: Pair) -> None:
    train, test = digits
    other = test.with_preprocessing(Preprocessing(mean=(0.0,), std=(5.0,)))
    distilled = random_set(train, 5)
    first, second = (evaluate(distilled, one, [SMALL], 1, QUICK).rows[0] for one in (test, other))
    assert first.accuracies == second.accuracies


def test_soft_one_hot_labels_train_like_hard_ones(digits: Pair) -> None:
    train, test = digits
    hard = random_set(train, 1)
    soft = with_labels(hard, F.one_hot(hard.labels, 10).float(), "soft")
    results = [evaluate(one, test, [SMALL], 2, QUICK) for one in (hard, soft)]
    assert results[0].rows[0].accuracies == results[1].rows[0].accuracies
    assert [result.label_kind for result in results] == ["hard", "soft"]


def test_regression_labels_train_by_squared_error(digits: Pair) -> None:
    train, test = digits
    hard = random_set(train, 5)
    rows = with_labels(hard, F.one_hot(hard.labels, 10).float() - 0.1, "regression")
    by_kind = evaluate(rows, test, [SMALL], 1, QUICK).rows[0]
    by_recipe = evaluate(hard, test, [SMALL], 1, QUICK.replace(loss="mse")).rows[0]
    assert by_kind.accuracies == by_recipe.accuracies
    assert by_kind.mean > 0.5


def test_regression_labels_refuse_cutmix(digits: Pair) -> None:
    train, test = digits
    hard = random_set(train, 1)
    rows = with_labels(hard, F.one_hot(hard.labels, 10).float() - 0.1, "regression")
    with pytest.raises(ConfigError, match=r"cutmix=0\.5.*regression labels.*set cutmix to 0"):
        evaluate(rows, test, [TINY], 1, BRIEF.replace(cutmix=0.5))


def test_artifact_brings_its_own_recipe(digits: Pair) -> None:
    train, test = digits
    distilled = random_set(train, 1, recipe=BRIEF.model_dump(mode="json"))
    result = evaluate(distilled, test, [TINY], 1)
    assert result.recipe == BRIEF
    assert result.rows[0].steps == 4
    assert recipe_of(random_set(train, 1)) == TrainingRecipe.standard("digits")


def test_result_survives_json(digits: Pair) -> None:
    train, test = digits
    result = evaluate(random_set(train, 1), test, [TINY], 2, BRIEF)
    content = json.loads(json.dumps(result.as_dict()))
    assert EvaluationResult.from_dict(content) == result
    row = content["rows"][0]
    assert (row["mean"], row["std"]) == (result.rows[0].mean, result.rows[0].std)
    assert tuple(row["interval95"]) == result.rows[0].interval95
    assert content["budget"]["images"] == 10
    assert result.row(TINY.canonical()) == result.rows[0]
    with pytest.raises(ConfigError, match="not evaluated"):
        result.row("resnet18")
    with pytest.raises(ConfigError, match="rows"):
        EvaluationResult.from_dict({"results": []})
    with pytest.raises(ConfigError, match="test_size"):
        EvaluationResult.from_dict({**content, "test_size": "many"})


def test_rows_report_the_statistics_of_their_networks() -> None:
    row = ArchitectureResult(architecture="convnet", accuracies=(0.5, 0.6, 0.7), seeds=(1, 2, 3), seconds=1.0, steps=5)
    assert row.mean == pytest.approx(0.6)
    assert row.std == pytest.approx(0.08165, abs=1e-5)
    assert row.interval95 == pytest.approx((0.6 - 0.2484, 0.6 + 0.2484), abs=1e-4)


def test_progress_names_the_architecture(digits: Pair) -> None:
    train, test = digits
    seen: list[tuple[str, int, int]] = []
    evaluate(random_set(train, 1), test, [TINY], 2, BRIEF, stacked=False, progress=lambda *call: seen.append(call))
    assert seen == [(TINY.canonical(), done, 8) for done in range(1, 9)]


def test_test_set_that_is_the_source_is_refused(digits: Pair) -> None:
    train, _ = digits
    with pytest.raises(DataError, match="made from"):
        evaluate(random_set(train, 1), train, [TINY], 1, BRIEF)
    with pytest.raises(DataError, match="training set"):
        evaluate_real(train, train, [TINY], 1, BRIEF)


def test_other_classes_or_sizes_are_refused(digits: Pair) -> None:
    train, test = digits
    distilled = random_set(train, 1)
    small = RealData.from_tensors(test.images[:, :, :4], test.labels, split="test")
    with pytest.raises(DataError, match="1x8x8 but test images 1x4x8"):
        evaluate(distilled, small, [TINY], 1, BRIEF)
    with pytest.raises(DataError, match="1x8x8 in 10 classes"):
        evaluate_real(train, small, [TINY], 1, BRIEF)
    fewer = RealData.from_tensors(test.images, test.labels % 5, split="test")
    with pytest.raises(DataError, match="10 classes, the test set 5"):
        evaluate(distilled, fewer, [TINY], 1, BRIEF)
    words = RealData.from_tensors(test.images, test.labels, class_names=[f"sort {i}" for i in range(10)])
    named = DistilledDataset(
        images=distilled.images,
        labels=distilled.labels,
        class_names=[f"kind {i}" for i in range(10)],
        preprocessing=distilled.preprocessing,
    )
    with pytest.raises(DataError, match="'kind 0' in the distilled set and 'sort 0'"):
        evaluate(named, words, [TINY], 1, BRIEF)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda one: one.images.fill_(float("nan")), "NaN"),
        (lambda one: one.labels.mul_(2), "declared probabilities"),
        (lambda one: one.labels.fill_(float("inf")), "labels contain NaN or infinite"),
    ],
)
def test_sets_changed_after_construction_are_refused(digits: Pair, damage: object, message: str) -> None:
    train, test = digits
    hard = random_set(train, 1)
    soft = with_labels(hard, F.one_hot(hard.labels, 10).float(), "soft")
    damage(soft)  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        evaluate(soft, test, [TINY], 1, BRIEF)


def test_missing_class_and_batch_norm_on_few_images_are_warned_of(digits: Pair) -> None:
    train, test = digits
    hard = random_set(train, 1)
    missing = with_labels(hard, hard.labels.clamp(max=8), "hard")
    with pytest.warns(UserWarning, match="class 9"):
        evaluate(missing, test, [TINY], 1, BRIEF)
    spec = ModelSpec("convnet", {"depth": 1, "width": 8, "norm": "batch"})
    with pytest.warns(UserWarning, match="batch norm"):
        evaluate(hard, test, [spec], 1, BRIEF)


def test_nothing_to_evaluate_is_refused(digits: Pair) -> None:
    train, test = digits
    with pytest.raises(ConfigError, match="0 repeats"):
        evaluate(random_set(train, 1), test, [TINY], 0, BRIEF)
    with pytest.raises(ConfigError, match="architectures"):
        evaluate(random_set(train, 1), test, [], 1, BRIEF)
    with pytest.raises(ConfigError, match="convnet"):
        evaluate(random_set(train, 1), test, ["convent"], 1, BRIEF)


def test_class_that_prevails_in_no_soft_label_is_not_called_missing(
    digits: Pair, recwarn: pytest.WarningsRecorder
) -> None:
    train, test = digits
    hard = random_set(train, 1, config={"recipe": "dc"})
    rows = F.one_hot(hard.labels, 10).float()
    rows[4] = 0.6 * rows[3] + 0.4 * rows[4]
    soft = with_labels(hard, rows, "soft")
    evaluate(soft, test, [TINY], 1, BRIEF)
    assert not [warning for warning in recwarn if "no image of class" in str(warning.message)]
    rows[4] = rows[3]
    with pytest.warns(UserWarning, match="no image of class 4"):
        evaluate(with_labels(hard, rows, "soft"), test, [TINY], 1, BRIEF)


def test_distilled_set_with_soft_labels_counts_its_images_by_their_order(digits: Pair) -> None:
    hard = random_set(digits[0], 2, config={"ipc": 2})
    rows = torch.full((20, 10), 0.1)
    assert with_labels(hard, rows, "soft").ipc == 2
    bare = DistilledDataset(
        hard.images, rows, label_kind="soft", class_names=hard.class_names, preprocessing=hard.preprocessing
    )
    assert bare.ipc is None


@pytest.mark.parametrize(
    ("given", "seconds", "fast", "expected"),
    [
        ({}, 1e9, True, ("float32", False)),
        ({}, 0.0, True, ("bfloat16", True)),
        ({}, 0.0, False, ("float32", True)),
        ({"compile": False}, 0.0, True, ("float32", False)),
        ({"precision": "float32"}, 0.0, True, ("float32", True)),
        ({"stacked": True}, 0.0, True, ("float32", False)),
    ],
)
def test_training_is_compiled_where_that_pays(
    digits: Pair,
    monkeypatch: pytest.MonkeyPatch,
    given: dict[str, Any],
    seconds: float,
    fast: bool,
    expected: tuple[str, bool],
) -> None:
    """What is decided, with a training that is told of it and does not do it."""
    asked: list[tuple[str, bool]] = []
    module = importlib.import_module("ddkit.evaluation.evaluate")
    train = module.train_networks

    def told(*data: Any, precision: str, compile: bool, **options: Any) -> Any:
        asked.append((precision, compile))
        return train(*data, **options)

    monkeypatch.setattr(module, "train_networks", told)
    monkeypatch.setattr(module, "networks_at_once", lambda *_, **options: 0)
    monkeypatch.setattr(precisions, "COMPILE_PAYS_SECONDS", seconds)
    monkeypatch.setattr(precisions, "why_not_compile", lambda: None)
    monkeypatch.setattr(precisions, "bfloat16_is_fast", lambda device: fast)
    row = evaluate(random_set(digits[0], 1), digits[1], [TINY], 2, BRIEF, **given).rows[0]
    assert set(asked) == {expected} and (row.precision, row.compiled) == expected
