"""The wheel holds every package."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from ddkit import synthesis

ROOT = Path(__file__).parent.parent


def packages() -> set[str]:
    """Return every package of the tree by the name under which it is installed."""
    inside = [path for folder in ("ddkit", "integrations", "recipes") for path in (ROOT / folder).rglob("__init__.py")]
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in inside}
    return {name if name.split(".")[0] == "ddkit" else f"ddkit.{name}" for name in names}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_found_for_the_wheel() -> None:
    setuptools = pytest.importorskip("setuptools")
    assert packages() == set(setuptools.find_packages(str(ROOT), **project()["tool"]["setuptools"]["packages"]["find"]))


def test_every_synthesis_is_listed_among_the_entry_points() -> None:
    own = [synthesis.registry.get(name) for name in synthesis.registry]
    places = {piece.name: f"{piece.__module__}:{piece.__qualname__}" for piece in own}
    listed = project()["project"]["entry-points"]["ddkit.synthesis"]
    assert listed == {name: place for name, place in places.items() if place.startswith("ddkit.")}


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
    done = subprocess.run(
        [sys.executable, "-c", FORKS, *sorted(packages())], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [], done.stderr
