"""How does a recipe read its settings: checked, refused in one line, laid over those of the data it runs on?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ddkit.base.config import merge
from ddkit.base.registry import describe_validation_error
from ddkit.data.names import known_as
from ddkit.errors import ConfigError, unknown_name

#: Told a line of text at every stage.
Say = Callable[[str], None]


class Frozen(BaseModel):
    """Settings that are checked, know no others, and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Kind = TypeVar("Kind", bound=Frozen)


def checked(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Return ``values`` as settings of a kind.

    Raises:
        ConfigError: naming the first setting of the wrong type or out of range.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        raise ConfigError(f"bad settings: {describe_validation_error(error)}") from None


def require_known(block: Mapping[str, Any], values: Mapping[str, Any], owner: str) -> None:
    """Refuse a block of settings that names one which the recipe does not have.

    Args:
        block: settings of a data set or benchmark.
        values: all settings of the recipe.
        owner: whose block it is, for the message.

    Raises:
        UnknownNameError: naming the nearest setting.
    """
    for key in block:
        if key not in values:
            raise unknown_name(f"setting of {owner}", key, values)


def laid_over(block: Mapping[str, Any], values: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Return the settings of a block under those that are not null; what it leaves out may be null.

    Args:
        block: settings of a data set.
        values: all settings of the recipe; those of mappings are laid over key by key.
        owner: whose block it is, for the message.

    Raises:
        UnknownNameError: the block names a setting which the recipe does not have.
    """
    require_known(block, values, owner)
    return merge(block, {key: value for key, value in values.items() if value is not None or key not in block})


def of_data_set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a recipe with those that are null or empty taken from ``data_sets[data]``.

    Args:
        values: all settings of the recipe, ``data_sets`` and ``data`` among them.

    Raises:
        UnknownNameError: a data set without a block, or a block with a setting which the recipe does not have.
    """
    rest = dict(values)
    blocks, data = rest.pop("data_sets"), str(rest["data"])
    name = known_as(data) if isinstance(blocks, Mapping) and data not in blocks else data
    if not isinstance(blocks, Mapping) or name not in blocks:
        raise unknown_name("data set of this recipe", data, blocks if isinstance(blocks, Mapping) else ())
    return laid_over(blocks[name], rest, f"data set '{name}'")
