"""How does work that takes a while say how far it is?"""

from __future__ import annotations

import time
from collections.abc import Callable

#: Called as ``report(what, done, total)``, with ``done`` ascending from 0 to ``total`` for every ``what``.
Report = Callable[[str, int, int], None]
#: Seconds after which a log gets its second line about a piece of work, and the most between two lines.
FIRST_SECONDS, MOST_SECONDS = 5.0, 60.0


def silent(what: str, done: int, total: int) -> None:
    """Say nothing."""


class Lines:
    """Says in lines of text how far work is, for a log: at its start, then at intervals that grow to a minute.

    Args:
        say: takes a line.
        unit: of which ``done`` and ``total`` are numbers.
    """

    def __init__(self, say: Callable[[str], None], unit: str = "") -> None:
        self._say, self._unit = say, f" {unit}" if unit else ""
        self._what: str | None = None
        self._done = self._first = 0

    def __call__(self, what: str, done: int, total: int, more: str = "") -> None:
        """Report; ``more`` stands at the end of the line."""
        now = time.monotonic()
        if what != self._what or done < self._done:
            self._what, self._began, self._first = what, now, done
            self._said, self._interval = now, FIRST_SECONDS
        elif now - self._said < self._interval:
            self._done = done
            return
        else:
            self._said, self._interval = now, min(2 * self._interval, MOST_SECONDS)
        self._done = done
        self._say(f"{what}: {done:,} of {total:,}{self._unit}{self._left(now, total)}{more}")

    def _left(self, now: float, total: int) -> str:
        """Return how long the rest takes at the speed so far."""
        done, seconds = self._done - self._first, now - self._began
        if not done or not seconds:
            return ""
        return f", about {roughly(seconds / done * (total - self._done))} left"


def roughly(seconds: float) -> str:
    """Return a time in words: ``42 s``, ``12 min``, ``3.4 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
