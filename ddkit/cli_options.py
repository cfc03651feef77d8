"""Options and answers that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]
DataRoot = Annotated[str | None, typer.Option(help="Where named data lie (default: $DDKIT_DATA).")]
Seed = Annotated[int, typer.Option(min=0, help="The only seed.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
RunPath = Annotated[Path, typer.Argument(help="A run folder or a .safetensors file.")]


def silent_text(text: str) -> None:
    """Say nothing: with --json there is one document and no more."""


def typed_command() -> str:
    """Return what the user typed."""
    context = click.get_current_context(silent=True)
    typed = context.find_root().obj if context is not None else None
    return shlex.join(["ddkit", *(sys.argv[1:] if typed is None else typed)])
