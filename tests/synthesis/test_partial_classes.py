"""Synthetic sets without images of some classes: what is numbered, counted and refused."""

from __future__ import annotations

import pytest
import torch

from ddkit import Distiller
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DataError
from ddkit.synthesis import Pixels
from ddkit.testing import toy_data


def partial(classes: list[int] | None, ipc: int = 2, how: str = "real", **options) -> Pixels:
    data = toy_data()
    pixels = Pixels(3, ipc, data.shape, classes=classes, **options)
    pixels.initialise(data, how, torch.Generator().manual_seed(0))
    return pixels


@pytest.mark.parametrize("how", ["real", "noise", "mean"])
def test_only_named_classes_have_images(how: str) -> None:
    pixels = partial([0, 2], how=how)
    assert pixels.present == (0, 2) and len(pixels) == 4
    assert pixels.classes.tolist() == pixels()[1].tolist() == [0, 0, 2, 2]
    assert pixels()[0].shape == (4, 1, 8, 8)
    if how == "real":
        assert toy_data().labels[pixels.pairs].tolist() == [0, 0, 2, 2]


def test_numbering_counts_classes_that_have_images() -> None:
    pixels = partial([0, 2])
    assert pixels.index_of(torch.tensor([2])).tolist() == [2, 3]
    assert pixels.batch_index(torch.tensor([0, 2]), torch.Generator()).tolist() == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match=r"class 1 has no synthetic images: only \[0, 2\]"):
        pixels.index_of(torch.tensor([0, 1]))


def test_all_classes_named_is_the_same_as_none_named() -> None:
    every, none = partial([0, 1, 2]), partial(None)
    assert torch.equal(every.images, none.images) and torch.equal(every.classes, none.classes)


def test_budget_counts_stored_images_only() -> None:
    budget = partial([0, 2], labels="free").budget()
    assert (budget.images, budget.decoded_images, budget.floats) == (4, 4, 4 * 64 + 4 * 3)


def test_inner_batches_hold_what_is_there() -> None:
    batch = partial([1])
    assert sorted(batch.inner_batches(1, None, torch.Generator())[0].tolist()) == [0, 1]


@pytest.mark.parametrize("classes", [[], [0, 0], [2, 1], [-1, 1], [1, 3]])
def test_classes_that_are_none_are_refused(classes: list[int]) -> None:
    with pytest.raises(ConfigError, match="must be different numbers from 0 to 2, ascending"):
        partial(classes)


def test_only_named_classes_have_to_hold_enough_images() -> None:
    assert len(partial([1], ipc=12)) == 12
    with pytest.raises(DataError, match="ipc=12 is larger than class 'class-0'"):
        partial([0, 1], ipc=12)


@pytest.mark.parametrize("objective", ["distribution", "gradient"])
def test_objectives_that_compare_every_class_refuse(objective: str) -> None:
    distiller = Distiller("dm", 2, steps=1, objective=objective, synthesis={"name": "pixels", "classes": [0, 2]})
    with pytest.raises(ConfigError, match=r"class 1 has no synthetic images, and .* compares every class"):
        distiller.fit(toy_data())


def test_a_run_and_its_file_hold_the_named_classes(tmp_path) -> None:
    small = {"model": "mlp:width=8", "precision": "float32", "compile": False, "device": "cpu"}
    distiller = Distiller(
        "ld", 2, steps=3, synthesis={"classes": [0, 2]}, objective={"batch_syn": 3, "real_images": 8}, **small
    )
    with pytest.warns(UserWarning, match="never restarted within 3 steps"):
        distilled = distiller.fit(toy_data())
    loaded = DistilledDataset.load(distilled.save(tmp_path / "a.safetensors"))
    assert loaded.images.shape == (4, 1, 8, 8) and loaded.labels.shape == (4, 3) and loaded.label_kind == "soft"
