"""What do several commands share: defaults, and a folder that can be written?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddkit.errors import ConfigError

DEFAULT_DATA = "digits"
DEFAULT_IPC = 10


def where_data_are(stored: Mapping[str, Any], run: Path) -> str:
    """Return what names the data of a run now: the place where they were when it started, whatever folder this is.

    Args:
        stored: the entry ``data`` of its ``config.json``.
        run: its folder.

    Raises:
        ConfigError: they are neither there nor, under the name that was typed, here.
    """
    from ddkit.data.loading import available

    spec, path = str(stored["spec"]), stored.get("path")
    for place in (path, spec):
        if place is not None and (str(place).lower() in available() or Path(str(place)).expanduser().exists()):
            return str(place)
    sought = f"'{path}'" if path is not None else f"'{Path.cwd()}'"
    raise ConfigError(
        f"the data of '{run}', '{spec}', are not in {sought} any more: say where they are with --data PATH"
    )


def is_writable(folder: Path) -> bool:
    """Say whether files can be written into a folder, or whether it can be made."""
    return os.access(_existing(folder), os.W_OK | os.X_OK)


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one around it that is there."""
    return next(part for part in (folder, *folder.absolute().parents) if part.exists())


def check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or cannot be created.

    Raises:
        ConfigError: so it is.
    """
    existing = _existing(folder)
    if not existing.is_dir():
        raise ConfigError(f"cannot write to '{folder}': '{existing}' is a file; choose another folder")
    if not is_writable(existing):
        raise ConfigError(f"cannot write to '{folder}': no permission in '{existing}'; choose another folder")
