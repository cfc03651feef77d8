"""Is a command line of absurd sizes refused before work starts, in one line that fits a terminal?"""

from __future__ import annotations

import errno
import io
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddkit.base.memory import require_memory
from ddkit.cli import main
from ddkit.cli.errors import LONGEST_MESSAGE, brief
from ddkit.errors import ConfigError
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


COUNT_PAGE_FAULTS = """
import resource, torch
from ddkit.base.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.zeros(2**24).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
with freed_memory_kept():
    with freed_memory_kept():
        faults()
    print(faults())
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory in its own way")
def test_freed_memory_is_used_again_until_the_last_block_ends() -> None:
    run = subprocess.run([sys.executable, "-c", COUNT_PAGE_FAULTS], capture_output=True, text=True, check=True)
    before, kept, after = map(int, run.stdout.split())
    assert kept < before / 10 and after > before / 2


def test_large_but_possible_networks_are_built() -> None:
    module = ModelSpec.parse("mlp:width=5000").build((1, 8, 8), 10, seed=0)
    assert isinstance(module, torch.nn.Module)


class _Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


def test_full_standard_output_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", _Full())
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert said == "error: cannot write to standard output: No space left on device; free space or write elsewhere\n"


def test_closed_standard_output_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
