"""How does a recipe tell what it did: a page of sections with text, tables and figures, in one HTML file."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ddkit.base.files import write_text
from ddkit.base.version import __version__
from ddkit.errors import CheckpointError, ConfigError
from ddkit.evaluation.report.html import read_resource, style_sheet
from ddkit.evaluation.report.images import data_uri

_MEDIA_TYPES = {".png": "image/png", ".svg": "image/svg+xml", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Args:
        heading: its title.
        text: paragraphs, separated by empty lines; plain text.
        table: rows with the same keys, which become the head; None is shown as a dash, numbers as they are.
        figure: a PNG, SVG or JPEG file, embedded.
        caption: of the figure, and what it shows for those who cannot see it.
        picture: a figure that is HTML already, and follows the reader's preferences.
    """

    heading: str
    text: str = ""
    table: Sequence[Mapping[str, Any]] | None = None
    figure: Path | None = None
    caption: str = ""
    picture: Markup | None = None


def write_document(path: Path | str, title: str, sections: Sequence[Section], command: str) -> Path:
    """Write a self-contained page without scripts: figures are embedded, nothing is requested.

    Args:
        path: file to write, atomically.
        title: of the page.
        sections: its parts, at least one.
        command: what reproduces it.

    Raises:
        ConfigError: no sections, a table whose rows differ in their keys, or a figure of an unknown kind.
        CheckpointError: a figure cannot be read or the page cannot be written.
    """
    if not sections:
        raise ConfigError("a page needs at least one section")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    page = environment.from_string(read_resource("document.html.j2")).render(
        title=title,
        style=style_sheet(),
        sections=[_content(section) for section in sections],
        command=command,
        footer=f"ddkit {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    )
    return write_text(Path(path), page)


def _content(section: Section) -> dict[str, Any]:
    return {
        "heading": section.heading,
        "paragraphs": [part.strip() for part in section.text.split("\n\n") if part.strip()],
        "table": _table(section) if section.table else None,
        "figure": _embedded(section.figure) if section.figure is not None else None,
        "picture": section.picture,
        "caption": section.caption,
    }


def _table(section: Section) -> dict[str, Any]:
    """Return columns and cells; a column whose every value is text is aligned as text."""
    assert section.table is not None
    names = list(section.table[0])
    for row in section.table:
        if list(row) != names:
            raise ConfigError(f"rows of the table '{section.heading}' differ: {list(row)} beside {names}")
    columns = [{"name": name, "text": all(_is_words(row[name]) for row in section.table)} for name in names]
    return {"columns": columns, "rows": [[_shown(row[name]) for name in names] for row in section.table]}


def _is_words(value: Any) -> bool:
    return isinstance(value, str) and not value.lstrip("+-−").replace("%", "")[:1].isdigit()


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _embedded(path: Path) -> str:
    kind = _MEDIA_TYPES.get(path.suffix.lower())
    if kind is None:
        raise ConfigError(f"figure '{path}' is not one of {', '.join(sorted(_MEDIA_TYPES))}")
    try:
        return data_uri(path.read_bytes(), kind)
    except OSError as error:
        raise CheckpointError(f"cannot read the figure '{path}': {error.strerror}") from None
