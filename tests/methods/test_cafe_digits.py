"""Small real runs of feature alignment on scikit-learn's digits.

Where class means are matched, a flipped sign of the discrimination loss costs no accuracy that could be measured, so
that loss is tested alone as well: with the wrong sign it ends near 20 %.
"""

from __future__ import annotations

from typing import Any

import pytest

from ddkit import data, methods
from ddkit.data.distilled.dataset import DistilledDataset

from .test_digits_accuracy import accuracy, fit, random_accuracy

#: A few networks instead of thousands: batches, queries and loops of a size that suits 1300 images of 8x8.
SMALL: dict[str, Any] = {
    "steps": 72,
    "init": "real",
    "networks": {"query": 16, "max_inner_epochs": 30, "max_updates": 25},
}


def cafe(ipc: int, seed: int = 0, objective: dict[str, Any] | None = None, **options: Any) -> DistilledDataset:
    return fit("cafe", ipc, seed, objective={"real_batch": 32, **(objective or {})}, **{**SMALL, **options})


def mean_over_seeds(seeds: int, *arguments: Any, **options: Any) -> float:
    return sum(accuracy(cafe(*arguments, seed=seed, **options)) for seed in range(seeds)) / seeds


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_cafe_beats_random_images(seeds: int) -> None:
    assert mean_over_seeds(seeds, 1) >= random_accuracy(1) + 12


@pytest.mark.slow
def test_cafe_beats_random_images_at_ten_per_class() -> None:
    # The gradient of an image falls with 1/IPC, and 72 updates are few: seed 0 reaches 94.7 at the published rate of
    # 0.1 (96.3 after 200 updates) and 96.2 at 0.5. Three seeds gain 3.3 points on random images, plain distribution
    # matching (200 steps) 2.8. beta is 0.01 times the 320 real images, the authors' factor on the sum.
    optimiser = {"lr": 0.5, "schedule": "constant", "milestones": []}
    reached = mean_over_seeds(3, 10, objective={"beta": 3.2}, optimiser=optimiser)
    assert reached >= random_accuracy(10) + 2.5


@pytest.mark.parametrize("seeds", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_discrimination_alone_learns_the_classes(seeds: int) -> None:
    assert mean_over_seeds(seeds, 1, objective={"weights": [0.0, 0.0, 0.0]}, steps=40) >= 75


@pytest.mark.slow
def test_augmented_cafe_beats_random_images_from_noise() -> None:
    options = {**SMALL, "init": "noise", "objective": {"real_batch": 32}}
    assert accuracy(fit("cafe-dsa", 1, **options), networks=3) >= random_accuracy(1) + 8


@pytest.mark.parametrize("name", ["cafe", "cafe-dsa"])
def test_presets_hold_the_published_settings(name: str) -> None:
    real, _ = data.load_pair("digits")
    config = methods.get(name).configure(real, 10)
    assert config.objective is not None and config.objective.name == "alignment"
    assert config.networks.options["outer_threshold"] == 0.04
    assert config.networks.options["inner_threshold"] == 0.03
    rates = [config.optimiser.rate(step, config.steps) for step in (1, 12_000, 12_001, 16_001, 18_001)]
    assert rates == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.0125])
    assert config.init == "noise"
    assert (config.augmentation == "none") == (name == "cafe")
    assert config.recipe.options.get("epochs") == (600 if name == "cafe" else None)
