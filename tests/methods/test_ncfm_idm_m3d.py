"""Settings of NCFM, IDM and M3D: the published ones, and how they were carried over to steps of all classes at once."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ddkit import Distiller, methods
from ddkit.data import Preprocessing, RealData
from ddkit.methods import idm
from ddkit.testing import CHECKS, toy_data
from ddkit.testing.small import fit_small
from ddkit.training import recipe
from tests.methods.test_digits_accuracy import accuracy, fit, random_accuracy


def named(name: str, classes: int = 10, shape: tuple[int, int, int] = (3, 8, 8), per_class: int = 30) -> RealData:
    data = toy_data(shape, (per_class,) * classes)
    return RealData.from_tensors(data.images, data.labels, name=name)


def settings(method: str, data: RealData, ipc: int) -> dict[str, Any]:
    return methods.get(method).configure(data, ipc).as_dict()


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [
        ("cifar10", (3, 8, 8), [0.5, 0.5, 0.5, 0.1]),
        ("cifar100", (3, 8, 8), [0.5, 0.5, 0.1, 0.1]),
        ("tiny-imagenet-200", (3, 8, 8), [0.5, 0.5, 0.5, 0.8]),
        ("photos", (3, 128, 128), [3.0] * 4),
        ("mnist", (1, 8, 8), [0.5] * 4),
    ],
)
def test_weights_of_idm_are_the_published_ones(name: str, shape: tuple[int, int, int], weights: list[float]) -> None:
    data = named(name, 3, shape, 2)
    assert [idm.weight(data, ipc) for ipc in (1, 2, 10, 50)] == weights


def test_idm_trains_networks_as_much_as_a_queue_of_a_hundred() -> None:
    """100 networks that are replaced every 30 steps live 3,000, of which each serves 30 and is trained after each."""
    for name, ipc, life, images in [
        ("cifar10", 1, 5, 5120),
        ("cifar10", 10, 30, 5120),
        ("cifar100", 10, 30, 25_600),
        ("cifar100", 50, 30, 20_480),
    ]:
        networks = settings("idm", named(name), ipc)["networks"]
        assert (networks["life"], networks["images"], networks["batch_size"]) == (life, images, 256)
        assert (networks["cutmix"], networks["augmentation"]) == (0.0, "none")


def test_rate_of_idm_counts_on_pixels_and_its_weight_over_all_classes() -> None:
    data = named("cifar10").with_preprocessing(Preprocessing((0.5,) * 3, (0.2, 0.25, 0.3)))
    config = settings("idm", data, 10)
    assert config["optimiser"]["lr"] == pytest.approx(0.4 * (0.04 + 0.0625 + 0.09) / 3, rel=2e-3)
    assert config["optimiser"]["momentum"] == 2**-10
    assert config["objective"]["ce_weight"] == 5.0 and config["objective"]["ce_by_accuracy"]
    assert [settings("idm", data, ipc)["objective"]["real_batch"] for ipc in (1, 10)] == [5000, 256]
    assert config["synthesis"]["batch_images"] == 40


def test_settings_of_ncfm_are_the_published_ones() -> None:
    config = settings("ncfm", named("cifar10", per_class=26), 10)
    assert config["networks"]["steps"] == 60 * 3 and config["networks"]["blend"]
    assert (config["networks"]["runs"], config["networks"]["stages"], config["networks"]["cutmix"]) == (20, 2, 0.5)
    assert config["objective"]["ce_weight"] == pytest.approx(10 / 300) and config["objective"]["ce_network"] == "last"
    assert config["optimiser"]["lr"] == pytest.approx(1e-3 * math.sqrt(20))
    epochs = [settings("ncfm", named("tinyimagenet"), ipc)["recipe"]["epochs"] for ipc in (1, 10, 50)]
    assert epochs == [2000, 300, 40] and config["recipe"]["epochs"] == 2000


def test_ncfm_trains_with_adam_whose_rate_is_halved_four_times() -> None:
    how = recipe("ncfm", "cifar10")
    assert (how.optimiser, how.batch_size, how.cutmix, how.augmentation) == ("adam", 128, 0.5, "color+crop+flip")
    assert [how.rate(epoch) for epoch in (0, 399, 400, 1999)] == [1e-3, 1e-3, 5e-4, 1e-3 / 16]
    assert recipe("ncfm", "mnist").augmentation == "color+crop"


def test_settings_of_m3d_are_those_of_its_program() -> None:
    config = settings("m3d", named("cifar10"), 10)
    assert (config["steps"], config["networks"]["serve"], config["objective"]["real_batch"]) == (5000, 5, 128)
    assert config["optimiser"]["name"] == "adam" and config["recipe"]["cutmix"] == 1.0
    assert (config["synthesis"]["factor"], config["synthesis"]["batch_images"]) == (2, 200)


@pytest.mark.filterwarnings("ignore:factor 2")
def test_killed_runs_of_longer_lives_go_on_to_the_same_bytes() -> None:
    """With cross-entropies, blended networks, members in turn and a network in the middle of its service."""
    for method, overrides in (
        ("ncfm", {"steps": 7, "networks": {"runs": 2}}),
        ("idm", {"steps": 7, "networks": {"pool": 2, "life": 3}}),
        ("m3d", {"steps": 7}),
    ):
        CHECKS["resumed_run_equals_uninterrupted_run"](method, overrides)


@pytest.mark.filterwarnings("ignore:factor 2")
def test_each_preset_leaves_its_trace_in_the_images() -> None:
    results = [fit_small(name, {}).tensors()[0] for name in ("ncfm", "idm", "m3d")]
    results.append(fit_small("ncfm", {"objective": {"ce_weight": 0.0}}).tensors()[0])
    results.append(fit_small("ncfm", {"networks": {"blend": False}}).tensors()[0])
    results.append(fit_small("idm", {"objective": {"ce_by_accuracy": False}}).tensors()[0])
    assert all(bool(images.isfinite().all()) for images in results)
    assert not any(torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])


def test_pieces_of_the_presets_go_into_a_plain_run_without_formations() -> None:
    config = Distiller("ncfm", 1, synthesis="pixels").configure(named("cifar10"))
    assert config.composition == "ncfm x pixels" and config.optimiser.lr == 0.02


@pytest.mark.parametrize(("ipc", "margin"), [(1, 12.0), (10, 1.5)])
@pytest.mark.parametrize("objective", ["characteristic", "discrepancy"])
def test_distances_of_distributions_beat_random_images(objective: str, ipc: int, margin: float) -> None:
    options: dict[str, Any] = {
        "steps": 80,
        "augmentation": "none",
        "objective": {"name": objective, "real_batch": 64},
        "networks": {"name": "fixed", "count": 10},
        "optimiser": {"lr": 0.05},
    }
    assert accuracy(fit("dm", ipc, **options)) >= random_accuracy(ipc) + margin
