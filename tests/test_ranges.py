"""Ranges are declared in annotations and checked on every way to an argument."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, get_type_hints

import pytest
from pydantic import Field

from ddkit import augment
from ddkit.base.ranges import Count, Inner, Momentum, Rate, Share, Weight, Whole, bounds_of, in_range
from ddkit.base.registry import Registry
from ddkit.engine.selection import registry as selections
from ddkit.errors import ConfigError
from ddkit.models.spec import registry as models
from ddkit.networks.signal import registry as signals
from ddkit.networks.sources import registry as networks
from ddkit.objectives.base import registry as objectives
from ddkit.objectives.constraints.base import registry as constraints
from ddkit.synthesis.base import registry as syntheses

SHAPE = {"shape": (1, 8, 8), "num_classes": 3}
#: Every registry whose pieces have options, with what a piece of it is given beside them.
FIXED: list[tuple[Registry[Any], dict[str, Any]]] = [
    (objectives, {}),
    (constraints, {}),
    (networks, {}),
    (signals, {}),
    (selections, {}),
    (models, SHAPE),
    (syntheses, {**SHAPE, "ipc": 2}),
]


@in_range("piece")
def build(
    count: Count = 1,
    some: Count | None = None,
    whole: Whole = 0,
    rate: Rate = 0.1,
    weight: Weight = 0.0,
    share: Share = 0.5,
    inner: Inner = 0.5,
    momentum: Momentum = 0.9,
    two: Annotated[int, Field(ge=2)] = 2,
    rates: list[Rate] | None = None,
    free: float = -1.0,
) -> dict[str, Any]:
    return dict(locals())


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("count", 0, "must be at least 1"),
        ("some", 0, "must be at least 1"),
        ("whole", -1, "must be at least 0"),
        ("rate", 0.0, "must be positive and finite"),
        ("rate", math.inf, "must be positive and finite"),
        ("rate", math.nan, "must be positive and finite"),
        ("weight", -0.5, "must be at least 0"),
        ("weight", math.nan, "must be at least 0"),
        ("share", 1.5, r"must lie in \[0, 1\]"),
        ("inner", 1.0, r"must lie in \(0, 1\)"),
        ("momentum", 1.0, r"must lie in \[0, 1\)"),
        ("two", 1, "must be at least 2"),
        ("rates", [0.1, -1.0], "must be positive and finite"),
    ],
)
def test_value_out_of_range_is_refused_with_its_name(option: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"^piece\.{option}=.* {words}$"):
        build(**{option: value})


def test_what_is_no_number_is_refused_too() -> None:
    with pytest.raises(ConfigError, match=r"^piece\.count='three' is no number: it must be at least 1$"):
        build(count="three")  # type: ignore[arg-type]


def test_values_in_range_and_none_pass() -> None:
    assert build(1, None, rates=[1.0], free=math.inf)["free"] == math.inf


def test_pieces_are_checked_when_built_by_name_and_directly() -> None:
    registry: Registry[Any] = Registry("network source", None, option="networks")

    @registry.register("own")
    class Own:
        def __init__(self, steps: Count = 1) -> None:
            self.steps = steps

    class Derived(Own):
        pass

    for make in (lambda: registry.create("own", {"steps": 0}), lambda: Own(0), lambda: Derived(steps=0)):
        with pytest.raises(ConfigError, match=r"^networks\.steps=0 must be at least 1$"):
            make()
    assert registry.create("own", {"steps": 3}).steps == 3


def beyond() -> list[Any]:
    """Return a value below the declared range of every option of every registered piece."""
    found = []
    for registry, fixed in FIXED:
        for name in registry:
            hints = get_type_hints(getattr(registry.get(name), "__init__", registry.get(name)), include_extras=True)
            for option, bounds in ((option, bounds_of(hint)) for option, hint in hints.items()):
                low = bounds.get("ge", bounds.get("gt"))
                if low is not None:
                    value = type(low)(low - 1) if "ge" in bounds else low
                    found.append(
                        pytest.param(registry, name, fixed, option, value, id=f"{registry.kind}-{name}-{option}")
                    )
    return found


@pytest.mark.parametrize(("registry", "name", "fixed", "option", "value"), beyond())
def test_no_piece_takes_an_option_below_its_declared_range(
    registry: Registry[Any], name: str, fixed: dict[str, Any], option: str, value: float
) -> None:
    value = [value] if option == "weights" else value  # type: ignore[assignment]
    for make in (
        lambda: registry.create(name, {option: value}, **fixed),
        lambda: registry.get(name)(**fixed, **{option: value}),
    ):
        with pytest.raises(ConfigError, match=rf"^{registry.option}\.{option}=.* must (be|lie)"):
            make()


def test_walk_finds_the_options() -> None:
    assert len(beyond()) > 90


def test_dataclass_is_checked_when_built_and_when_changed() -> None:
    @in_range("own")
    @dataclass(frozen=True)
    class Options:
        steps: Count = 1

    for make in (lambda: Options(0), lambda: replace(Options(), steps=0)):
        with pytest.raises(ConfigError, match=r"^own\.steps=0 must be at least 1$"):
            make()
    assert Options(2) == Options(steps=2)


def test_augmentations_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"^augmentation\.crop_ratio=-1\.0 must lie in \[0, 1\]$"):
        augment.create("crop", crop_ratio=-1)
