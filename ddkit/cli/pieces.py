"""Which pieces does ``ddkit methods --pieces`` list?"""

from __future__ import annotations

import inspect
import re
from typing import Any

from ddkit import networks, objectives, synthesis
from ddkit.base.registry import Registry
from ddkit.objectives import constraints


def list_pieces() -> list[dict[str, str]]:
    """Return every registered piece: its kind, its name, what it does and its options with their defaults."""
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
