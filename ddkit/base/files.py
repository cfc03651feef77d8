"""Write files so that a reader never sees a half-written one."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from ddkit.errors import CheckpointError


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, flush it to disk, then rename it over ``path``.

    What was at ``path`` stays untouched until the new content is complete. The file may be read by whom the umask of
    the process allows.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; nothing was changed.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / temporary_pattern(path).replace("*", secrets.token_hex(8))
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask
        write(temporary)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CheckpointError(
            f"cannot write '{path}': {reason}; nothing was overwritten: free space or choose another folder"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
    return path


def temporary_pattern(path: Path) -> str:
    """Return the glob pattern of the temporary files of ``path``: a killed process leaves them behind."""
    return f".{path.name}.*.tmp"


def write_text(path: Path | str, text: str) -> Path:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
