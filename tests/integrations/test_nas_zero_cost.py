"""Are the measures of untrained networks those of their papers, and silent where they say nothing?"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.integrations.nas import MEASURES, SearchSpace, zero_cost
from ddkit.integrations.nas.measures import Batch, flops, gradient_norm, naswot, parameters, snip, synflow
from tests.integrations.nas_cases import digits, generator, grid, linear, tiny_set


def _net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def _batch() -> Batch:
    images = torch.randn(5, 1, 2, 2, generator=generator())
    return Batch(images, torch.tensor([0, 1, 0, 1, 1]))


def test_size_and_work_are_counted() -> None:
    assert parameters(_net(), _batch()) == 4 * 3 + 3 + 3 * 2 + 2
    assert flops(_net(), _batch()) == 4 * 3 + 3 * 2


def test_gradient_norm_and_snip_equal_their_definitions() -> None:
    model, batch = _net(), _batch()
    F.cross_entropy(model(batch.images), batch.labels).backward()
    layers = [layer.weight for layer in (model[1], model[3])]  # type: ignore[index]
    norm = sum(float(weight.grad.square().sum().sqrt()) for weight in layers)
    expected = sum(float((weight.detach() * weight.grad).abs().sum()) for weight in layers)
    model.zero_grad()
    assert gradient_norm(model, batch) == pytest.approx(norm, rel=1e-5)
    assert snip(model, batch) == pytest.approx(expected, rel=1e-5)


def test_synflow_of_a_linear_chain_is_the_sum_over_its_paths() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    first, second = (model[i].weight.detach().double().abs() for i in (1, 2))
    flow = float((second @ first).sum())
    assert synflow(model, _batch()) == pytest.approx(math.log(2 * flow))  # once for each layer


def test_biases_add_to_the_flow_but_not_to_the_sum_and_the_network_is_left_alone() -> None:
    model = _net()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    value = synflow(model, _batch())
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    first, bias, second = (before[name].double().abs() for name in ("1.weight", "1.bias", "3.weight"))
    through_first = second @ first @ torch.ones(4, dtype=torch.float64)
    assert value == pytest.approx(math.log(float((2 * through_first + second @ bias).sum())))


def test_naswot_equals_the_determinant_of_equal_activation_bits() -> None:
    batch = _batch()
    wide = nn.Sequential(nn.Flatten(), nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2))
    bits = wide[1](batch.images.flatten(1)) > 0
    kernel = (bits[:, None] == bits[None]).double().sum(dim=2)
    assert naswot(wide, batch) == pytest.approx(float(torch.linalg.slogdet(kernel).logabsdet))


def test_a_measure_that_says_nothing_about_a_network_is_not_applicable() -> None:
    space = SearchSpace.convnet(width=[4], depth=[1], norm=["none", "instance"], activation=["relu", "sigmoid"])
    train = digits()[0]
    flow = zero_cost("synflow", space, train)
    assert [entry.status for entry in flow.entries] == ["ok", "ok", "not applicable", "not applicable"]
    assert "normalisation" in flow.entries[2].message and flow.entries[2].score is None
    patterns = zero_cost("naswot", space, train)
    assert [entry.status for entry in patterns.entries] == ["ok", "not applicable", "ok", "not applicable"]
    with pytest.raises(ConfigError, match="does not apply to any"):
        zero_cost("naswot", SearchSpace({"own": linear}), train)


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_ranks_by_its_seed_alone(name: str) -> None:
    before = torch.get_rng_state()
    first, again = (zero_cost(name, grid(), digits()[0], batch=16, seeds=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert [entry.scores for entry in first.entries] == [entry.scores for entry in again.entries]
    assert all(len(entry.scores) == 2 for entry in first.usable)
    assert first.score == name


def test_candidates_that_tie_or_raise_are_reported() -> None:
    with pytest.warns(UserWarning, match="does not separate"):
        ranking = zero_cost("params", SearchSpace({"a": linear, "b": linear, "c": "convnet:depth=9"}), tiny_set())
    assert [entry.status for entry in ranking.entries] == ["ok", "ok", "failed"]
    assert ranking.ranks == {"a": 1.5, "b": 1.5}


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'naswot'"):
        zero_cost("naswott", grid(), digits()[0])
    with pytest.raises(ConfigError, match="batch=1"):
        zero_cost("params", grid(), digits()[0], batch=1)
