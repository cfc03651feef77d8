"""KFS: the sizes that the preset chooses, and small real runs against random images and pixels at equal numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from ddkit import Distiller, data
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.evaluation import evaluate
from ddkit.synthesis import SharedDecoders
from ddkit.synthesis.latent import sizes
from ddkit.testing import toy_data
from ddkit.training import TrainingRecipe

from .test_digits_accuracy import accuracy, fit, random_accuracy

MNIST = Path(os.environ.get("DDKIT_DATA", ""))


@pytest.mark.parametrize(
    ("shape", "classes", "ipc", "chosen", "codes"),
    [
        ((1, 28, 28), 10, 1, (2, 8, 4), 6),
        ((3, 32, 32), 10, 1, (3, 8, 8), 12),
        ((3, 32, 32), 100, 1, (3, 16, 8), 15),
        ((3, 64, 64), 200, 1, (3, 16, 8), 15),
        ((1, 28, 28), 10, 10, (6, 16, 8), 21),
        ((3, 32, 32), 10, 10, (10, 16, 4), 45),
        ((1, 8, 8), 10, 1, (2, 4, 1), 5),
    ],
)
def test_sizes_follow_the_budget(shape, classes, ipc, chosen, codes) -> None:
    options = sizes(shape, classes, ipc, smallest=5000)
    assert (options["code_channels"], options["hidden"], options["decoders"]) == chosen
    assert options["codes"] is None
    synthesizer = SharedDecoders(classes, ipc, shape, **options)
    assert len(synthesizer.codes) == classes * codes
    assert synthesizer.decoded_per_class <= 200


@pytest.mark.parametrize("smallest", [1, 2, 3, 5, 60, 130])
@pytest.mark.parametrize(("shape", "ipc"), [((1, 8, 8), 10), ((3, 8, 12), 2), ((1, 28, 28), 1)])
def test_small_classes_have_a_real_image_for_every_pair(shape, ipc, smallest) -> None:
    synthesizer = SharedDecoders(2, ipc, shape, **sizes(shape, 2, ipc, smallest))
    assert synthesizer.decoded_per_class <= max(smallest, synthesizer.decoders)
    assert synthesizer.decoders <= max(smallest, 2)


def test_option_of_the_preset_lets_the_codes_fit_anew() -> None:
    one = Distiller("kfs", 1, synthesis={"decoders": 1}, steps=0).configure(toy_data((1, 28, 28), (30,) * 10))
    assert SharedDecoders(10, 1, (1, 28, 28), **one.synthesis.options).decoded_per_class == 7


def changed(start: DistilledDataset, end: DistilledDataset) -> bool:
    """Whether all codes and every decoder moved."""
    pairs = [(a, b) for name, rows in start.stored.items() for a, b in zip(rows, end.stored[name], strict=True)]
    return not any(torch.equal(a, b) for a, b in pairs)


def test_kfs_beats_random_images_and_its_own_warm_start() -> None:
    options = {"augmentation": "none", "objective": {"real_batch": 64}}
    start, end = (fit("kfs", 1, steps=steps, **options) for steps in (0, 150))
    assert end.budget.floats <= 640 and len(end) == 50
    assert changed(start, end)
    reached = accuracy(end)
    assert reached >= random_accuracy(1) + 12
    assert reached >= accuracy(start) + 2


@pytest.mark.slow
@pytest.mark.skipif(not (MNIST / "MNIST" / "raw").is_dir(), reason="DDKIT_DATA names no folder with MNIST/raw")
def test_kfs_beats_pixels_and_random_images_on_mnist_at_equal_numbers() -> None:
    train, test = data.load_pair("mnist")
    test = test.subset(torch.arange(2000))
    model = "convnet:width=32"
    how = TrainingRecipe(name="plain", epochs=150, lr=0.02)

    def run(method: str, seed: int = 0, **options) -> DistilledDataset:
        return Distiller(method, 1, seed=seed, model=model, **options).fit(train)

    def score(distilled: DistilledDataset) -> float:
        return 100 * evaluate(distilled, test, (model,), repeats=2, recipe=how).rows[0].mean

    options = {"augmentation": "none", "objective": {"real_batch": 128}, "precision": "float32"}
    start, end = (run("kfs", steps=steps, **options) for steps in (0, 200))
    assert end.budget.floats <= 7840 and changed(start, end)
    reached = score(end)
    assert reached >= score(run("dm", steps=200, **options)) + 6
    assert reached >= sum(score(run("random", seed)) for seed in range(3)) / 3 + 30
    assert reached >= score(start) + 1.5
