"""Do the ways in which a network may start have the distributions of their papers, for every model?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn as nn

from ddkit import models
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.models import ModelSpec
from ddkit.models.initialisation import initialise_

CIFAR = (3, 32, 32)
WAYS = ("xavier", "lecun", "ntk")


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(models.registry, "_items", dict(models.registry._items))
    yield


def layers(model: nn.Module) -> list[Any]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]


def build(text: str, shape: tuple[int, int, int] = CIFAR, seed: int = 0) -> nn.Module:
    return ModelSpec.parse(text).build(shape, 10, seed)


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def check_moments(values: torch.Tensor, variance: float, kurtosis: float) -> None:
    """Require mean 0, a variance and a fourth moment over the squared variance, within five standard errors."""
    count = values.numel()
    assert abs(values.mean().item()) < 5 * math.sqrt(variance / count)
    assert values.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / count))
    standard = values.double() / math.sqrt(variance)
    assert standard.pow(4).mean().item() == pytest.approx(kurtosis, rel=5 * math.sqrt(11 / count))


@pytest.mark.parametrize("position", range(4))
def test_weights_have_the_variance_of_their_name(position: int) -> None:
    """Convolutions 3 -> 64 -> 64 -> 64 and a linear layer 1024 -> 10; fans count the pixels of a kernel."""
    inputs, outputs = [(27, 576), (576, 576), (576, 576), (1024, 10)][position]
    truncated = 1 - 2 * 2 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
    fourth = 3 - 2 * (8 + 6) * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2))
    expected = {
        "xavier": (2 / (inputs + outputs), 3.0),
        "lecun": (1 / inputs, fourth / truncated**2),
        "ntk": (2 / inputs, 3.0),
    }
    for how, (variance, kurtosis) in expected.items():
        weights = layers(build(f"convnet:width=64,init={how}"))[position].weight.detach()
        check_moments(weights, variance, kurtosis)


def test_lecun_weights_end_at_two_standard_deviations_of_the_untruncated_normal() -> None:
    weights = layers(build("convnet:width=64,init=lecun"))[1].weight.detach()
    bound = 2 * math.sqrt(1 / 576) / 0.87962566103423978
    assert 0.99 * bound < weights.abs().max().item() <= bound


def test_biases_are_zero_or_the_prior_of_the_kernel() -> None:
    for how in ("xavier", "lecun"):
        assert not any(layer.bias.any() for layer in layers(build(f"convnet:width=64,init={how}")))
    drawn = [layer.bias.detach() for seed in range(20) for layer in layers(build("mlp:init=ntk", seed=seed))]
    check_moments(torch.cat(drawn), 0.01, 3.0)


@pytest.mark.parametrize("how", WAYS)
def test_norms_keep_one_and_zero(how: str) -> None:
    model = build(f"convnet:width=8,norm=batch,init={how}")
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) == 3
    for norm in norms:
        assert bool((norm.weight == 1).all()) and not norm.bias.any()
        assert not norm.running_mean.any() and bool((norm.running_var == 1).all())


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("name", [name for name in models.available() if name not in ("resnet152", "vgg11")])
def test_every_model_takes_an_initialisation_and_resets_with_it(name: str, how: str) -> None:
    spec = ModelSpec(name, {"init": how})
    state = torch.get_rng_state()
    model = spec.build(CIFAR, 10, seed=1)
    assert same(model, spec.build(CIFAR, 10, seed=1)) and not same(model, spec.build(CIFAR, 10, seed=2))
    assert not same(model, ModelSpec(name).build(CIFAR, 10, seed=1))
    kept = [parameter.data_ptr() for parameter in model.parameters()]
    spec.reset_(model, 2)
    assert same(model, spec.build(CIFAR, 10, seed=2))
    assert [parameter.data_ptr() for parameter in model.parameters()] == kept
    assert torch.equal(torch.get_rng_state(), state)


def test_text_form_names_the_initialisation_except_the_default() -> None:
    spec = ModelSpec.parse("convnet:width=8,init=xavier")
    assert spec.canonical() == "convnet(init=xavier,width=8)"
    assert ModelSpec.parse(spec.canonical()) == spec
    assert ModelSpec.parse("convnet:width=8,init=default") == ModelSpec.parse("convnet:width=8") != spec
    assert ModelSpec("convnet", {"init": "default"}).canonical() == "convnet"


def test_reset_refuses_a_model_of_another_initialisation() -> None:
    with pytest.raises(ConfigError, match=r"was built as convnet\(init=ntk,width=8\)"):
        ModelSpec.parse("convnet:width=8").reset_(build("convnet:width=8,init=ntk"), 0)


def test_initialisation_that_does_not_exist_is_refused_and_listed() -> None:
    with pytest.raises(ConfigError, match=r"init='normal'.*'default', 'xavier', 'lecun' or 'ntk'"):
        ModelSpec.parse("convnet:init=normal")
    with pytest.raises(UnknownNameError, match="did you mean 'init'"):
        ModelSpec.parse("convnet:inits=ntk")


class Own(nn.Module):
    """A model of a user with a meaning of its own for ``init``."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, init: float = 0.5) -> None:
        super().__init__()
        self.head = nn.Linear(3, num_classes)
        self.init = init

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


class Bare(nn.Module):
    """A model without a layer to draw."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, **options: Any) -> None:
        super().__init__()
        self.options, self.num_classes = options, num_classes

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.features(x)[:, : self.num_classes]


def test_option_of_that_name_of_ones_own_model_stays_its_own(own_registry: None) -> None:
    models.register("own", Own)
    assert ModelSpec.parse("own:init=2.5").build(CIFAR, 4, seed=0).init == 2.5
    with pytest.raises(ConfigError, match="init='ntk'"):
        ModelSpec.parse("own:init=ntk")


def test_open_ended_model_does_not_see_the_initialisation(own_registry: None) -> None:
    models.register("bare", Bare)
    assert ModelSpec("bare", {"colour": 3}).build(CIFAR, 4, seed=0).options == {"colour": 3}
    with pytest.raises(ConfigError, match="init=ntk finds no linear or convolutional layer in Bare"):
        ModelSpec("bare", {"init": "ntk"}).build(CIFAR, 4, seed=0)


def test_default_draws_nothing() -> None:
    model, state = nn.Linear(2, 2), torch.get_rng_state()
    before = model.weight.detach().clone()
    initialise_(model, "default")
    assert torch.equal(model.weight, before) and torch.equal(torch.get_rng_state(), state)
