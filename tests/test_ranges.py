"""Ranges are declared in annotations and checked on every way to an argument."""

from __future__ import annotations

import math
from typing import Annotated, Any

import pytest
from pydantic import Field

from ddkit.base.ranges import Count, Inner, Momentum, Rate, Share, Weight, Whole, in_range
from ddkit.base.registry import Registry
from ddkit.errors import ConfigError


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
