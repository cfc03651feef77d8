"""``ddkit compare`` sets runs beside each other and beside the published figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ddkit.cli.options import Json, RunPaths, Verbose
from ddkit.cli.tables import print_json, print_table


def compare(
    runs: RunPaths,
    baselines: Annotated[bool, typer.Option("--baselines", help="Also the baselines evaluated with them.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs with each other and with the published figures."""
    from ddkit.evaluation.report.compare import comparison_table

    rows = comparison_table(runs, baselines=baselines)
    if as_json:
        return print_json(rows)
    private = any(row["epsilon"] is not None for row in rows)
    print_table([_columns(row, private) for row in rows])


def _columns(row: dict[str, Any], private: bool) -> dict[str, Any]:
    """Return a row in the columns of a terminal; with one for privacy where any of the sets is private."""

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
