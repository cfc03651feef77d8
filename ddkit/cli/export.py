"""``ddkit export`` writes the distilled images for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddkit.cli.options import Json, RunPath, Verbose
from ddkit.cli.tables import print_json


def export(
    run: RunPath,
    format: Annotated[str, typer.Option(help="parquet, imagefolder, npz or sheet.")],
    out: Annotated[Path | None, typer.Option(help="Where to (default: beside the run).")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the distilled images in a format that other tools read, and say what was lost."""
    from ddkit.data.distilled.dataset import DistilledDataset

    distilled = DistilledDataset.load(run)
    base = run if run.is_dir() else run.parent
    name = "distilled.npz" if format == "npz" else format
    result = distilled.export(out or base / "export" / name, format)
    summary = {
        "path": str(result.path),
        "files": result.files,
        "lossy": result.lossy,
        "clipped_fraction": result.clipped_fraction,
        **({"privacy": result.privacy} if result.privacy else {}),
    }
    if as_json:
        return print_json(summary)
    typer.echo(f"{result.files} file{'s' * (result.files != 1)} in {result.path}")
    if result.lossy:
        typer.echo(f"lost: {result.lossy}")
    if result.privacy:
        typer.echo(f"privacy: {result.privacy} The statement goes with the images.")
