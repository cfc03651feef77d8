"""Rates and momenta of inner steps: where they start and what keeps them in range."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ddkit.objectives.meta_sizes import StepSizes

OPTIONS: dict[str, Any] = {
    "lr": 0.02,
    "learn_lr": "per_step",
    "rate_form": "softplus",
    "momentum": 0.5,
    "learn_momentum": True,
    "momentum_form": "sigmoid",
}


def sizes(**options: Any) -> StepSizes:
    made = StepSizes(3, **{**OPTIONS, **options})
    made.create(torch.device("cpu"), torch.float64)
    return made


@pytest.mark.parametrize("lr", [1e-6, 0.001, 0.02, 1.5, 13.5, 200.0])
def test_softplus_starts_at_the_initial_rate(lr: float) -> None:
    assert sizes(lr=lr).rates().tolist() == pytest.approx([lr] * 3, rel=1e-9)


def test_exp_starts_a_millionth_higher_as_published() -> None:
    made = sizes(rate_form="exp", momentum_form="exp")
    assert made.rates().tolist() == pytest.approx([0.020001] * 3, rel=1e-9)
    momenta = made.momenta()
    assert momenta is not None and momenta.tolist() == pytest.approx([0.500001] * 3, rel=1e-9)


@pytest.mark.parametrize("momentum", [0.01, 0.5, 0.99])
def test_sigmoid_starts_at_the_initial_momentum_and_stays_below_one(momentum: float) -> None:
    made = sizes(momentum=momentum)
    assert made.listed()[1] == pytest.approx([momentum] * 3, rel=1e-9)
    with torch.no_grad():
        made.raw["momenta"].add_(10)
    assert momentum < max(made.listed()[1]) < 1


@pytest.mark.parametrize("form", ["softplus", "exp"])
def test_rates_stay_positive(form: str) -> None:
    made = sizes(rate_form=form)
    with torch.no_grad():
        made.raw["rates"].sub_(30)
    assert 0 < min(made.listed()[0]) < 1e-10


@pytest.mark.parametrize(
    ("learn_lr", "learn_momentum", "shapes"),
    [
        ("per_step", True, {"rates": (3,), "momenta": (3,)}),
        ("per_step", False, {"rates": (3,)}),
        ("shared", True, {"rates": (), "momenta": ()}),
        ("none", True, {"momenta": ()}),
        ("none", False, {}),
    ],
)
def test_what_is_learned_has_a_number_per_step_or_one(
    learn_lr: str, learn_momentum: bool, shapes: dict[str, tuple[int, ...]]
) -> None:
    made = sizes(learn_lr=learn_lr, learn_momentum=learn_momentum)
    assert {name: tuple(raw.shape) for name, raw in made.raw.items()} == shapes
    rates, momenta = made.listed()
    assert rates == pytest.approx([0.02] * 3) and momenta == pytest.approx([0.5] * 3)


def test_plain_gradient_descent_has_no_momenta() -> None:
    made = sizes(momentum=0.0, learn_momentum=False)
    assert made.momenta() is None and made.listed()[1] == []
