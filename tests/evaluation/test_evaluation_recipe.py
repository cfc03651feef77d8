"""Does a recipe run exactly the epochs, rates and optimisers that it promises?"""

from __future__ import annotations

import math

import pytest

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.evaluation import RECIPES, TrainingRecipe, recipe


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


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"momentum": 1.0}, {"batch_size": 0}, {"epoch": 3}],
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


def test_recipe_survives_its_dictionary() -> None:
    training = recipe("dsa", "cifar10", lr=0.02)
    assert TrainingRecipe(**training.model_dump(mode="json")) == training
