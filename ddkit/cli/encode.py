"""``ddkit encode`` writes a distilled set in few bytes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ddkit.cli.options import Json, RunPath, Verbose
from ddkit.cli.tables import print_json


def encode(
    run: RunPath,
    codec: Annotated[str, typer.Option(help="NAME or NAME:option=value,... (float16, uniform, palette, dct).")],
    out: Annotated[Path | None, typer.Option(help="File to write (default: coded.safetensors beside the set).")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a distilled set in fewer bytes, through a codec: uniform:bits=3 keeps three bits a value.

    What is written decodes to slightly other images; `ddkit evaluate FILE` says what they are worth.
    """
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.errors import ConfigError

    distilled = DistilledDataset.load(run)
    target = out or (run if run.is_dir() else run.parent) / "coded.safetensors"
    if target.exists():
        raise ConfigError(f"'{target}' exists: choose another --out, nothing was overwritten")
    coded = distilled.coded(codec)
    path = coded.save(target)
    before, after = distilled.tensors()[0], coded.tensors()[0]
    summary = {
        "path": str(path),
        "codec": codec,
        "bytes": coded.budget.payload,
        "bytes_before": distilled.budget.payload,
        "file": path.stat().st_size,
        "rms": round(float((after - before).square().mean().sqrt()), 6),
    }
    if as_json:
        return print_json(summary)
    typer.echo(f"{summary['bytes']:,} bytes in place of {summary['bytes_before']:,}, {summary['file']:,} with the card")
    typer.echo(
        f"values differ by {summary['rms']:.3g} (root mean square); next: ddkit evaluate {shlex.quote(str(path))}"
    )
