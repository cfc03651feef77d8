"""Names for pieces: look one up with a suggestion for a typing mistake, build one from checked options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, get_type_hints

from pydantic import ConfigDict, ValidationError, create_model

from ddkit.base.ranges import in_range
from ddkit.errors import ConfigError, shortened, unknown_name

T = TypeVar("T")


def describe_validation_error(error: ValidationError) -> str:
    """Put a pydantic error on one line: every wrong key with its value and what was expected."""
    parts = []
    # An alternative that takes an object of a class is of no use to whoever wrote text or numbers.
    items = [item for item in error.errors() if item["type"] != "is_instance_of"] or error.errors()
    for item in items:
        key = ".".join(str(part) for part in item["loc"] if "[" not in str(part)) or "value"
        value = shortened(repr(item.get("input")))
        parts.append(f"{key}={value}: {item['msg'].removeprefix('Value error, ')}")
    return "; ".join(parts)


def checked_options(
    kind: str, build: Callable[..., Any], options: Mapping[str, Any], fixed: Collection[str] = ()
) -> dict[str, Any]:
    """Validate ``options`` against the annotated keyword arguments of ``build`` other than the ``fixed`` ones.

    Raises:
        ConfigError: an option that ``build`` does not have (the nearest one is suggested), or of the wrong type.
    """
    signature = inspect.signature(build)
    target = build.__init__ if inspect.isclass(build) else build  # type: ignore[misc]
    hints = get_type_hints(target)
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and name not in fixed:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
    for key in options:
        if key not in fields:
            raise unknown_name(f"option of {kind}", key, fields)
    model = create_model(
        "Options", __config__=ConfigDict(arbitrary_types_allowed=True, protected_namespaces=()), **fields
    )
    try:
        checked = model(**options)
    except ValidationError as error:
        raise ConfigError(f"bad option of {kind}: {describe_validation_error(error)}") from None
    return {key: getattr(checked, key) for key in options}


class Registry(Generic[T]):
    """A table of named pieces.

    Args:
        kind: what the names stand for, in the words of an error message ("method", "model").
        group: entry point group through which other packages add pieces; None for none.
        option: under which users set the options of a piece, for messages about ranges (:mod:`ddkit.base.ranges`);
            None for those of ``kind``.
    """

    def __init__(self, kind: str, group: str | None = None, option: str | None = None) -> None:
        self.kind, self.option = kind, option or kind
        self.group = group
        self._items: dict[str, T] = {}
        self._loaded = group is None

    def register(self, name: str, item: T | None = None) -> Any:
        """Add ``item`` under ``name``; without an item, return a decorator that adds what it decorates."""
        if item is None:
            return lambda value: self.register(name, value)
        name = name.lower()
        if name in self._items and self._items[name] is not item:
            raise ConfigError(f"{self.kind} '{name}' is already registered; choose another name")
        own = vars(item).get("__init__") if inspect.isclass(item) else None
        if inspect.isfunction(own) and item not in self._items.values():
            item.__init__ = in_range(self.option)(own)  # type: ignore[misc, method-assign]
        self._items[name] = item
        return item

    def _load(self, name: str | None = None) -> None:
        """Load what other packages add: the piece called ``name``, or all of them."""
        if self._loaded or name in self._items:
            return
        self._loaded = name is None
        for entry in entry_points(group=self.group or ""):
            if entry.name.lower() not in self._items and name in (None, entry.name.lower()):
                self.register(entry.name, entry.load())

    def get(self, name: str) -> T:
        """Return the piece called ``name``.

        Raises:
            UnknownNameError: there is none; the nearest name is suggested.
        """
        key = str(name).lower()
        self._load(key)
        if key not in self._items:
            raise unknown_name(self.kind, name, self.available())
        return self._items[key]

    def create(self, name: str, options: Mapping[str, Any] | None = None, **fixed: Any) -> Any:
        """Call the piece called ``name`` with ``fixed`` arguments and checked ``options``."""
        build: Any = self.get(name)
        options = dict(options or {})
        return build(**fixed, **checked_options(f"{self.kind} '{name}'", build, options, fixed))

    def available(self) -> list[str]:
        """Return all names, sorted."""
        self._load()
        return sorted(self._items)

    def __iter__(self) -> Iterator[str]:
        return iter(self.available())

    def __contains__(self, name: object) -> bool:
        self._load(str(name).lower())
        return str(name).lower() in self._items
