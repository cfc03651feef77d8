"""Numbers of bytes as people write them."""

from __future__ import annotations

import re

from ddkit.errors import ConfigError, shortened

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_bytes(size: int | str) -> int:
    """Read a number of bytes: 65536, ``"64KiB"`` (times 1024) or ``"64kB"`` (times 1000).

    Raises:
        ConfigError: another unit, or less than one byte.
    """
    text = shortened(str(size))
    match = _SIZE.fullmatch(text)
    if isinstance(size, bool) or match is None or match[2].lower() not in _UNITS:
        raise ConfigError(f"size '{text}' is no number of bytes: give an integer or a text such as '64KiB'")
    count = int(float(match[1]) * _UNITS[match[2].lower()])
    if count < 1:
        raise ConfigError(f"size '{text}' is less than one byte: give at least the bytes of one image per class")
    return count
