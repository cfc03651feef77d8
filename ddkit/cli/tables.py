"""How do the results of a command look on a terminal: tables for people, one JSON document for machines?"""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

#: Width of tables that go to a file or a pipe.
WIDTH = 200


def say(text: str) -> None:
    """Print a line on standard error."""
    typer.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, default=str))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows with equal keys as an aligned table; None becomes a dash."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return typer.echo("nothing to show")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in rows[0]:
        table.add_column(Text(key), overflow="fold")
    for row in rows:  # as Text: rich would read the brackets of ddkit[ray] as a style
        table.add_row(*(Text("-" if value is None else _encodable(str(value))) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(table)


def _encodable(text: str) -> str:
    """Return ``text`` as standard output can encode it: in ASCII a plus-minus sign becomes ``+-``."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("±", "+-").encode(encoding, "backslashreplace").decode(encoding)
    return text
