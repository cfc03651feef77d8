"""Registries: names with suggestions, checked options, pieces of other packages."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from ddkit.base.registry import Registry
from ddkit.errors import ConfigError, UnknownNameError


class Piece:
    def __init__(self, size: int, rate: float = 0.5, mode: Literal["a", "b"] = "a", flag: bool = False) -> None:
        self.size, self.rate, self.mode, self.flag = size, rate, mode, flag


class Entry:
    """What importlib.metadata hands out."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value, self.loads = name, value, 0

    def load(self) -> Any:
        self.loads += 1
        return self.value


@pytest.fixture
def registry() -> Registry[type[Piece]]:
    result: Registry[type[Piece]] = Registry("piece")
    result.register("gradient", Piece)
    return result


def test_names_are_sorted_and_not_case_sensitive(registry: Registry) -> None:
    registry.register("Alpha", object)
    assert registry.available() == list(registry) == ["alpha", "gradient"]
    assert registry.get("GRADIENT") is Piece and "Gradient" in registry and "beta" not in registry


def test_decorator_registers_and_returns_the_class(registry: Registry) -> None:
    @registry.register("decorated")
    class Decorated:
        pass

    assert registry.get("decorated") is Decorated


def test_name_cannot_be_taken_twice(registry: Registry) -> None:
    registry.register("gradient", Piece)  # the same item again is no conflict
    with pytest.raises(ConfigError, match="piece 'gradient' is already registered"):
        registry.register("gradient", object)


@pytest.mark.parametrize("typed", ["gradeint", "gradients", "GRADIEN"])
def test_unknown_name_suggests_the_nearest(registry: Registry, typed: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown piece '{typed}': did you mean 'gradient'\\? known: gradient"):
        registry.get(typed)


def test_far_name_gets_the_list_only(registry: Registry) -> None:
    with pytest.raises(UnknownNameError) as error:
        registry.get("xyz")
    assert "did you mean" not in str(error.value) and "known: gradient" in str(error.value)


def test_options_are_converted_to_their_annotations(registry: Registry) -> None:
    piece = registry.create("gradient", {"rate": "0.25", "mode": "b", "flag": "true"}, size=3)
    assert (piece.size, piece.rate, piece.mode, piece.flag) == (3, 0.25, "b", True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": 1.0}, "unknown option of piece 'gradient' 'rates': did you mean 'rate'"),
        ({"rate": "fast"}, "bad option of piece 'gradient': rate='fast'"),
        ({"mode": "c"}, "mode='c'"),
        ({"size": 4}, "unknown option of piece 'gradient' 'size'"),
    ],
)
def test_bad_option_is_named_with_its_value(registry: Registry, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        registry.create("gradient", options, size=3)
    assert "\n" not in str(error.value)


def test_missing_option_is_named(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"size.*Field required"):
        registry.create("gradient", {})


def test_entry_points_are_loaded_once_and_do_not_replace_own_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [Entry("foreign", Piece), Entry("own", object)]
    groups: list[str] = []

    def entry_points(*, group: str) -> list[Entry]:
        groups.append(group)
        return entries

    monkeypatch.setattr("ddkit.base.registry.entry_points", entry_points)
    registry: Registry[type] = Registry("piece", "ddkit.pieces")
    registry.register("own", Piece)
    assert groups == []
    assert registry.available() == ["foreign", "own"]
    assert registry.get("foreign") is Piece and registry.get("own") is Piece
    assert groups == ["ddkit.pieces"]
    assert [entry.loads for entry in entries] == [1, 0]


def test_method_of_another_package_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from ddkit import methods

    foreign = replace(methods.get("dm"), name="foreign-dm")
    monkeypatch.setattr("ddkit.base.registry.entry_points", lambda *, group: [Entry("foreign-dm", foreign)])
    monkeypatch.setattr(methods.registry, "_loaded", False)
    monkeypatch.setattr(methods.registry, "_items", dict(methods.registry._items))
    assert "foreign-dm" in methods.available() and methods.get("foreign-dm") is foreign
