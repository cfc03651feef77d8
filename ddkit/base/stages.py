"""How far is long work before the first step: what a run keeps of it, so that a stopped one goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddkit.base.checkpoint import load_checkpoint, save_checkpoint
from ddkit.errors import CheckpointError

#: Seconds of work that a stop may cost at most.
INTERVAL_SECONDS = 10.0


class Stages:
    """States of named pieces of work in one file; each piece resumes to the bytes that it would have had.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._states: dict[str, Any] = load_checkpoint(path) if path is not None and path.is_file() else {}
        self._kept_at = time.monotonic()

    def restore(self, name: str, take: Callable[[Any], None]) -> bool:
        """Hand the state that was kept of ``name`` to ``take``; return whether there was one.

        Raises:
            CheckpointError: it does not fit.
        """
        if name not in self._states:
            return False
        try:
            take(self._states[name])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"'{self.path}' does not fit this run ({' '.join(str(error).split())[:200]}): remove it, and the work "
                f"before the first step starts anew"
            ) from None
        return True

    def keep(self, name: str, state: Callable[[], Any], *, done: bool = False) -> None:
        """Keep the state of ``name`` if it is ``done`` or the last time is long ago.

        Raises:
            CheckpointError: it cannot be written.
        """
        if self.path is None or not (done or time.monotonic() - self._kept_at > INTERVAL_SECONDS):
            return
        self._states[name] = state()
        save_checkpoint(self.path, self._states)
        self._kept_at = time.monotonic()

    def clear(self) -> None:
        """Remove the file: a checkpoint holds all of it."""
        self._states = {}
        if self.path is not None:
            self.path.unlink(missing_ok=True)
