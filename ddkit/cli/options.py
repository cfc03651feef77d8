"""Options and answers that several commands share."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import click
import typer

from ddkit.errors import ConfigError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]
Data = Annotated[
    str | None,
    typer.Option(help="digits, a torchvision name, a folder, a Parquet file or folder, or .npz. (default: digits)"),
]
DataRoot = Annotated[str | None, typer.Option(help="Where named data lie (default: $DDKIT_DATA).")]
Seed = Annotated[int, typer.Option(min=0, help="The only seed.")]
GivenSeed = Annotated[int | None, typer.Option(min=0, help="The only seed (default: 0).")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
RunPath = Annotated[Path, typer.Argument(help="A run folder or a .safetensors file.")]
RunPaths = Annotated[list[Path], typer.Argument(help="Run folders.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Executor = Annotated[str, typer.Option(help="local or ray.")]


def silent_text(text: str) -> None:
    """Say nothing: with --json there is one document and no more."""


def refuse_empty_words(arguments: list[str]) -> None:
    """Refuse an empty word: a shell variable that is not set must not stand for a default.

    Raises:
        ConfigError: naming the option before it, or the word in which nothing follows the ``=``.
    """
    before = ""
    for word in arguments:
        option, is_assigned, value = word.partition("=")
        if not word or (is_assigned and not value and option.startswith("--")):
            named = option or (before if before.startswith("-") else "an argument")
            raise ConfigError(f"{named} is empty (''): give it a value, or leave it out; is a shell variable not set?")
        if before == "--set" and is_assigned and not value.strip():
            raise ConfigError(f"--set {word} has no value: write {word}VALUE, or leave it out")
        if word.isspace():
            raise ConfigError(f"{before or 'an argument'} is blank ('{word}'): give it a value, or leave it out")
        before = word


def typed_command() -> str:
    """Return what the user typed."""
    context = click.get_current_context(silent=True)
    typed = context.find_root().obj if context is not None else None
    return shlex.join(["ddkit", *(sys.argv[1:] if typed is None else typed)])


def speed(precision: str, compile: bool | None) -> dict[str, Any]:
    """Return how training runs, as options of the SDK."""
    from ddkit.base.precision import PrecisionName

    if precision not in get_args(PrecisionName):
        raise ConfigError(f"--precision {precision}: choose {', '.join(get_args(PrecisionName))}")
    return {"precision": precision, "compile": "auto" if compile is None else compile}
