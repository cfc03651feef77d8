"""What `auto` means, and what a pass costs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ddkit.base.precision import COMPILE_PAYS_SECONDS, PassCost, Precision, pass_cost, resolve_precision
from ddkit.models import ModelSpec

CPU = torch.device("cpu")
COST = PassCost(multiply_adds=10**9, activations=10**6, largest_activation=10**6)
LONG = 2 * COMPILE_PAYS_SECONDS / COST.eager_seconds(CPU)


@pytest.mark.parametrize("fast", [True, False])
def test_long_runs_are_compiled_and_use_bfloat16_where_it_is_fast(fast: bool, monkeypatch) -> None:
    monkeypatch.setattr("ddkit.base.precision.bfloat16_is_fast", lambda device: fast)
    long = resolve_precision("auto", "auto", passes=LONG, cost=COST, device=CPU)
    assert long == Precision(torch.bfloat16 if fast else torch.float32, compile=True)
    assert resolve_precision("auto", "auto", passes=1.0, cost=COST, device=CPU) == Precision()


@pytest.mark.parametrize("work", [0.0, LONG])
def test_explicit_settings_are_obeyed(work: float) -> None:
    assert resolve_precision("float32", False, passes=work, cost=COST, device=CPU) == Precision(torch.float32, False)
    assert resolve_precision("bfloat16", True, passes=work, cost=COST, device=CPU) == Precision(torch.bfloat16, True)


def test_names_are_those_of_a_configuration() -> None:
    assert (Precision().name, Precision(torch.bfloat16).name) == ("float32", "bfloat16")


def test_autocast_reaches_the_matrix_products() -> None:
    layer, x = nn.Linear(4, 4), torch.ones(1, 4)
    with Precision(torch.bfloat16).autocast(CPU):
        assert layer(x).dtype == torch.bfloat16
    with Precision().autocast(CPU):
        assert layer(x).dtype == torch.float32


def test_function_is_left_alone_unless_it_is_to_be_compiled() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    assert Precision().compiled(function) is function
    assert Precision(compile=True).compiled(function) is not function


def test_cost_of_a_small_network_equals_the_count_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 8 * 6, 7))
    cost = pass_cost(module, (3, 8, 6))
    assert cost.multiply_adds == 5 * 8 * 6 * 3 * 9 + 7 * 5 * 8 * 6
    assert cost.largest_activation == 5 * 8 * 6
    assert cost.activations == 3 * 5 * 8 * 6 + 7


def test_counting_changes_nothing() -> None:
    module = ModelSpec.parse("convnet:width=4,depth=2,norm=batch").build((1, 8, 8), 3, 0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    module.train()
    pass_cost(module, (1, 8, 8))
    assert module.training and not any(layer._forward_hooks for layer in module.modules())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
