"""Which points of accuracy against bytes were measured? ``curve.json`` in a run folder keeps them for the next call."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ddkit.base.documents import read_json_object
from ddkit.base.files import temporary_pattern, write_text
from ddkit.base.lock import locked
from ddkit.data.distilled.privacy import figures_folder
from ddkit.errors import DataError
from ddkit.evaluation.rate import Curve, Point

FILE_NAME = "curve.json"


class Kept(BaseModel):
    """The content of ``curve.json``.

    Args:
        command: what the user typed last.
        curve: that was measured last; None before it is complete.
        points: all that were measured, by what they depend on.
    """

    model_config = ConfigDict(extra="ignore")

    command: str | None = None
    curve: Curve | None = None
    points: dict[str, Point] = Field(default_factory=dict)


def read_kept(folder: Path) -> Kept:
    """Return what ``curve.json`` of a run folder holds, that beside it for a private release; else nothing.

    Raises:
        DataError: the file is damaged.
    """
    path = figures_folder(folder) / FILE_NAME
    if not path.is_file():
        return Kept()
    try:
        return Kept.model_validate(read_json_object(path))
    except (OSError, ValueError, ValidationError):
        raise DataError(f"'{path}' is damaged: delete it and run `ddkit curve` again") from None


def write_kept(
    folder: Path, points: Mapping[str, Point], curve: Curve | None = None, command: str | None = None
) -> None:
    """Add points to ``curve.json`` of a run folder, atomically, and the curve where it is complete.

    Raises:
        DataError: the file that is there is damaged; it is left as it is.
        LockedError: another process has been writing into the folder for a minute.
    """
    folder = figures_folder(folder)
    with locked(folder, patience=60.0):
        kept = read_kept(folder)
        shown = curve or kept.curve
        content = {
            "command": kept.command if curve is None else command,
            "curve": shown.as_dict() if shown is not None else None,
            "points": {key: point.model_dump(mode="json") for key, point in {**kept.points, **points}.items()},
        }
        for leftover in folder.glob(temporary_pattern(folder / FILE_NAME)):  # of a killed process
            leftover.unlink(missing_ok=True)
        write_text(folder / FILE_NAME, json.dumps(content, indent=2) + "\n")
