"""The wheel holds every package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_package_is_listed_for_the_wheel() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    inside = [path for folder in ("ddkit", "integrations", "recipes") for path in (ROOT / folder).rglob("__init__.py")]
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in inside}
    assert {name if name.split(".")[0] == "ddkit" else f"ddkit.{name}" for name in names} == set(listed)


#: Imports the packages named after it, each in a fork of a process that knows PyTorch only; says which ones fail.
#: An adapter whose extra is not installed says so, and may.
FORKS = """
import importlib, os, sys, traceback
import torch
failed = []
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException as error:
            if type(error).__name__ != "MissingExtraError":
                traceback.print_exc()
                os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        failed.append(name)
print(*failed)
"""


def test_every_package_can_be_imported_first() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    done = subprocess.run([sys.executable, "-c", FORKS, *packages], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], done.stderr
