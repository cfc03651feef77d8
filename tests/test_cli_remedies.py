"""Does what an error or warning advises exist on the command line that may print it?"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import ddkit
from ddkit import models
from ddkit.base.config import DistillConfig, OptimiserSettings
from ddkit.cli import main
from ddkit.cli.commands import app
from ddkit.training import TrainingRecipe

ROOT = Path(ddkit.__file__).parent
COMMANDS = typer.main.get_command(app)
#: Messages of functions that no command calls with the argument they name, by file and function.
PYTHON_ONLY = {
    ("engine/distiller.py", "__init__"),
    ("training/train.py", "train_networks"),
    ("training/train.py", "_plan"),
    ("training/experts/build.py", "build_buffer"),
    ("base/executor.py", "__init__"),
    ("evaluation/report/images.py", "image_grid"),
    ("synthesis/base.py", "__init__"),
}


def options(command: object) -> set[str]:
    """Return every ``--option`` of a command and of those below it."""
    found = {name for item in getattr(command, "params", ()) for name in item.opts if name.startswith("--")}
    for below in getattr(command, "commands", {}).values():
        found |= options(below)
    return found


def messages() -> Iterator[tuple[str, str, int, str]]:
    """Return file, function, line and text of every error and warning of the core."""
    for path in sorted(ROOT.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    call = node.exc
                elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "warn":
                    call = node
                else:
                    continue
                parts = (item.value for item in ast.walk(call) if isinstance(item, ast.Constant))
                text = " ".join(part for part in parts if isinstance(part, str))
                yield path.relative_to(ROOT).as_posix(), function.name, node.lineno, text


def model_options() -> set[str]:
    """Return the options of ddkit's own networks, which stand in the text of a model."""
    return {"init"} | {
        name for model in models.available() for name in inspect.signature(models.registry.get(model)).parameters
    }


def test_options_that_messages_name_exist() -> None:
    known = options(COMMANDS) | {"--upgrade"}  # of pip
    unknown = [
        f"{file}:{line} {option}"
        for file, _, line, text in messages()
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)
        if option not in known
    ]
    assert not unknown


def test_settings_that_messages_name_are_settings_of_a_run() -> None:
    """``word=`` has to be what ``--set`` takes: a setting of the run, of its optimiser's groups, recipe or model."""
    known = {*DistillConfig.model_fields, *model_options(), "key", "option"}
    pieces = {"objective", "synthesis", "networks", "signal", "constraint", "selection", "recipe", "optimiser"}
    dotted = {*OptimiserSettings.model_fields, *TrainingRecipe.model_fields}
    assert dotted  # their names are written after a dot
    wrong = []
    for file, function, line, text in messages():
        if (file, function) in PYTHON_ONLY:
            continue
        for prefix, name in re.findall(r"(?<![\w.])(?:([a-z_]+)\.)?([a-z_.]+)=", text):
            if (prefix and prefix not in pieces) or (not prefix and name not in known):
                wrong.append(f"{file}:{line} in {function}: {prefix and prefix + '.'}{name}=")
    assert not wrong, "\n".join(wrong)


RANDOM = ("distill", "--method", "random", "--data", "digits", "--ipc", "1")
#: Wrong command lines; {run} is the folder of a finished run.
MISTAKES = [
    ("distill", "--method", "random", "--data", "digits", "--ipc", "100000", "--out", "{new}"),
    ("distill", "--method", "dm", "--data", "digits", "--out", "{run}"),
    ("distill", "--method", "dm", "--data", "digits", "--eval-every", "5", "--out", "{new}"),
    ("distill", "--method", "dm", "--data", "nowhere/at/all", "--out", "{new}"),
    ("distill", "--resume", "--data", "mnist", "--out", "{run}"),
    ("evaluate", "{new}"),
    ("evaluate", "{run}", "--repeats", "0"),
    ("evaluate", "{run}", "--data", ""),
    ("evaluate", "{run}", "--set", "epochs=0"),
    ("curve", "{run}"),
    ("curve", "{run}", "--codec", "uniform:bits=4", "--baseline", "random"),
    ("curve", "{run}", "--codec", "uniform:bits=4", "--out", "{run}/config.json"),
    ("experts", "--data", "digits", "--count", "3000000000", "--out", "{new}"),
    ("export", "{run}", "--format", "pngs"),
    ("export", "{run}", "--format", "npz", "--out", "{run}/config.json"),
    ("compare", "{new}"),
    ("show", "{new}"),
    ("recipe", "run", "quickstart", "--set", "ipc=1", "--out", "{new}"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    main([*RANDOM, "--out", str(out)])
    return out


@pytest.mark.parametrize("typed", MISTAKES, ids=" ".join)
def test_a_refusal_names_options_of_the_command_at_hand_only(
    typed: tuple[str, ...], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options of another command count where the message quotes that command."""
    with pytest.raises(SystemExit) as stop:
        main([word.format(run=run, new=tmp_path / "new") for word in typed])
    said = capsys.readouterr().err
    command = COMMANDS.commands[typed[0]]  # type: ignore[attr-defined]
    if typed[0] == "recipe":
        command = command.commands[typed[1]]
    assert stop.value.code == 2 and len(said.splitlines()) == 1, said
    quoted = " ".join(re.findall(r"`[^`]*`", said))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", said.replace(quoted, " ") if quoted else said))
    assert named <= options(command), said


@pytest.mark.parametrize("command", sorted(COMMANDS.commands))  # type: ignore[attr-defined]
def test_every_command_describes_its_options(command: str) -> None:
    for item in COMMANDS.commands[command].params:  # type: ignore[attr-defined]
        assert getattr(item, "help", None) or item.param_type_name == "argument" or "--help" in item.opts, item.opts
