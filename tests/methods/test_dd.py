"""The presets of dataset distillation: their published settings, and runs from end to end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from ddkit import methods
from ddkit.base.config import DistillConfig
from ddkit.engine.session import Session
from ddkit.methods.dd import inner
from ddkit.testing import toy_data


def configured(method: str, ipc: int, shape: tuple[int, int, int] = (1, 28, 28), **overrides: Any) -> DistillConfig:
    return methods.get(method).configure(toy_data(shape=shape, counts=(60, 70, 60)), ipc, 0, overrides)


@pytest.mark.parametrize("method", ["dd", "sldd"])
def test_grey_images_get_the_published_settings(method: str) -> None:
    config = configured(method, 10)
    assert config.objective is not None
    options = config.objective.options
    assert (options["inner_steps"], options["batches"], options["lr"]) == (30, 10, 0.02)
    assert options["real_images"] == 1024
    assert (config.model, config.init, config.networks.name) == ("lenet:init=xavier", "noise", "fresh")
    optimiser = config.optimiser.of("images")
    assert (optimiser.name, optimiser.lr, optimiser.betas) == ("adam", 0.01, (0.5, 0.999))
    assert [optimiser.rate(step, 100) for step in (1, 11, 91)] == pytest.approx([0.01, 0.005, 0.01 / 2**9])
    assert config.optimiser.of("inner") == optimiser == config.optimiser.of("labels")


def test_soft_labels_are_what_sldd_adds() -> None:
    dd, sldd = (configured(method, 10).as_dict() for method in ("dd", "sldd"))
    assert sldd.pop("synthesis") == {"name": "pixels", "labels": "free"}
    assert dd.pop("synthesis") == {"name": "pixels"}
    assert (dd.pop("method"), sldd.pop("method")) == ("dd", "sldd")
    assert dd == sldd


@pytest.mark.parametrize(
    ("ipc", "steps", "per_class"), [(1, 3, 1), (5, 15, 1), (10, 30, 1), (50, 30, 5), (12, 30, 2), (13, 30, 13)]
)
def test_at_most_ten_batches_are_swept_over(ipc: int, steps: int, per_class: int) -> None:
    assert inner(ipc) == {"inner_steps": steps, "batches": ipc // per_class}
    assert ipc % per_class == 0 and steps % (ipc // per_class) == 0


@pytest.mark.parametrize(
    ("shape", "model"),
    [((1, 8, 8), "mlp:width=64,init=xavier"), ((3, 8, 32), "mlp:width=64,init=xavier"), ((3, 32, 32), "convnet")],
)
def test_images_that_the_published_network_does_not_take_get_another(shape: tuple[int, int, int], model: str) -> None:
    assert configured("dd", 1, shape).model == model


def test_epochs_of_real_batches_become_outer_steps() -> None:
    small = toy_data(counts=(9, 9, 9))
    assert methods.get("dd").configure(small, 1).steps == 2000
    large = toy_data(shape=(1, 4, 4), counts=(2000, 2000, 2200))
    assert methods.get("dd").configure(large, 1).steps == 400 * 7


def test_a_resumed_run_keeps_rates_and_fixed_weights() -> None:
    overrides = {
        "model": "mlp:width=8",
        "networks": {"name": "fixed", "count": 2},
        "steps": 6,
        "objective": {"momentum": 0.5, "learn_momentum": True},
        "precision": "float32",
        "compile": False,
    }
    config = configured("sldd", 2, (1, 8, 8), **overrides)
    data = toy_data(shape=(1, 8, 8), counts=(60, 70, 60))
    session = Session(config, data)
    session.start()
    for number in (1, 2, 3):
        session.step(number)
    state = copy.deepcopy(session.state_dict())
    resumed = Session(config, data)
    resumed.load_state_dict(state)
    for number in (4, 5, 6):
        assert session.step(number) == resumed.step(number)
    for name, group in session.groups.items():
        for mine, theirs in zip(group, resumed.groups[name], strict=True):
            assert torch.equal(mine, theirs), name
    assert session.objective.recipe_changes() == resumed.objective.recipe_changes()
