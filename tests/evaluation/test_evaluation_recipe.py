"""Does a recipe run exactly the epochs, rates and optimisers that it promises?"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.training import RECIPES, TrainingRecipe, recipe


@pytest.mark.parametrize(("epochs", "high", "low"), [(300, 152, 149), (1000, 502, 499), (1, 2, 0), (2, 3, 0)])
def test_halve_runs_one_epoch_more_and_drops_after_the_middle(epochs: int, high: int, low: int) -> None:
    training = TrainingRecipe(epochs=epochs)
    rates = [training.rate(epoch) for epoch in range(training.total_epochs)]
    assert training.total_epochs == epochs + 1
    assert rates == [0.01] * high + [0.01 * 0.1] * low


def test_halve_rebuilds_the_optimiser_exactly_where_the_rate_drops() -> None:
    training = TrainingRecipe(epochs=300)
    rebuilt = [epoch for epoch in range(training.total_epochs) if training.rebuilds_optimiser(epoch)]
    assert rebuilt == [0, 152]


def test_steps_count_partial_batches() -> None:
    assert TrainingRecipe(epochs=300).steps(10) == 301
    assert TrainingRecipe(epochs=300).steps(500) == 301 * 2
    assert TrainingRecipe(epochs=300, schedule="constant").steps(257) == 600


def test_cosine_starts_at_the_rate_and_is_half_way_down_in_the_middle() -> None:
    training = TrainingRecipe(epochs=10, lr=0.2, schedule="cosine")
    assert training.total_epochs == 10
    assert training.rate(0) == 0.2
    assert math.isclose(training.rate(5), 0.1)
    assert [e for e in range(10) if training.rebuilds_optimiser(e)] == [0]


def test_steps_drop_at_shares_of_the_epochs_without_rebuilding_the_optimiser() -> None:
    training = TrainingRecipe(epochs=12, lr=0.5, schedule="steps", milestones=(1 / 3, 0.75), gamma=0.2)
    assert training.total_epochs == 12
    rates = [training.rate(epoch) for epoch in range(12)]
    assert rates == pytest.approx([0.5] * 4 + [0.1] * 5 + [0.02] * 3)
    assert [e for e in range(12) if training.rebuilds_optimiser(e)] == [0]


@pytest.mark.parametrize("epochs", [1000, 300, 1500, 7])
def test_idc_drops_at_the_epochs_of_its_authors(epochs: int) -> None:
    training = recipe("idc", "cifar10", epochs=epochs)
    scheduler = [2 * epochs // 3, 5 * epochs // 6]
    expected = [0.01 * 0.2 ** sum(epoch >= drop for drop in scheduler) for epoch in range(epochs)]
    assert [training.rate(epoch) for epoch in range(training.total_epochs)] == pytest.approx(expected)


def test_milestones_that_rounding_puts_below_an_epoch_are_on_time() -> None:
    training = TrainingRecipe(epochs=100, lr=1.0, schedule="steps", milestones=(0.29,))
    assert (training.rate(28), training.rate(29)) == (1.0, 0.1)  # 0.29 * 100 is 28.999999999999996


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "steps"}, r"milestones=.*give some"),
        ({"schedule": "cosine", "milestones": [0.5]}, r"set milestones=\[\]"),
        ({"milestones": [0.5]}, r"set milestones=\[\]"),
        ({"schedule": "steps", "milestones": [0.75, 0.5]}, "ascending"),
        ({"schedule": "steps", "milestones": [0.5, 0.5]}, "ascending"),
        ({"schedule": "steps", "milestones": [0.5, 1.0]}, "between 0 and 1"),
        ({"schedule": "steps", "milestones": [float("nan")]}, "between 0 and 1"),
        ({"schedule": "steps", "milestones": [0.5], "gamma": 0.0}, "gamma=0.0"),
        ({"loss": "mse", "cutmix": 0.5}, "cutmix=0.5.*cross-entropy only.*set cutmix to 0"),
    ],
)
def test_fields_that_do_not_fit_each_other_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingRecipe(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"momentum": 1.0},
        {"batch_size": 0},
        {"epoch": 3},
        {"cutmix": 1.5},
        {"cutmix": float("nan")},
    ],
)
def test_values_out_of_range_are_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainingRecipe(**wrong)


def test_unknown_augmentation_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="colour"):
        TrainingRecipe(augmentation="colour_crop")


def test_presets_follow_the_dataset() -> None:
    assert recipe("dc", "mnist").augmentation == "none"
    assert recipe("dc", "mnist").epochs == 300
    assert "flip" not in recipe("dsa", "mnist").augmentation
    assert "flip" in recipe("dsa", "cifar10").augmentation
    assert recipe("dsa", "cifar10").epochs == 1000
    assert recipe("idc", "cifar10").augmentation == "color+crop+flip+scale+rotate"
    assert recipe("idc", "svhn").augmentation == "color+crop+scale+rotate"
    assert recipe("idc", "mnist").cutmix == 0.5 and recipe("idc", "mnist").batch_size == 64
    assert all(preset("digits").name == name for name, preset in RECIPES.items())


def test_overrides_are_checked() -> None:
    assert recipe("quick", "digits", epochs=7).epochs == 7
    with pytest.raises(UnknownNameError, match="epochs"):
        recipe("quick", "digits", epoch=7)
    with pytest.raises(UnknownNameError, match="quick"):
        recipe("quik", "digits")


def test_auto_loss_follows_the_label_kind() -> None:
    assert [TrainingRecipe().loss_for(kind) for kind in ("hard", "soft", "regression")] == ["ce", "ce", "mse"]
    assert TrainingRecipe(loss="mse").loss_for("hard") == "mse"


def test_a_recipe_augments_by_its_augmentation_or_by_cutmix() -> None:
    assert not TrainingRecipe().augments
    assert TrainingRecipe(augmentation="crop").augments and TrainingRecipe(cutmix=0.1).augments


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_survives_its_dictionary(name: str) -> None:
    training = recipe(name, "cifar10", lr=0.02)
    stored = json.loads(json.dumps(training.model_dump(mode="json")))
    assert TrainingRecipe(**stored) == training


def test_recipes_stored_before_steps_and_cutmix_existed_still_load() -> None:
    training = recipe("dsa", "cifar10")
    stored = training.model_dump(mode="json", exclude={"milestones", "gamma", "cutmix"})
    assert TrainingRecipe(**stored) == training
