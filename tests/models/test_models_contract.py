"""Is a network that would fail late, or never start anew, refused when it is built?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddkit import Distiller
from ddkit.errors import ConfigError
from ddkit.models import ModelSpec, registry
from ddkit.models.contract import check_contract
from ddkit.networks import Network
from ddkit.testing.small import small_overrides, toy_data

SHAPE = (1, 8, 8)


class Net(nn.Module):
    """The smallest network that keeps the contract."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, **options: Any) -> None:
        super().__init__()
        self.body = nn.Conv2d(shape[0], 4, 3)
        self.head = nn.Linear(4, num_classes)

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Wide(Net):
    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(shape, 1000)


class Pair(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), self.features(x)


class Maps(Net):
    def features(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


class Classes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 3)


class Lazy(Net):
    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(shape, num_classes)
        self.head = nn.LazyLinear(num_classes)


class Broken(Net):
    def features(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1) @ torch.ones(3, 3)


class NoList(Net):
    def feature_maps(self, x: Tensor) -> Tensor:
        return self.body(x)


class OwnSeed(Net):
    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(shape, num_classes)
        self.head.weight.data = torch.rand(num_classes, 4, generator=torch.Generator().manual_seed(next(COUNT)))


class Wrapped(Net):
    """A new module every time, around weights that are not."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__(shape, num_classes)
        self.body = SHARED


class Dropping(Net):
    """Dropout as a function, which no search for layer types would find."""

    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(x), 0.5, self.training)


COUNT = iter(range(1000))
SHARED = nn.Conv2d(1, 4, 3)
ONE = Net(SHAPE, 3)
WRONG: dict[str, tuple[Callable[..., nn.Module], str]] = {
    "wide": (Wide, r"logits.*\(1, 1000\).*float tensor \(1, 3\)"),
    "pair": (Pair, "logits.*are a tuple"),
    "maps": (Maps, r"features.*\(1, 4, 6, 6\)"),
    "classes": (Classes, "logits.*int64"),
    "lazy": (Lazy, "lazy layers"),
    "broken": (Broken, "fails on blank 1x8x8 images, RuntimeError"),
    "no-list": (NoList, "feature_maps.*is a Tensor"),
    "own-seed": (OwnSeed, "do not follow the seed"),
    "same": (lambda shape, num_classes: ONE, "same weights a second time"),
    "wrapped": (Wrapped, "same weights a second time"),
}


@pytest.fixture
def registered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    name = f"contract-{request.param}"
    factory = Dropping if request.param == "dropping" else WRONG[request.param][0]
    monkeypatch.setitem(registry._items, name, factory)
    yield name


@pytest.mark.parametrize("registered", WRONG, indirect=True)
def test_a_network_that_breaks_the_contract_is_refused_when_it_is_built(registered: str) -> None:
    with pytest.raises(ConfigError, match=WRONG[registered.removeprefix("contract-")][1]) as caught:
        ModelSpec(registered).build(SHAPE, 3, seed=0)
    assert "\n" not in str(caught.value)


def test_a_shared_part_that_is_not_trained_is_no_fault() -> None:
    frozen = nn.Conv2d(1, 4, 3).requires_grad_(False)

    def factory() -> nn.Module:
        net = Net(SHAPE, 3)
        net.body = frozen
        net.head.load_state_dict({"weight": torch.ones(3, 4), "bias": torch.zeros(3)})
        return net

    check_contract("frozen", factory(), SHAPE, 3, factory)


def test_a_checked_build_is_the_bytes_that_its_seed_always_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    plain = Net(SHAPE, 3)
    monkeypatch.setitem(registry._items, "contract-plain", Net)
    before = torch.default_generator.get_state()
    built = ModelSpec("contract-plain").build(SHAPE, 3, seed=5)
    assert torch.equal(before, torch.default_generator.get_state())
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), built.parameters(), strict=True))


@pytest.mark.parametrize("registered", ["dropping"], indirect=True)
def test_networks_with_random_passes_are_found_and_not_matched_on(registered: str) -> None:
    spec = ModelSpec(registered)
    assert spec.draws_in_forward(SHAPE, 3)
    assert not ModelSpec("convnet", {"depth": 1, "width": 4}).draws_in_forward(SHAPE, 3)
    with pytest.raises(ConfigError, match="draws random numbers"):
        Network(spec, SHAPE, 3)


@pytest.mark.parametrize("registered", ["dropping"], indirect=True)
@pytest.mark.parametrize("method", ["dc", "dcc", "dm", "mtt", "dd", "frepo"])
def test_every_method_refuses_dropout_alike(registered: str, method: str) -> None:
    data = toy_data()
    with pytest.raises(ConfigError, match="draws random numbers"):
        Distiller(method, 1, **{**small_overrides(method, data), "model": registered}).fit(data)
