"""``ddkit show`` writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddkit.cli.options import Json, RunPaths, Verbose
from ddkit.cli.tables import print_json
from ddkit.errors import ConfigError


def show(
    runs: RunPaths,
    out: Annotated[Path | None, typer.Option(help="HTML file (default: report.html in the run).")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write one self-contained HTML report: images, curves, accuracies, cost, exact command."""
    from ddkit.evaluation.report.html import write_report

    if out is not None and out.is_file() and out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"'{out}' exists and is no HTML file: choose another --out, nothing was overwritten")
    path = write_report(runs, out)
    print_json({"report": str(path)}) if as_json else typer.echo(f"report: {path}")
