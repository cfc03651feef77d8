"""Which networks has an evaluation that was stopped trained and tested already?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddkit.base.container import canonical_json
from ddkit.base.documents import read_json_object
from ddkit.base.files import temporary_pattern, write_text

FOLDER_NAME = "evaluating"


class Finished:
    """Accuracies of networks by everything that they depend on, one file each, kept until the evaluation is complete.

    A file is written when its networks are tested, atomically; a file that cannot be read counts as not there.

    Args:
        folder: where to keep them; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._used: set[Path] = set()

    def get(self, identity: Mapping[str, Any], count: int) -> tuple[list[float], float] | None:
        """Return the ``count`` accuracies (fractions) and the seconds that were kept under ``identity``, if any."""
        path = self._path(identity)
        if path is None:
            return None
        try:
            kept = read_json_object(path)
            values, seconds = [float(value) for value in kept["accuracies"]], float(kept["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        fits = len(values) == count and all(0 <= value <= 1 for value in values) and 0 <= seconds < math.inf
        return (values, seconds) if fits else None

    def put(self, identity: Mapping[str, Any], accuracies: Sequence[float], seconds: float) -> None:
        """Keep what the networks of ``identity`` reached."""
        path = self._path(identity)
        if path is not None:
            write_text(path, json.dumps({"accuracies": list(accuracies), "seconds": seconds}) + "\n")

    def count(self) -> int:
        """Return how many files were read or written."""
        return sum(path.is_file() for path in self._used)

    def clear(self) -> None:
        """Remove what was kept, as the results hold it."""
        if self.folder is None:
            return
        for path in self._used:
            for file in (path, *self.folder.glob(temporary_pattern(path))):
                file.unlink(missing_ok=True)
        with suppress(OSError):  # another evaluation keeps its own there
            self.folder.rmdir()

    def _path(self, identity: Mapping[str, Any]) -> Path | None:
        if self.folder is None:
            return None
        path = self.folder / f"{hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()[:32]}.json"
        self._used.add(path)
        return path
