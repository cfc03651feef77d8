"""Small real runs of RTP on scikit-learn's digits: ten images' worth of numbers, learned through 30 inner steps."""

from __future__ import annotations

import functools

import pytest

from ddkit import Distiller, data
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.evaluation import evaluate
from ddkit.training import TrainingRecipe

MODEL = "mlp:width=64,standardise=true"


@functools.cache
def digits() -> tuple[RealData, RealData]:
    return data.load_pair("digits")


def fit(steps: int, seed: int = 0) -> DistilledDataset:
    small = {"precision": "float32", "compile": False, "device": "cpu", "model": MODEL}
    return Distiller("rtp", 1, seed=seed, steps=steps, **small).fit(digits()[0])


def accuracy(distilled: DistilledDataset, repeats: int) -> float:
    """Mean test accuracy in percent under RTP's recipe, which the result of :func:`fit` carries."""
    how = TrainingRecipe(**fit(0).metadata["recipe"])
    return 100 * evaluate(distilled, digits()[1], (MODEL,), repeats=repeats, recipe=how).rows[0].mean


def test_start_of_a_memory_teaches_nothing_and_fits_the_budget() -> None:
    distilled = fit(0)
    assert (distilled.budget.floats, distilled.budget.decoded_images) == (616, 90)
    assert accuracy(distilled, 3) < 40


@pytest.mark.slow
def test_memory_beats_random_images_of_the_same_budget() -> None:
    """Measured: 87.2 against 58.1 on average over five draws."""
    random = [Distiller("random", 1, seed=seed).fit(digits()[0]) for seed in range(5)]
    baseline = sum(accuracy(chosen, 2) for chosen in random) / 5
    assert accuracy(fit(400), 5) >= baseline + 20
