"""``ddkit methods`` lists methods, and the pieces of which they are composed."""

from __future__ import annotations

import inspect
import re
from typing import Annotated, Any

import typer

from ddkit.cli.options import Json, Verbose
from ddkit.cli.tables import print_json, print_table


def methods(
    pieces: Annotated[
        bool, typer.Option("--pieces", help="List the pieces that --synthesis, --objective and --networks take.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List every method: family, what it learns, paper, cost class."""
    from ddkit import methods as named

    if pieces:
        listed = _pieces()
        return print_json(listed) if as_json else print_table(listed)
    rows = [named.get(name).describe() for name in named.available()]
    if as_json:
        return print_json(rows)
    columns = {"name": "method", "family": "family", "learns": "learns", "cost": "full cost", "paper": "paper"}
    print_table([{title: row[key] for key, title in columns.items()} for row in rows])


def _pieces() -> list[dict[str, str]]:
    """Return every registered piece: its kind, its name, what it does and its options with their defaults."""
    from ddkit import networks, objectives, synthesis
    from ddkit.base.registry import Registry
    from ddkit.objectives import constraints

    registries: dict[str, Registry[Any]] = {
        "synthesis": synthesis.registry,
        "objective": objectives.registry,
        "networks": networks.registry,
        "constraint": constraints.registry,
    }
    return [
        {
            "piece": kind,
            "name": name,
            "what": _first_sentence(registry.get(name)),
            "options": _options(registry.get(name)),
        }
        for kind, registry in registries.items()
        for name in registry.available()
    ]


def _first_sentence(piece: Any) -> str:
    """Return the first paragraph of a piece's documentation up to its citation, without markup."""
    paragraph = " ".join((inspect.getdoc(piece) or "").split("\n\n")[0].split()).replace("`", "")
    return re.split(r" \((?=[A-Z])|[.;](?: |$)", paragraph)[0]


def _options(piece: Any) -> str:
    """Return the options of a piece with their defaults, as they are written after its name."""
    given = ("num_classes", "ipc", "shape")
    parameters = [p for p in inspect.signature(piece).parameters.values() if p.name not in given]
    return ",".join(f"{p.name}={p.default}" for p in parameters if p.default is not p.empty)
