"""FRePo: the settings of the preset, and small real runs against random images."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest

from ddkit import Distiller, data, methods
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.evaluation import evaluate
from ddkit.methods.frepo import evaluation, flips
from ddkit.models import ModelSpec
from ddkit.testing import CHECKS, toy_data
from ddkit.testing.small import fit_small
from ddkit.training import TrainingRecipe

MNIST = Path(os.environ.get("DDKIT_DATA", ""))
#: Plain Adam on squared errors, all images in one batch.
PLAIN = TrainingRecipe(
    name="plain", epochs=400, optimiser="adam", lr=1e-3, weight_decay=0.0, schedule="constant", loss="mse"
)


def named(name: str, classes: int = 10, shape: tuple[int, int, int] = (3, 8, 8)) -> RealData:
    real = toy_data(shape, (2,) * classes)
    return RealData.from_tensors(real.images, real.labels, class_names=real.class_names, name=name, split="train")


@pytest.mark.parametrize(
    ("name", "classes", "ipc", "expected"),
    [
        ("cifar10", 10, 1, True),
        ("cifar10", 10, 50, True),
        ("cifar100", 100, 1, True),
        ("cifar100", 100, 10, False),
        ("tiny-imagenet-200", 200, 1, True),
        ("tiny-imagenet-200", 200, 10, False),
        ("cub-200", 200, 10, True),
        ("imagenet", 1000, 1, False),
        ("svhn", 10, 1, False),
    ],
)
def test_support_is_mirrored_where_published(name: str, classes: int, ipc: int, expected: bool) -> None:
    assert flips(named(name, classes), ipc) is expected
    config = methods.get("frepo").configure(named(name, classes), ipc)
    assert config.objective is not None and config.objective.options["flip"] is expected


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "digits"])
def test_grey_images_are_neither_mirrored_nor_whitened(name: str) -> None:
    config = methods.get("frepo").configure(named(name, shape=(1, 8, 8)), 1)
    assert config.objective is not None and not config.objective.options["flip"]
    assert config.zca is None
    assert methods.get("frepo").configure(named("cifar10"), 1).zca == "standardised"


@pytest.mark.parametrize(
    ("images", "steps"),
    [(2, 1000), (10, 1000), (100, 2000), (200, 20_000), (500, 5000), (1000, 10_000), (2000, 40_000), (5000, 40_000)],
)
def test_networks_are_judged_after_the_published_number_of_steps(images: int, steps: int) -> None:
    options = evaluation(images)
    assert options["epochs"] * -(-images // 500) == steps
    assert options["warmup"] * steps == pytest.approx(500)


def test_labels_of_many_classes_start_smaller() -> None:
    scales = {k: methods.get("frepo").configure(named("x", k), 1).synthesis.options["label_scale"] for k in (10, 40)}
    assert scales == {10: 1.0, 40: 0.5}


def test_model_of_the_preset_is_the_published_network() -> None:
    config = methods.get("frepo").configure(toy_data((3, 4, 4), (501,) * 10), 1)
    assert config.steps == 500_000 and config.optimiser.lr == 3e-4
    network = ModelSpec.parse(config.model).build((3, 32, 32), 10, 0)
    assert network.classifier.in_features == 8192


@pytest.mark.parametrize("method", ["frepo", "rfad", "rtp"])
def test_small_sets_are_not_given_the_schedule_of_large_ones(method: str) -> None:
    small, large = (methods.get(method).configure(toy_data((1, 8, 8), (n,) * 10), 1) for n in (4, 501))
    assert small.steps <= 1000 < large.steps and small.optimiser.lr != large.optimiser.lr
    assert ModelSpec.parse(small.model).canonical() != ModelSpec.parse(large.model).canonical()


def test_resumed_run_with_batch_norm_equals_an_uninterrupted_one() -> None:
    """Networks are renewed on the way, their statistics are part of the checkpoint."""
    model = "convnet:width=4,depth=2,growth=2,norm=batch,norm_position=before,init=lecun"
    overrides = {"model": model, "networks": {"size": 2, "max_updates": 1, "batch": 4}, "steps": 7}
    whole = fit_small("frepo", overrides)
    assert whole.metadata["networks"]["drawn"] > 2
    CHECKS["resumed_run_equals_uninterrupted_run"]("frepo", overrides)


@pytest.mark.parametrize(("method", "objective"), [("dm", "distribution"), ("dm", "gradient"), ("dd", "meta")])
def test_pool_serves_other_objectives_too(method: str, objective: str) -> None:
    networks = {"name": "online-pool", "size": 2, "max_updates": 1}
    overrides = {"networks": networks, "objective": objective, "model": "convnet:width=4,depth=2"}
    distilled = fit_small(method, overrides)
    assert distilled.metadata["networks"]["drawn"] >= 2
    CHECKS["resumed_run_equals_uninterrupted_run"](method, overrides)


@functools.cache
def digits() -> tuple[RealData, RealData]:
    return data.load_pair("digits")


def fit(ipc: int, width: int, seed: int = 0, **overrides: Any) -> DistilledDataset:
    """Distil with the preset at a small width and 400 steps, with a rate that suits so few."""
    options: dict[str, Any] = {
        "steps": 400,
        "model": f"convnet:width={width},norm=none,norm_position=before,init=lecun",
        "optimiser": {"lr": 3e-3},
        "objective": {"real_images": 256},
        **overrides,
    }
    return Distiller("frepo", ipc, seed=seed, **options).fit(digits()[0])


def accuracy(distilled: DistilledDataset, width: int, test: RealData | None = None, more: str = "") -> float:
    """Mean test accuracy in percent of two networks of that width and ``more`` options."""
    model = f"convnet:width={width},norm=none,init=lecun{more}"
    return 100 * evaluate(distilled, test or digits()[1], (model,), repeats=2, recipe=PLAIN).rows[0].mean


def random_images(ipc: int, seed: int = 0) -> DistilledDataset:
    return Distiller("random", ipc, seed=seed).fit(digits()[0])


def test_frepo_beats_random_images() -> None:
    reached = accuracy(fit(1, 64), 64)
    assert reached >= 83
    assert reached >= accuracy(random_images(1), 64) + 12


@pytest.mark.slow
def test_frepo_beats_random_images_with_batch_norm_in_the_pool() -> None:
    """The growing network of the preset, at a quarter of its width."""
    model = "convnet:width=32,growth=2,norm=batch,norm_position=before,init=lecun"
    distilled = fit(1, 64, model=model)
    assert distilled.metadata["networks"]["evaluation_model"].count("norm=none") == 1
    assert accuracy(distilled, 64) >= accuracy(random_images(1), 64) + 12


@pytest.mark.slow
def test_frepo_at_ten_images_beats_random_images() -> None:
    reached = sum(accuracy(fit(10, 32, seed, steps=600), 32) for seed in range(2)) / 2
    assert reached >= 95
    assert reached >= sum(accuracy(random_images(10, seed), 32) for seed in range(2)) / 2 + 1.5


@pytest.mark.slow
@pytest.mark.skipif(not (MNIST / "MNIST" / "raw").is_dir(), reason="DDKIT_DATA names no folder with MNIST/raw")
def test_frepo_beats_random_images_on_mnist() -> None:
    """Measured: 73.0, 78.1 and 74.4 % over three seeds, random images 49 to 52 %; networks differ by 2 to 4.

    The growing network is what it takes: with 16 channels in all layers it is 64 to 72 %.
    """
    train, test = data.load_pair("mnist")
    model = "convnet:width=16,growth=2,norm=none,norm_position=before,init=lecun"
    options = {"steps": 400, "optimiser": {"lr": 5e-3}, "objective": {"real_images": 256}, "precision": "float32"}
    distilled = Distiller("frepo", 1, model=model, **options).fit(train)
    reached = accuracy(distilled, 16, test, ",growth=2")
    assert reached >= 70
    assert reached >= accuracy(Distiller("random", 1).fit(train), 16, test, ",growth=2") + 15
