"""Is a command line of absurd sizes refused before work starts, in one line that fits a terminal?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddkit.cli import main
from ddkit.cli_errors import LONGEST_MESSAGE, brief
from ddkit.errors import ConfigError
from ddkit.memory import require_memory
from ddkit.models import ModelSpec

DM = ("distill", "--method", "dm", "--data", "digits", "--steps", "1")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--ipc", "1" + "0" * 30), "ipc"),
        (("--ipc", "100000000"), "ipc=100000000 would take"),
        (("--set", "model=convnet:width=100000000"), "choose smaller options"),
        (("--set", "model=convnet:width=1" + "0" * 30), "choose smaller options"),
        (("--set", "model=mlp:width=100000000"), "choose smaller options"),
        (("--set", "model=" + "[" * 3000), "is no setting"),
        (("--set", "model=2001-99-99"), "timestamp"),
        (("--set", "x" * 5000), "is not an assignment"),
        (("--set", "x" * 5000 + "=1"), "unknown option"),
        (("--data", "./" + "x" * 5000), "xxx"),
        (("--data-root", "y" * 300, "--data", "MNIST"), "yyy"),
    ],
)
def test_absurd_sizes_are_refused(
    arguments: tuple[str, ...], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.raises(SystemExit) as stop:
        main([*DM, *arguments, "--out", str(out)])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1 and len(said) < 700
    assert word in said and "run again with -v" not in said
    assert not out.exists()


@pytest.mark.parametrize("command", [[*DM, "--out"], ["show"], ["compare"], ["evaluate"], ["recipe", "run"]])
def test_names_too_long_for_a_file_are_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "x" * 300])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and len(said.splitlines()) == 1 and "run again with -v" not in said


def test_long_messages_lose_their_middle_and_keep_their_ends() -> None:
    text = brief("error: '" + "x" * 5000 + "' is unknown:\n choose another")
    assert text.startswith("error: 'xxx") and text.endswith("is unknown: choose another") and len(text) < 300
    assert len(brief("word " * 900)) <= LONGEST_MESSAGE and brief("as it is") == "as it is"


def test_memory_is_that_of_the_machine() -> None:
    require_memory("a little", 10, "-")
    with pytest.raises(ConfigError, match=r"^much would take [\d,]+ GB, this machine has \d+ GB of memory: take less$"):
        require_memory("much", 10**12, "take less")


def test_large_but_possible_networks_are_built() -> None:
    module = ModelSpec.parse("mlp:width=5000,depth=1").build((1, 8, 8), 10, seed=0)
    assert isinstance(module, torch.nn.Module)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_may_be_full_or_closed() -> None:
    command = [sys.executable, "-m", "ddkit.cli", "methods", "--json"]
    with open("/dev/full", "wb") as full:
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False, env={**os.environ})
    assert told.returncode == 1
    assert told.stderr.decode().splitlines() == [
        "error: cannot write to standard output: No space left on device; free space or write elsewhere"
    ]
    closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE, check=False)
    assert (closed.returncode, closed.stderr) == (0, b"")
