"""The commands of ``ddkit recipe``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ddkit.cli.options import Json, Settings, Verbose, silent_text, typed_command
from ddkit.cli.tables import print_json, print_table, say

recipe_app = typer.Typer(help="End-to-end jobs: list, show, copy and run them.", no_args_is_help=True)


@recipe_app.command("list")
def recipe_list(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the recipes with the time they take."""
    from ddkit import recipes

    rows = [
        {"recipe": r.name, "what": r.title, "expected": r.expected}
        for r in (recipes.load(name) for name in recipes.available())
    ]
    print_json(rows) if as_json else print_table(rows)


@recipe_app.command("show")
def recipe_show(name: str, as_json: Json = False, verbose: Verbose = False) -> None:
    """Print the YAML file of a recipe."""
    from ddkit import recipes

    recipe = recipes.load(name)
    print_json(recipe.settings) if as_json else typer.echo(recipe.path.read_text(encoding="utf-8"), nl=False)


@recipe_app.command("copy")
def recipe_copy(name: str, folder: Path, as_json: Json = False, verbose: Verbose = False) -> None:
    """Copy a recipe's YAML file and its code, to change and run them by path."""
    from ddkit import recipes

    path = recipes.copy(name, folder)
    code = path.with_suffix(".py")
    if as_json:
        return print_json({"path": str(path), "code": str(code)})
    typer.echo(f"edit {path} and {code.name} beside it, then: ddkit recipe run {path}")


@recipe_app.command("run")
def recipe_run(
    name: Annotated[str, typer.Argument(help="A name from `ddkit recipe list`, or a .yaml file.")],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder for runs and report (default: runs/NAME).")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe from end to end: runs, table and report.

    Given a .yaml file, this runs the Python file of the same name beside it, if there is one: look at what you run.
    """
    from ddkit import recipes
    from ddkit.base.config import parse_assignments

    recipe = recipes.load(name)
    target = out or Path("runs") / recipe.name
    progress = silent_text if as_json else say
    outcome = recipe.run(parse_assignments(settings or []), target, progress, typed_command(), resume)
    if as_json:
        return print_json({**outcome, "code": str(recipe.code)})
    print_table(outcome["table"])
    typer.echo(f"report: {outcome['report']}    {outcome['seconds']:.0f} seconds")
