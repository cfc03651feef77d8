"""How does work that takes a while before the first step say how far it is?"""

from __future__ import annotations

from collections.abc import Callable

#: Called as ``report(what, done, total)``, with ``done`` ascending from 0 to ``total`` for every ``what``.
Report = Callable[[str, int, int], None]


def silent(what: str, done: int, total: int) -> None:
    """Say nothing."""
