"""How do the results of a command look on a terminal: tables for people, one JSON document for machines?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.evaluation.results import EvaluationResult

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


def headline(distilled: DistilledDataset) -> dict[str, Any]:
    """Return what identifies a distilled set."""
    keep = ("method", "seed", "steps", "source", "selection")
    return {key: distilled.metadata[key] for key in keep if key in distilled.metadata}


def accuracy_rows(label: str, result: EvaluationResult, distilled: DistilledDataset) -> list[dict[str, Any]]:
    """Return one row per architecture, with the published figure where there is one."""
    from ddkit.evaluation.published import published

    config = distilled.metadata.get("config") or {}
    rows = []
    for row in result.rows:
        figure = published(label, result.data, config.get("ipc"), row.architecture)
        interval = row.interval95
        rows.append(
            {
                "set": label,
                "recipe": result.recipe.name,
                "architecture": row.architecture,
                "images": result.train_images,
                "accuracy %": f"{100 * row.mean:.1f} ± {100 * row.std:.1f}",
                "95% interval": f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "-",
                "networks": len(row.accuracies),
                "published %": f"{figure.accuracy:.1f}" if figure else "-",
                "seconds": f"{row.seconds:.1f}",
            }
        )
    return rows


def comparison_row(row: dict[str, Any], *, private: bool = False) -> dict[str, Any]:
    """Return a row of :func:`ddkit.evaluation.report.comparison_table` in the columns of a terminal.

    Args:
        row: of the table.
        private: whether any row of the table is of a private set, so that all have the column.
    """

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    measured = "not evaluated" if row["mean"] is None else f"{percent(row['mean'])} ± {percent(row['std'])}"
    return {
        "run": Path(row["run"]).name,
        "set": row["label"],
        "data": row["data"],
        "ipc": row["ipc"],
        "bytes": row["bytes"],
        "architecture": row["architecture"] or "-",
        "accuracy %": measured,
        "networks": row["repeats"],
        "published %": percent(row["published"]),
        **({"privacy": row["privacy"] or "none"} if private else {}),
    }
