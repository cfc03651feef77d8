"""Settings of LD, GTN and RTP: the published ones where there are any, pieces that fit at every IPC."""

from __future__ import annotations

import pytest

from ddkit import Distiller, methods
from ddkit.methods import gtn, ld, rtp
from ddkit.testing import toy_data

TEN = (4,) * 10


@pytest.mark.parametrize(("ipc", "batch"), [(1, 10), (2, 10), (5, 25), (10, 50), (20, 50), (50, 50)])
def test_inner_batches_of_ld_are_the_published_ones(ipc: int, batch: int) -> None:
    assert ld.inner_batch(10, ipc) == batch


def test_gaps_of_ld_are_the_published_ones() -> None:
    assert [ld.gap(10, ipc) for ipc in (1, 10, 20, 50)] == [50, 50, 200, 200]
    assert ld.gap(100, 1) == ld.gap(49, 10) == 100
    assert ld.inner_batch(100, 1) == 100


def test_network_of_ld_fits_the_images() -> None:
    shapes = {(1, 28, 28): "lenet", (3, 32, 32): "alexnet", (1, 8, 8): "mlp:width=64", (3, 4, 4): "mlp:width=64"}
    assert {shape: ld.architecture(toy_data(shape=shape)) for shape in shapes} == shapes


def test_variants_of_ld_differ_in_their_objective_only() -> None:
    data = toy_data(counts=TEN)
    first, second = (methods.get(name).configure(data, 1).as_dict() for name in ("ld", "ld-or2"))
    assert {key for key in first if first[key] != second[key]} == {"method", "objective"}
    assert first["objective"]["name"] == "ridge" and second["objective"]["inner_steps"] == 1


@pytest.mark.parametrize("ipc", [1, 2, 3, 4, 7, 10, 16, 50, 64])
def test_batches_of_gtn_divide_the_images_into_at_least_four_steps(ipc: int) -> None:
    images = gtn.per_batch(10, ipc)
    assert ipc % images == 0 and images * 10 <= 128
    settings = gtn.defaults(toy_data(counts=TEN), ipc)
    steps = settings["objective"]["inner_steps"]
    assert steps >= 4 and steps % (ipc // images) == 0
    assert settings["synthesis"]["per_batch"] == images and settings["objective"]["batches"] == ipc // images


def test_sizes_of_rtp_are_the_published_ones() -> None:
    settings = rtp.defaults(toy_data(shape=(3, 32, 32), counts=(501,) * 10), 1)
    assert settings["synthesis"] == {"name": "addressed-memory", "bases": 16, "downsample": 2}
    assert settings["objective"]["batch_per_class"] == 32 and settings["objective"]["real_images"] == 640
    assert settings["optimiser"]["clip"] == 2


@pytest.mark.parametrize("ipc", [1, 3])
@pytest.mark.parametrize("method", ["ld", "ld-or2", "gtn", "rtp"])
@pytest.mark.filterwarnings("ignore:.*never restarted")
def test_presets_run_with_their_own_sizes(method: str, ipc: int) -> None:
    small = {"model": "mlp:width=4", "precision": "float32", "compile": False, "device": "cpu"}
    distilled = Distiller(method, ipc, steps=1, **small).fit(toy_data())
    assert bool(distilled.tensors()[0].isfinite().all()) and distilled.budget.images == 3 * ipc
