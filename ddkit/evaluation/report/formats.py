"""How are quantities written for people: percentages, sizes, durations and ratios."""

from __future__ import annotations

import sys
from typing import TypeGuard

NBSP = "\u00a0"
ABSENT = "–"


def known(value: object) -> TypeGuard[float]:
    """Return whether ``value`` is a finite number; files that were read may hold anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def percent(fraction: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage without its sign: 0.9754 is ``97.5``."""
    return f"{100 * fraction:.{digits}f}" if known(fraction) else ABSENT


def points(difference: float | None, digits: int = 1) -> str:
    """Write a difference of two fractions in percentage points, always signed: -0.012 is ``−1.2``."""
    if not known(difference):
        return ABSENT
    value = round(100 * difference, digits)
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{sign}{abs(value):.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 1) -> str:
    """Write an interval of fractions in percent: ``96.9 – 97.8``."""
    if not known(low) or not known(high):
        return ABSENT
    return f"{percent(low, digits)}{NBSP}–{NBSP}{percent(high, digits)}"


def count(value: float | None) -> str:
    """Write a whole number with thousands separated: ``60,000``."""
    return f"{value:,.0f}" if known(value) else ABSENT


def size(number_of_bytes: float | None) -> str:
    """Write bytes in decimal units with three significant digits: 313600 is ``314 kB``."""
    if not known(number_of_bytes):
        return ABSENT
    value = float(number_of_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.{_digits(value, whole=unit == 'B')}f}{NBSP}{unit}"
        value /= 1000
    return f"{value:.{_digits(value)}f}{NBSP}TB"


def duration(seconds: float | None) -> str:
    """Write seconds in the unit that fits: ``0.42 s``, ``42.1 s``, ``12 min 5 s``, ``3 h 20 min``."""
    if not known(seconds):
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.{2 if seconds < 9.995 else 1}f}{NBSP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{NBSP}min {rest}{NBSP}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}{NBSP}h {minutes}{NBSP}min"


def ratio(value: float | None) -> str:
    """Write a ratio: ``600×``, ``1.2×``."""
    if not known(value):
        return ABSENT
    return f"{value:,.{0 if value >= 9.95 else 1}f}×"


def number(value: float | None) -> str:
    """Write any number with four significant digits."""
    return f"{value:.4g}" if known(value) else ABSENT


def _digits(value: float, whole: bool = False) -> int:
    """Return how many decimals give three significant digits."""
    if whole or value >= 99.95:
        return 0
    return 1 if value >= 9.995 else 2
