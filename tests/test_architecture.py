"""The rooms import downwards only, without a circle, also lazily and for type checkers; the map shows what is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("ddkit_imports", ROOT / "docs" / "imports.py")
assert spec is not None and spec.loader is not None
imports = importlib.util.module_from_spec(spec)
spec.loader.exec_module(imports)


def test_no_import_goes_up_or_around() -> None:
    arrows = imports.graph()
    assert len(arrows) > 300 and len(arrows["ddkit.engine.session"]) > 20
    assert not imports.problems(arrows), "\n".join(imports.problems(arrows))


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("from ddkit.engine.session import Session", ["ddkit.engine.session"]),
        ("def f():\n    import ddkit.engine.session", ["ddkit.engine.session"]),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ddkit.engine import session",
            ["ddkit.engine.session"],
        ),
        ("from importlib import import_module\nimport_module('ddkit.engine')", ["ddkit.engine"]),
        ("from .names import known_as", ["ddkit.data.names"]),
        ("from ddkit import __version__", ["ddkit"]),
        ("import torch", []),
    ],
)
def test_every_way_to_import_is_seen(code: str, seen: list[str], tmp_path: Path) -> None:
    path = tmp_path / "real.py"
    path.write_text(code, encoding="utf-8")
    assert [name for name, _ in imports.imported("ddkit.data.real", path, imports.modules())] == seen


def test_upward_imports_and_circles_name_both_files() -> None:
    arrows = {name: set[str]() for name in imports.modules()}
    arrows["ddkit.data.real"] = {"ddkit.engine.session"}
    arrows["ddkit.base.files"] = {"ddkit.errors"}
    assert imports.problems(arrows) == ["ddkit/data/real.py imports ddkit/engine/session.py, from data up to engine"]
    arrows["ddkit.data.real"], arrows["ddkit.data.raw"] = {"ddkit.data.raw"}, {"ddkit.data.real"}
    assert imports.problems(arrows) == ["circle: ddkit/data/raw.py -> ddkit/data/real.py -> ddkit/data/raw.py"]


def test_map_and_picture_show_every_room() -> None:
    folders = {path.name for path in (ROOT / "ddkit").iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(imports.ROOMS) and len(folders - {"integrations", "recipes"}) <= 14
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(imports.ROOMS)
    drawn = imports.picture(imports.between_rooms(imports.graph()))
    assert imports.PICTURE.read_text(encoding="utf-8") == drawn, "run python docs/imports.py"


def test_modules_are_found_by_ordinary_tools() -> None:
    """An import-graph tool or a type checker that knows the folder ``ddkit`` alone finds all modules in it."""
    below = {path.relative_to(ROOT) for folder in ("integrations", "recipes") for path in (ROOT / folder).rglob("*.py")}
    assert below and all((ROOT / "ddkit" / path).is_file() for path in below)


def test_engine_needs_no_statistics() -> None:
    code = "import sys, ddkit.engine; print({'ddkit.evaluation', 'scipy.stats'} & set(sys.modules) or 'none')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "none"
