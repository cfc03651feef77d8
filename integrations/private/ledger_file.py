"""How do processes share one ledger: a file behind a lock, in which queries are paid for before they are made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ddkit.base.files import write_text
from ddkit.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_VERSION = 1
#: A ledger of more bytes is nobody's.
_MOST_BYTES = 10_000_000


class LedgerFile:
    """A JSON document that one process at a time reads and replaces.

    The lock is a file of its own beside it, which stays: it also holds how often the ledger was written, so that a
    ledger that went missing, or an older copy of it, is noticed.

    Args:
        path: of the document.

    Raises:
        ConfigError: a path that is no file, or a system without file locks.
    """

    def __init__(self, path: str | Path) -> None:
        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"file={path!r} must be the path of a file for the privacy budget, such as budget.json")
        self.path = Path(path)
        self._guard = self.path.with_name(f".{self.path.name}.lock")
        if fcntl is None:
            raise ConfigError("a budget in a file needs file locks, which this system does not have: leave file out")
        if self.path.is_dir():
            raise ConfigError(f"'{self.path}' is a folder: name a file for the privacy budget, such as budget.json")

    @property
    def known(self) -> bool:
        """Whether there is a document, or was one."""
        return self.path.exists() or self._guard.exists()

    @contextmanager
    def locked(self) -> Iterator[Transaction]:
        """Hold the lock, and give access to the document.

        Raises:
            ConfigError: a document that is damaged, was changed by hand, went missing or is an older copy.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            stream = self._guard.open("a+", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"cannot lock the privacy budget '{self.path}' ({error.strerror}): choose a folder that can be written"
            ) from None
        with stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # let go when the stream is closed, by a crash as well
            yield Transaction(self.path, stream)


class Transaction:
    """The document while the lock is held.

    Args:
        path: of the document.
        guard: the lock file, open.
    """

    def __init__(self, path: Path, guard: IO[str]) -> None:
        self.path, self._guard = path, guard
        guard.seek(0)
        text = guard.read(32).strip()
        self._written = int(text) if text.isdigit() else 0

    def read(self) -> dict[str, Any] | None:
        """Return the document; None before the first one was written.

        Raises:
            ConfigError: as :meth:`LedgerFile.locked`.
        """
        if not self.path.exists():
            if self._written:
                raise ConfigError(
                    f"the privacy budget '{self.path}' is gone, and what was spent with it: restore it from a copy of "
                    f"its last state"
                )
            return None
        try:
            if self.path.stat().st_size > _MOST_BYTES:
                raise ValueError
            document = json.loads(self.path.read_text(encoding="utf-8"))
            content, number = dict(document["content"]), int(document["written"])
            if document["checksum"] != _checksum(content, number):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"the privacy budget '{self.path}' is damaged or was changed by hand: restore it from a copy of its "
                f"last state"
            ) from None
        if number < self._written:
            raise ConfigError(
                f"the privacy budget '{self.path}' is an older copy, written {number} times instead of "
                f"{self._written}: restore its last state, as queries that were made cannot be forgotten"
            )
        self._written = number
        return content

    def write(self, content: dict[str, Any]) -> None:
        """Replace the document, atomically.

        Raises:
            CheckpointError: the disk is full or the folder cannot be written; nothing changed.
        """
        number = self._written + 1
        document = {"written": number, "checksum": _checksum(content, number), "content": content}
        write_text(self.path, json.dumps(document, indent=2) + "\n")
        self._guard.seek(0)
        self._guard.truncate()
        self._guard.write(str(number))
        self._guard.flush()
        self._written = number


def _checksum(content: dict[str, Any], number: int) -> str:
    text = json.dumps([_VERSION, number, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
