"""Who writes into a folder? One process at a time."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ddkit.errors import CheckpointError, LockedError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

#: The file that is locked; it is removed when the lock is given back, and a process that was killed leaves it unlocked.
FILE_NAME = ".ddkit.lock"
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
#: Folders that this process holds; the operating system's lock tells processes apart, not threads.
_held: dict[Path, int] = {}
_guard = threading.Lock()


@contextmanager
def locked(folder: Path | str, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder for this process alone; the folder is made where there is none, and removed again if left empty.

    The lock is the operating system's (advisory, on a file in the folder): it ends with the process, however that ends.
    Where the file system knows no locks a warning says so.

    Args:
        folder: to be held.
        patience: seconds to wait for who holds it now.

    Raises:
        LockedError: another process, or another thread of this one, is at work in the folder.
        CheckpointError: the folder cannot be made or written.
    """
    folder = Path(folder).absolute()
    made = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    key = folder.resolve()
    deadline = time.monotonic() + patience
    while True:
        try:
            descriptor = _hold(folder, key)
            break
        except LockedError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.05)
    try:
        yield
    finally:
        with _guard:
            _held.pop(key, None)
            if descriptor is not None:
                (folder / FILE_NAME).unlink(missing_ok=True)  # still locked: nobody else can have taken it
                os.close(descriptor)
        for part in made:
            try:
                part.rmdir()
            except OSError:  # it holds something, or is gone
                break


def _hold(folder: Path, key: Path) -> int | None:
    with _guard:
        if _held.get(key) == os.getpid():  # a forked child finds its parent's number
            raise LockedError(f"'{folder}' is in use by another thread of this process: wait for it")
        descriptor = _take(folder)
        _held[key] = os.getpid()
    return descriptor


def _take(folder: Path) -> int | None:
    """Return the descriptor of the locked file; None where files cannot be locked."""
    if fcntl is None:
        return None
    path = folder / FILE_NAME
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 400, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            if error.errno not in _UNSUPPORTED:
                raise LockedError(
                    f"'{folder}' is in use by {holder or 'another process'}: wait until it has ended, or stop it; its "
                    f"lock ends with it"
                ) from None
            path.unlink(missing_ok=True)
            warnings.warn(
                f"'{folder}' is on a file system without locks: make sure that no other process writes to it",
                stacklevel=5,
            )
            return None
        if _is_still_at(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)  # whoever held it has removed the file in the meantime


def _is_still_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write to '{folder}': {error.strerror or error}; choose another folder")
