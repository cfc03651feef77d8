"""Does what is asked for fit into the memory of this machine?"""

from __future__ import annotations

import os

from ddkit.errors import ConfigError, shortened

BYTES = 4  # of a float32


def require_memory(what: str, numbers: int, remedy: str) -> None:
    """Refuse ``numbers`` float32 numbers that this machine could not hold even once.

    Args:
        what: takes them, in words.
        numbers: how many.
        remedy: what to change.

    Raises:
        ConfigError: they take more than all memory.
    """
    try:
        have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # a system that does not tell
        return
    if BYTES * numbers > have > 0:
        raise ConfigError(
            f"{shortened(what)} would take {shortened(f'{BYTES * numbers // 10**9:,}', 40)} GB, this machine has "
            f"{have // 10**9:,} GB of memory: {remedy}"
        )
