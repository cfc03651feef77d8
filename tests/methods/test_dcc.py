"""DCC and DSAC: the published schedule, and small real runs on digits."""

from __future__ import annotations

import pytest

from ddkit import Distiller, methods
from ddkit.engine import Session
from ddkit.errors import ConfigError
from ddkit.objectives import GradientMatching
from ddkit.testing import small_overrides, toy_data
from ddkit.training import recipe

from .test_digits_accuracy import accuracy, fit, random_accuracy


@pytest.mark.parametrize("method", ["dcc", "dsac"])
@pytest.mark.parametrize(
    ("ipc", "loops"), [(1, (10, 5)), (10, (10, 50)), (20, (20, 25)), (30, (30, 20)), (40, (40, 15)), (50, (50, 10))]
)
def test_schedule_is_the_published_one(method: str, ipc: int, loops: tuple[int, int]) -> None:
    config = methods.get(method).configure(toy_data(), ipc)
    networks, objective = config.networks.options, config.objective.options
    assert (networks["outer_loop"], networks["inner_epochs"]) == loops
    assert config.steps == 1000 * loops[0]
    assert (objective["level"], objective["warmup_networks"], objective["warmup_steps"]) == ("batch", 0.25, 10)
    assert (config.init, config.optimiser.lr, config.optimiser.momentum) == ("real", 0.1, 0.5)


def test_loops_without_a_published_value_are_those_of_dc() -> None:
    for ipc in (2, 15, 100):
        dcc, dc = (methods.get(name).configure(toy_data(), ipc) for name in ("dcc", "dc"))
        assert (dcc.steps, dcc.networks) == (dc.steps, dc.networks)


def test_only_dsac_augments() -> None:
    dcc, dsac = (methods.get(name).configure(toy_data(), 1) for name in ("dcc", "dsac"))
    assert (dcc.augmentation, dcc.recipe.name) == ("none", "dc")
    assert (dsac.augmentation, dsac.recipe.name) == (methods.get("dsa").configure(toy_data(), 1).augmentation, "dsa")


@pytest.mark.parametrize("method", ["dcc", "dsac"])
def test_batch_level_beats_random_images(method: str) -> None:
    objective = {"real_batch": 32, "warmup_networks": 0}
    distilled = fit(method, 1, steps=150, objective=objective)
    assert accuracy(distilled) >= random_accuracy(1) + 8
    if method == "dsac":
        how = recipe("dsa", "digits", epochs=200)
        assert accuracy(distilled, how) >= random_accuracy(1, augmented=True) + 8


def test_warm_up_that_covers_the_whole_run_is_refused_with_a_remedy() -> None:
    settings = {**small_overrides("dcc", toy_data()), "steps": 30}
    settings["objective"] = {"real_batch": 5, "warmup_networks": 20, "warmup_steps": 10}
    with pytest.raises(ConfigError, match="covers all 30 steps of the run: set it to a share"):
        Distiller("dcc", 1, **settings).fit(toy_data())
    settings["objective"]["warmup_networks"] = 14
    Distiller("dcc", 1, **settings).configure(toy_data())
    Session(Distiller("dcc", 1, **settings).configure(toy_data()), toy_data())


@pytest.mark.parametrize(("steps", "expected"), [(10_000, 250), (200, 5), (10, 0)])
def test_warm_up_is_a_quarter_of_the_networks_of_a_run(steps: int, expected: int) -> None:
    config = methods.get("dcc").configure(toy_data(), 1, overrides={"steps": steps, "device": "cpu", "compile": False})
    session = Session(config, toy_data())
    assert isinstance(session.objective, GradientMatching) and session.objective.warm_networks == expected
