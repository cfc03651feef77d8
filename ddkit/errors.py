"""The exceptions that ddkit raises: each message names the value, the rule it broke and the remedy.

``exit_status`` is what the command line returns: 2 for bad input (nothing was started), 1 for a run that failed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: What to do about a file whose content makes no sense.
DAMAGED = "the file is damaged, write it anew"


class DDKitError(Exception):
    """Base class of everything that ddkit raises on purpose."""

    exit_status = 2


class ConfigError(DDKitError, ValueError):
    """An option, name or combination that ddkit does not accept."""


class UnknownNameError(ConfigError):
    """A name that no registry holds; the message suggests the nearest one."""


class DataError(DDKitError, ValueError):
    """A dataset that cannot be read or cannot be used as it is."""


class ArtifactError(DDKitError, ValueError):
    """A distilled dataset file that is truncated, tampered with or inconsistent."""


class LockedError(ConfigError):
    """A folder in which another process is at work."""


class CheckpointError(DDKitError, RuntimeError):
    """A checkpoint or result that cannot be written, read or continued."""

    exit_status = 1


class MissingExtraError(DDKitError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: run `pip install 'ddkit[{extra}]'`")


class RunError(DDKitError, RuntimeError):
    """A run that started and could not finish."""

    exit_status = 1


class DivergedError(RunError):
    """A loss, gradient or synthetic value that is no longer finite."""


class InterruptedRunError(RunError):
    """A run stopped by Ctrl-C, SIGTERM or SIGHUP; what could be saved was saved first."""

    exit_status = 130


def shortened(text: str, most: int = 160) -> str:
    """Return ``text`` on one line of at most ``most`` characters: what is too long loses its middle."""
    line = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    return line if len(line) <= most else f"{line[: most * 2 // 3]} ... {line[-(most // 3 - 5) :]}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for an unknown ``name`` of some ``kind``, suggesting the nearest of the ``known`` ones."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name).lower()[:200], known, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'? " if near else ""
    others = f"known: {', '.join(known)}" if known else "there are none"
    return UnknownNameError(f"unknown {kind} '{shortened(str(name))}': {hint}{others}")
