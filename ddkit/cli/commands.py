"""The commands, one file each."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ddkit.cli.audit import audit
from ddkit.cli.compare import compare
from ddkit.cli.curve import curve
from ddkit.cli.distill import distill
from ddkit.cli.doctor import doctor
from ddkit.cli.encode import encode
from ddkit.cli.evaluate import evaluate
from ddkit.cli.experts import experts
from ddkit.cli.export import export
from ddkit.cli.methods import methods
from ddkit.cli.options import refuse_empty_words
from ddkit.cli.recipes import recipe_app
from ddkit.cli.show import show

app = typer.Typer(
    name="ddkit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (methods, distill, evaluate, show, export, encode, compare, curve, experts, doctor, audit):
    app.command()(command)
app.add_typer(recipe_app, name="recipe")


@app.callback(invoke_without_command=True)
def version(
    wanted: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Learn a tiny synthetic dataset that trains models almost as well as the full one."""
    if wanted:
        from ddkit.base.version import __version__

        typer.echo(f"ddkit {__version__}")
        raise typer.Exit


def invoke(arguments: list[str]) -> None:
    """Run a command without click's own handling of errors, whose boxes take several lines."""
    command = typer.main.get_command(app)
    shown = [*arguments, "--help"] if arguments in ([], ["recipe"]) else arguments
    with command.make_context("ddkit", list(shown), obj=arguments) as context:
        refuse_empty_words(arguments)
        command.invoke(context)
    sys.stdout.flush()
