"""Does a run stop or say so when its images or rates leave every plausible range, before anything is infinite?"""

from __future__ import annotations

import warnings

import pytest
import torch

from ddkit import Distiller, methods
from ddkit.base.config import merge
from ddkit.errors import ConfigError, DivergedError
from ddkit.objectives.meta_sizes import StepSizes
from ddkit.testing.small import small_overrides, toy_data

DATA = toy_data()


@pytest.mark.parametrize("method", ["dm", "dc", "kip"])
def test_images_far_out_of_range_end_a_run(method: str) -> None:
    wild = merge(small_overrides(method, DATA), {"optimiser": {"name": "sgd", "lr": 1e9, "momentum": 0.0}})
    with pytest.raises(DivergedError, match=r"(synthetic images reach .*real ones|diverged).*lower"):
        Distiller(method, 1, **wild).fit(DATA)


def test_images_out_of_range_draw_one_warning() -> None:
    far = merge(small_overrides("dm", DATA), {"optimiser": {"name": "adam", "lr": 60.0}, "steps": 3})
    with pytest.warns(UserWarning, match="synthetic images reach") as caught:
        Distiller("dm", 1, **far).fit(DATA)
    assert sum("synthetic images reach" in str(one.message) for one in caught) == 1


@pytest.mark.parametrize("method", [name for name in methods.available() if not methods.get(name).is_coreset])
def test_no_method_leaves_the_range_at_its_own_settings(method: str) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="synthetic images reach")
        Distiller(method, 1, **small_overrides(method, DATA)).fit(DATA)


def test_learned_rates_of_meta_learning_have_an_upper_end() -> None:
    sizes = StepSizes(3, 0.02, "per_step", "exp", 0.0, False, "sigmoid")
    sizes.create(torch.device("cpu"), torch.float32)
    sizes.check()
    with torch.no_grad():
        sizes.raw["rates"][1] = 10.0
    with pytest.raises(DivergedError, match=r"inner step 1.*2\.2e"):
        sizes.check()


def test_a_seed_beside_a_configuration_is_its_seed() -> None:
    config = methods.get("dm").configure(DATA, 1, seed=3, overrides=small_overrides("dm", DATA))
    assert Distiller(config).configure(DATA).seed == 3
    assert Distiller(config, seed=7).configure(DATA).seed == 7
    assert Distiller("dm", 1).configure(DATA).seed == 0
    same = Distiller("dm", 1, seed=7, **small_overrides("dm", DATA)).fit(DATA)
    assert torch.equal(Distiller(config, seed=7).fit(DATA).images, same.images)
    with pytest.raises(ConfigError, match="seed"):
        Distiller(config, seed=-1)
