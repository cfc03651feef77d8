"""The contract suite: what every method must do, one's own and third parties' alike.

>>> from ddkit.testing import check_method
>>> check_method("dm")

In a test suite, :func:`parametrize_checks` gives one test per check:

>>> @parametrize_checks(["dm", "my-method"])
... def test_contract(check):
...     check()

What every objective does with every synthesis is checked by :func:`check_pair` and :func:`parametrize_pairs`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from ddkit import methods, objectives, synthesis
from ddkit.testing.checks import CHECKS
from ddkit.testing.pairs import check_pair
from ddkit.testing.small import SMALL, small_options, small_overrides, toy_data

__all__ = [
    "CHECKS",
    "SMALL",
    "check_method",
    "check_pair",
    "parametrize_checks",
    "parametrize_pairs",
    "small_options",
    "small_overrides",
    "toy_data",
]


def check_method(name: str, overrides: Mapping[str, Any] | None = None) -> None:
    """Run the whole contract on a registered method.

    Args:
        name: registered name.
        overrides: options that make the method small and fast enough for the checks, where the automatic ones
            (four steps, a ConvNet of width 4) do not suffice.

    Raises:
        AssertionError: the first promise that is broken, with the name of the check.
        UnknownNameError: no such method.
    """
    methods.get(name)
    for check, function in CHECKS.items():
        try:
            function(name, dict(overrides or {}))
        except AssertionError as error:
            raise AssertionError(f"{name} breaks '{check}': {error}") from error


def parametrize_checks(names: Iterable[str], overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Any:
    """Return a pytest decorator that gives the test one argument ``check`` per method and check."""
    import pytest

    cases = [
        pytest.param(functools.partial(function, name, dict((overrides or {}).get(name, {}))), id=f"{name}-{check}")
        for name in names
        for check, function in CHECKS.items()
    ]
    return pytest.mark.parametrize("check", cases)


def parametrize_pairs(refused: Iterable[tuple[str, str]] = ()) -> Any:
    """Return a pytest decorator that gives the test one argument ``check`` per registered objective and synthesis.

    Args:
        refused: pairs (objective, synthesis) that make no sense and are left out; test their refusal yourself.
    """
    import pytest

    left_out = set(refused)
    cases = [
        pytest.param(functools.partial(check_pair, objective, how), id=f"{objective}-{how}")
        for objective in objectives.registry
        for how in synthesis.registry
        if (objective, how) not in left_out
    ]
    return pytest.mark.parametrize("check", cases)
