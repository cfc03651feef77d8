"""Which values may an argument have? Ranges are declared where the argument is, and checked here.

>>> from ddkit.base.ranges import Count, Rate, in_range
>>> class Piece:
...     @in_range("networks")
...     def __init__(self, steps: Count = 1, lr: Rate = 0.01) -> None: ...
>>> Piece(steps=0)
Traceback (most recent call last):
ddkit.errors.ConfigError: networks.steps=0 must be at least 1

A decorated class (a dataclass, for instance) checks its constructor. A piece that is registered is checked without the
decorator, under the word by which its registry is configured.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import Field
from pydantic.fields import FieldInfo

from ddkit.errors import ConfigError

Call = TypeVar("Call", bound=Callable[..., Any])

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
#: A positive finite number: a learning rate, a scale.
Rate = Annotated[float, Field(gt=0)]
#: A finite number of at least 0.
Weight = Annotated[float, Field(ge=0)]
#: A share or a probability.
Share = Annotated[float, Field(ge=0, le=1)]
#: Strictly between 0 and 1.
Inner = Annotated[float, Field(gt=0, lt=1)]
#: A momentum or a decay: at least 0 and below 1.
Momentum = Annotated[float, Field(ge=0, lt=1)]


def in_range(prefix: str) -> Callable[[Call], Call]:
    """Return a decorator that checks arguments against the ranges that their annotations declare.

    Every number has to be finite where a range is declared; None passes where it is allowed. A list has to have every
    element in the range.

    Args:
        prefix: under which users set the options, such as ``networks``; may be empty.
    """

    def decorate(function: Call) -> Call:
        if inspect.isclass(function):
            function.__init__ = in_range(prefix)(function.__init__)  # type: ignore[method-assign, misc]
            return function  # type: ignore[return-value]
        signature = inspect.signature(function)

        @functools.cache
        def ranges() -> dict[str, dict[str, float]]:
            hints = get_type_hints(function, include_extras=True)
            return {name: found for name, hint in hints.items() if (found := bounds_of(hint))}

        @functools.wraps(function)
        def checked(*arguments: Any, **options: Any) -> Any:
            given = signature.bind(*arguments, **options).arguments
            for name, bounds in ranges().items():
                if given.get(name) is not None:
                    require(f"{prefix}.{name}" if prefix else name, given[name], **bounds)
            return function(*arguments, **options)

        return checked  # type: ignore[return-value]

    return decorate


def require(name: str, value: Any, **bounds: float) -> None:
    """Refuse a number, or a list of numbers, outside of its bounds.

    Args:
        name: of the option, in words that the user knows.
        value: what was given.
        bounds: of ``ge``, ``gt``, ``le`` and ``lt``.

    Raises:
        ConfigError: naming option, value and range.
    """
    for one in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(one, Real):
            raise ConfigError(f"{name}={value!r} is no number: it must {_words(bounds)}")
        number = float(one)
        if not (math.isfinite(number) and all(_HOLDS[rule](number, bound) for rule, bound in bounds.items())):
            raise ConfigError(f"{name}={value} must {_words(bounds)}")


_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "ge": lambda value, bound: value >= bound,
    "gt": lambda value, bound: value > bound,
    "le": lambda value, bound: value <= bound,
    "lt": lambda value, bound: value < bound,
}


def _words(bounds: dict[str, float]) -> str:
    low, high = (next((bounds[rule] for rule in pair if rule in bounds), None) for pair in (("ge", "gt"), ("le", "lt")))
    if high is None:
        if bounds == {"gt": 0}:
            return "be positive and finite"
        return f"be at least {low:g}" if "ge" in bounds else f"be above {low:g}"
    if low is None:
        return f"be at most {high:g}" if "le" in bounds else f"be below {high:g}"
    return f"lie in {'[' if 'ge' in bounds else '('}{low:g}, {high:g}{']' if 'le' in bounds else ')'}"


def bounds_of(hint: Any) -> dict[str, float]:
    """Return the bounds in an annotation, also inside of ``X | None`` and ``list[X]``."""
    found: dict[str, float] = {}
    for item in getattr(hint, "__metadata__", ()):
        for rule in item.metadata if isinstance(item, FieldInfo) else ():
            found |= {name: getattr(rule, name) for name in _HOLDS if getattr(rule, name, None) is not None}
    for inner in getattr(hint, "__args__", ()):
        found = {**bounds_of(inner), **found}
    return found
