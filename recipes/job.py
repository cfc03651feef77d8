"""What does a recipe work with: settings that are checked, and cells that a killed run keeps?"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from ddkit.base.config import merge
from ddkit.base.documents import parse_json
from ddkit.base.executor import Executor, InProcess
from ddkit.base.files import write_text
from ddkit.base.progress import Lines
from ddkit.base.registry import describe_validation_error
from ddkit.data.names import known_as
from ddkit.errors import ConfigError, unknown_name

#: The file in an output folder that says which run it holds.
FILE_NAME = "recipe.json"


class Frozen(BaseModel):
    """Settings that are checked, know no others, and never change."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Kind = TypeVar("Kind", bound=Frozen)


@dataclass(frozen=True)
class Job:
    """One run of a recipe.

    Args:
        recipe: its name.
        values: settings of its file under those of the command line.
        texts: what its page explains, by heading.
        out: folder for cells, sets, tables and the page.
        say: told a line of text at every stage.
        command: what the user typed.
        started: on the monotonic clock.
    """

    recipe: str
    values: Mapping[str, Any]
    texts: Mapping[str, str]
    out: Path
    say: Callable[[str], None]
    command: str
    started: float = field(default_factory=time.monotonic)

    def cells(self, total: int) -> Cells:
        """Write down what runs, so that it can be continued; return its ``total`` cells, finished ones included.

        Call it when everything has been checked: nothing is written before.
        """
        if not (self.out / FILE_NAME).is_file():
            content = {"recipe": self.recipe, "command": self.command, "settings": self.values}
            write_text(self.out / FILE_NAME, json.dumps(content, indent=2) + "\n")
        return Cells(self.out / "cells", total, self.say)


class Cells:
    """The independent parts of a recipe: each result is kept as JSON and not computed again.

    Args:
        folder: of one file a cell.
        total: how many cells there are.
        say: told a line for each finished cell.
    """

    def __init__(self, folder: Path, total: int, say: Callable[[str], None]) -> None:
        self._folder, self._total, self._done = folder, total, 0
        self._lines = Lines(say, "cells")

    def of(self, kind: Any, name: str, work: Callable[[], Any]) -> Any:
        """Return the result of one cell, see :meth:`map`."""
        return self.map(kind, lambda _: work(), {name: None})[0]

    def map(self, kind: Any, work: Callable[[Any], Any], items: Mapping[str, Any], pool: Executor | None = None) -> Any:
        """Return the results of cells in their order: from their files, or by ``work``.

        Args:
            kind: type of a result: numbers, texts, and lists, mappings, dataclasses or models of them.
            work: takes an item; picklable where ``pool`` is not this process.
            items: by the name of their cell.
            pool: where cells are computed.
        """
        pool = pool or InProcess()
        kept, pairs = functools.partial(_kept, work, self._folder), list(items.items())
        found = []
        for batch in [[pair] for pair in pairs] if isinstance(pool, InProcess) else [pairs]:
            for (name, _), (content, is_new) in zip(batch, pool.map(kept, batch), strict=True):
                found.append(TypeAdapter(kind).validate_python(content))
                self._done += 1
                self._lines(name, self._done, self._total, "" if is_new else ", done before")
        return found


def _kept(work: Callable[[Any], Any], folder: Path, named: tuple[str, Any]) -> tuple[Any, bool]:
    """Return the JSON-able result of a cell, and whether it is new."""
    name, item = named
    path = folder / f"{name}.json"
    with suppress(OSError, ValueError):  # not there, or damaged
        return parse_json(path.read_bytes()), False
    content = to_jsonable_python(work(item))
    write_text(path, json.dumps(content) + "\n")
    return content, True


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
    """Refuse the block of ``owner`` if it has a setting which is not among ``values``.

    Raises:
        UnknownNameError: naming the nearest setting.
    """
    for key in block:
        if key not in values:
            raise unknown_name(f"setting of {owner}", key, values)


def of_data_set(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with those that are null or empty taken from ``data_sets[data]``, or from its block ``other``.

    Raises:
        UnknownNameError: a data set without a block, or a block with a setting which the recipe does not have.
    """
    rest = dict(values)
    blocks, data = rest.pop("data_sets"), str(rest["data"])
    blocks = blocks if isinstance(blocks, Mapping) else {}
    name = next((one for one in (data, known_as(data), "other") if isinstance(blocks.get(one), Mapping)), None)
    if name is None:
        raise unknown_name("data set of this recipe", data, blocks)
    require_known(blocks[name], rest, f"data set '{name}'")
    chosen = {key: value for key, value in rest.items() if value is not None or key not in blocks[name]}
    return merge(blocks[name], chosen)


def of_size(budgets: Mapping[str, Mapping[str, Any]], method: str, ipc: int) -> dict[str, Any]:
    """Return the overrides of a method at a number of images per class: ``budgets[method]`` under its block ``ipc``.

    Raises:
        ConfigError: a block that is no mapping.
    """
    budget = budgets.get(method, {})
    own = budget.get(str(ipc), {})
    if not isinstance(own, Mapping):
        raise ConfigError(f"budgets.{method}.{ipc}={own!r} must map settings to values, for instance {{steps: 100}}")
    return merge({key: value for key, value in budget.items() if not key.isdigit()}, own)
