"""Which arguments of a private run make no sense, whatever the records are?"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal

from ddkit.errors import ConfigError


def require_positive(**values: Any) -> None:
    """Refuse what is not a positive finite number; None passes."""
    for name, value in values.items():
        if value is not None and not (_is_number(value) and 0 < value < math.inf):
            raise ConfigError(f"{name}={value!r} must be a positive finite number, such as 1 or 10")


def require_whole(least: int = 1, **values: Any) -> None:
    """Refuse what is not a whole number of at least ``least``; None passes."""
    for name, value in values.items():
        if value is None:
            continue
        if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < least:
            raise ConfigError(f"{name}={value!r} must be a whole number of at least {least}")


def require_delta(delta: Any) -> None:
    """Refuse a delta outside (0, 1)."""
    if not (_is_number(delta) and 0 < delta < 1):
        raise ConfigError(f"delta={delta!r} must be a number between 0 and 1, below one over the number of records")


def checked_label_counts(counts: Any) -> list[int] | Literal["private"] | None:
    """Return class sizes as a list; ``"private"`` and None as they are.

    Raises:
        ConfigError: sizes that are no positive whole numbers.
    """
    if counts is None:
        return None
    if isinstance(counts, str) and counts == "private":
        return "private"
    listed = counts.tolist() if hasattr(counts, "tolist") else counts
    if not isinstance(listed, list | tuple) or not all(_is_size(count) for count in listed):
        raise ConfigError(
            f"label_counts={counts!r} must be positive public whole numbers, one per class; leave it out to assume "
            f"equal classes, or use label_counts='private'"
        )
    return [int(count) for count in listed]


def require_room(out: Any, names: Sequence[str]) -> None:
    """Refuse a folder in which files could not be written, or would replace others, before privacy is paid for them.

    Args:
        out: folder; it need not exist.
        names: of the files.

    Raises:
        ConfigError: saying why.
    """
    if not isinstance(out, str | os.PathLike):
        raise ConfigError(f"out={out!r} must be the path of a folder")
    folder = Path(out)
    taken = [name for name in names if (folder / name).exists()]
    if taken:
        raise ConfigError(f"'{folder}' has a release already ({taken[0]}): choose another folder, as it is paid for")
    present = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not present.is_dir() or not os.access(present, os.W_OK | os.X_OK):
        raise ConfigError(f"out='{folder}' cannot be written, as '{present}' is no writable folder: choose another one")


def _is_size(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
