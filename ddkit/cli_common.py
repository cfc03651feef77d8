"""What do several commands share: defaults, and a folder that can be written?"""

from __future__ import annotations

import os
from pathlib import Path

from ddkit.errors import ConfigError

DEFAULT_DATA = "digits"
DEFAULT_IPC = 10


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or cannot be created.

    Raises:
        ConfigError: so it is.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise ConfigError(f"cannot write to '{folder}': '{existing}' is a file; choose another folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot write to '{folder}': no permission in '{existing}'; choose another folder")
