"""Small real runs of label distillation on scikit-learn's digits: labels teach what the images alone do not."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from ddkit import Distiller, data
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.evaluation import evaluate, recipe_of
from ddkit.training import TrainingRecipe, recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*never restarted", "ignore:the distilled set has no image of class")

MODEL = "mlp:width=64"
HALF = {"classes": [0, 1, 2, 3, 4]}


@functools.cache
def digits() -> tuple[RealData, RealData]:
    return data.load_pair("digits")


def fit(method: str, ipc: int, steps: int, seed: int = 0, **options: Any) -> DistilledDataset:
    small = {"precision": "float32", "compile": False, "device": "cpu", "networks": {"gap": 50}}
    small["model"] = options.pop("model", MODEL)
    objective = {"real_images": 256, **options.pop("objective", {})}
    return Distiller(method, ipc, seed=seed, steps=steps, objective=objective, **small, **options).fit(digits()[0])


def with_true_labels(distilled: DistilledDataset, classes: list[int]) -> DistilledDataset:
    """Return the same images with their classes."""
    labels = torch.tensor(classes).repeat_interleave(len(distilled) // len(classes))
    return DistilledDataset(
        distilled.images, labels, class_names=distilled.class_names, preprocessing=distilled.preprocessing
    )


def accuracy(distilled: DistilledDataset, batch: int) -> float:
    """Mean test accuracy in percent of three networks after as many steps as the method says."""
    steps = distilled.metadata["networks"]["training_steps"] if "networks" in distilled.metadata else 114
    epochs = max(1, steps * batch // len(distilled))
    how = recipe("adam", "digits", epochs=epochs, batch_size=batch, loss="ce")
    return 100 * evaluate(distilled, digits()[1], (MODEL,), repeats=3, recipe=how).rows[0].mean


def test_labels_teach_five_digits_of_which_there_is_no_image() -> None:
    """True labels cannot pass 50. Measured with the preset's rate and 4000 steps: 83.0 against 47.6."""
    distilled = fit("ld", 20, 800, synthesis=HALF, optimiser={"lr": 0.004})
    assert distilled.images.shape[0] == 100 and distilled.label_kind == "soft"
    assert accuracy(distilled, 50) >= accuracy(with_true_labels(distilled, HALF["classes"]), 50) + 25


def test_labels_that_are_not_learned_teach_nothing() -> None:
    distilled = fit("ld", 20, 1, synthesis=HALF, optimiser={"lr": 1e-12})
    assert accuracy(distilled, 50) < 25


@pytest.mark.slow
def test_regression_teaches_five_unseen_digits_with_the_rate_of_the_preset() -> None:
    distilled = fit("ld", 20, 4000, synthesis=HALF)
    assert accuracy(distilled, 50) >= accuracy(with_true_labels(distilled, HALF["classes"]), 50) + 25


@pytest.mark.slow
def test_one_look_ahead_step_teaches_five_unseen_digits() -> None:
    """Measured with 3000 steps: 82.3 against 48.4."""
    distilled = fit("ld-or2", 20, 4000, synthesis=HALF, objective={"lr": 0.1})
    assert accuracy(distilled, 50) >= accuracy(with_true_labels(distilled, HALF["classes"]), 50) + 25


@pytest.mark.slow
def test_one_look_ahead_step_recovers_the_hidden_classes() -> None:
    distilled = fit("ld-or2", 10, 2000, objective={"lr": 0.1})
    hidden = torch.arange(10).repeat_interleave(10)
    assert float((distilled.labels.argmax(1) == hidden).float().mean()) >= 0.85


def regression_accuracy(distilled: DistilledDataset, how: TrainingRecipe) -> float:
    """Mean test accuracy in percent of five networks trained by the published procedure of LD-RR."""
    return 100 * evaluate(distilled, digits()[1], (f"{MODEL},init=xavier",), repeats=5, recipe=how).rows[0].mean


@pytest.mark.slow
def test_labels_of_ten_images_beat_true_ones_under_the_regression() -> None:
    """Measured: 76.8 against 65.2 and 78.5 against 66.8 for seeds 0 and 1."""
    gains = []
    for seed in range(3):
        distilled = fit("ld", 1, 4000, seed, model=f"{MODEL},init=xavier")
        how = recipe_of(distilled)
        assert how.head == "ridge"
        true = with_true_labels(distilled, list(range(10)))
        gains.append(regression_accuracy(distilled, how) - regression_accuracy(true, how))
    assert min(gains) >= 4 and sum(gains) / 3 >= 8
