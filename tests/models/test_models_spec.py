"""Does a spec build the same network from the same seed, and refuse what is not a model?"""

from __future__ import annotations

import copy
import functools
import pickle
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn as nn
from torch import Tensor

from ddkit import models
from ddkit.errors import ConfigError, UnknownNameError
from ddkit.models import ModelSpec

SMALL = ModelSpec("convnet", {"depth": 2, "width": 8})
SHAPE = (3, 8, 8)


class Tiny(nn.Module):
    """A model of a user: not a FeatureModel, with a buffer and an option of its own."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, *, hidden: int = 5) -> None:
        super().__init__()
        self.hidden = nn.Linear(shape[0] * shape[1] * shape[2], hidden)
        self.head = nn.Linear(hidden, num_classes)
        self.register_buffer("scale", torch.randn(1))

    def features(self, x: Tensor) -> Tensor:
        return self.hidden(x.flatten(1)).tanh() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a test register models without leaving them to the next one."""
    monkeypatch.setattr(models.registry, "_items", dict(models.registry._items))
    yield


def build(name: str, shape: Any, num_classes: Any, seed: Any = 0, **options: Any) -> Any:
    return models.build(name, shape, num_classes, seed, **options)


def build_spec(spec: ModelSpec, shape: Any, num_classes: Any, seed: Any) -> Any:
    return spec.build(shape, num_classes, seed)


def tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def plain_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip


def test_build_equals_plain_construction_under_the_same_seed() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        plain = plain_convnet()
    model = build_spec(SMALL, SHAPE, 10, seed=7)
    assert same(model, plain)
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize("name", ["convnet", "resnet10", "densenet121"])
def test_same_seed_same_weights_and_another_seed_other_weights(name: str) -> None:
    spec = ModelSpec(name)
    first, again, other = (build_spec(spec, (3, 32, 32), 10, seed) for seed in (3, 3, 4))
    assert same(first, again)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("name", ["convnet", "resnet10"])
def test_building_and_resetting_leave_global_random_state_untouched(name: str) -> None:
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (the global state is what is tested)
    spec = ModelSpec(name)
    spec.reset_(build_spec(spec, (3, 32, 32), 10, seed=1), seed=2)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert np.array_equal(after["state"]["key"], numpy_state["state"]["key"])
    assert after["state"]["pos"] == numpy_state["state"]["pos"]


def test_global_random_state_is_restored_when_building_fails(own_registry: None) -> None:
    def broken(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        torch.randn(3)
        raise RuntimeError("broken")

    models.register("broken", broken)
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        build("broken", SHAPE, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_build_ignores_the_default_device() -> None:
    with torch.device("meta"):
        model = build_spec(SMALL, SHAPE, 10, seed=7)
    assert same(model, build_spec(SMALL, SHAPE, 10, seed=7))


@pytest.mark.parametrize("name", ["convnet", "resnet10"])
def test_reset_equals_a_fresh_build_and_keeps_the_tensors(name: str) -> None:
    spec = ModelSpec(name)
    model = build_spec(spec, (3, 32, 32), 10, seed=0)
    kept = [(id(tensor), tensor.data_ptr()) for tensor in tensors(model)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    spec.reset_(model, seed=5)
    assert same(model, build_spec(spec, (3, 32, 32), 10, seed=5))
    assert [(id(tensor), tensor.data_ptr()) for tensor in tensors(model)] == kept


def test_reset_keeps_dtype_gradient_flag_and_mode_and_works_on_copies() -> None:
    model = copy.deepcopy(build_spec(SMALL, SHAPE, 10, seed=0)).double().eval()
    model.classifier.weight.requires_grad_(False)
    SMALL.reset_(model, seed=5)
    assert model.classifier.weight.dtype == torch.float64
    assert not model.classifier.weight.requires_grad
    assert not model.training
    fresh = build_spec(SMALL, SHAPE, 10, seed=5)
    assert torch.equal(model.classifier.weight, fresh.classifier.weight.double())


def test_reset_refuses_models_of_another_origin() -> None:
    with pytest.raises(ConfigError, match="was not built by ddkit"):
        SMALL.reset_(plain_convnet(), 0)
    with pytest.raises(ConfigError, match=r"as convnet\(depth=2,width=8\): it was built as mlp"):
        SMALL.reset_(build("mlp", SHAPE, 10), 0)
    changed = build_spec(SMALL, SHAPE, 10, 0)
    changed.classifier = nn.Linear(32, 11)
    with pytest.raises(ConfigError, match="differ from a fresh build"):
        SMALL.reset_(changed, 0)


@pytest.mark.parametrize(
    "text", ["convnet:depth=2,width=8", "convnet(depth=2,width=8)", " ConvNet: width = 8 , depth = 2 "]
)
def test_parse_reads_both_forms_and_canonical_returns_one(text: str) -> None:
    spec = ModelSpec.parse(text)
    assert spec == SMALL
    assert hash(spec) == hash(SMALL)
    assert spec.canonical() == "convnet(depth=2,width=8)"
    assert ModelSpec.parse(spec) is spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_canonical_form_of_every_kind_of_option_parses_back() -> None:
    for spec in (
        ModelSpec(),
        ModelSpec("densenet121", {"growth": 32}),
        ModelSpec("convnet", {"depth": None, "norm": "none", "pooling": "max", "activation": "swish"}),
    ):
        assert ModelSpec.parse(spec.canonical()) == spec
    assert ModelSpec().canonical() == "convnet"


def test_a_spec_does_not_share_its_options_with_the_caller() -> None:
    options: dict[str, Any] = {"depth": 2, "width": 8}
    spec = ModelSpec("convnet", options)
    options["width"] = 9
    assert spec == SMALL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("convnett", "did you mean 'convnet'"),
        ("convnet:widht=3", "unknown option of model 'convnet' 'widht': did you mean 'width'"),
        ("convnet:shape=3", "unknown option of model 'convnet' 'shape'"),
        ("convnet:width=wide", "width='wide'"),
        ("convnet:norm=weight", "norm='weight': .*'instance'"),
        ("convnet:depth", "cannot read 'depth' in the model 'convnet:depth'"),
        ("convnet(depth=2", "cannot read the model"),
        ("", "cannot read the model ''"),
        ("mlp:depth=2", "unknown option of model 'mlp' 'depth'"),
    ],
)
def test_bad_model_text_is_refused_with_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelSpec.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "classes", "seed", "options", "message"),
    [
        ((3, 8), 10, 0, {}, r"image shape \(3, 8\) is not \(channels, height, width\)"),
        (8, 10, 0, {}, "image shape 8 is not"),
        ((3, 8, 0), 10, 0, {}, "every length=0 is out of range"),
        ((3, 8, 8.5), 10, 0, {}, "every length=8.5 is out of range"),
        (SHAPE, 0, 0, {}, "num_classes=0 is out of range"),
        (SHAPE, 10, -1, {}, "seed=-1 is out of range"),
        (SHAPE, 10, 2**63, {}, "use an integer below 2"),
        (SHAPE, 10, None, {}, "seed=None is out of range"),
        (SHAPE, 10, 0, {"width": 0}, "model.width=0 must be at least 1"),
        (SHAPE, 10, 0, {"depth": 0}, "model.depth=0 must be at least 1"),
    ],
)
def test_bad_numbers_are_refused(shape: Any, classes: Any, seed: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("convnet", shape, classes, seed, **options)


def test_shape_and_seed_may_come_from_torch_and_numpy() -> None:
    shape = torch.zeros(5, *SHAPE).shape[1:]
    assert same(build_spec(SMALL, shape, np.int64(10), np.int64(7)), build_spec(SMALL, SHAPE, 10, 7))


def test_a_registered_model_is_built_parsed_and_reset_like_the_others(own_registry: None) -> None:
    models.register("Tiny", Tiny)
    assert "tiny" in models.available()
    spec = ModelSpec.parse("tiny:hidden=3")
    model = build_spec(spec, SHAPE, 4, seed=1)
    assert model.features(torch.zeros(2, *SHAPE)).shape == (2, 3)
    spec.reset_(model, seed=2)
    assert same(model, build_spec(spec, SHAPE, 4, seed=2))
    with pytest.raises(UnknownNameError, match="did you mean 'hidden'"):
        ModelSpec("tiny", {"hiden": 3})


def test_partial_and_open_ended_factories_can_be_registered(own_registry: None) -> None:
    models.register("narrow", functools.partial(models.ConvNet, width=4))
    assert build("narrow", SHAPE, 10, depth=1).stages[0][0].out_channels == 4

    def anything(shape: tuple[int, int, int], num_classes: int, **options: Any) -> nn.Module:
        return Tiny(shape, num_classes, **options)

    models.register("anything", anything)
    assert build("anything", SHAPE, 10, hidden=6).head.in_features == 6


def test_names_and_factories_that_cannot_work_are_refused(own_registry: None) -> None:
    with pytest.raises(ConfigError, match="already registered"):
        models.register("convnet", Tiny)
    with pytest.raises(ConfigError, match="cannot name a model"):
        models.register("a:b", Tiny)
    with pytest.raises(ConfigError, match="does not take an image shape"):
        models.register("nothing", lambda: nn.Linear(1, 1))
    models.register("linear", lambda shape, num_classes: nn.Linear(shape[0], num_classes))
    with pytest.raises(ConfigError, match=r"model 'linear' built a Linear: .* features\(images\)"):
        build("linear", SHAPE, 2)


def test_available_names_every_network_of_the_tables() -> None:
    assert models.available() == [
        "alexnet", "convnet", "densenet121", "lenet", "mlp",
        "resnet10", "resnet152", "resnet18", "resnet18_ap", "vgg11",
    ]  # fmt: skip


def test_importing_the_models_does_not_touch_random_state_or_torchvision() -> None:
    code = (
        "import sys, torch; s = torch.get_rng_state(); import ddkit.models;"
        "assert torch.equal(s, torch.get_rng_state()); assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
