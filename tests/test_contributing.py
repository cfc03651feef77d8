"""The pieces that CONTRIBUTING shows work as they stand there, under the contract suite."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ddkit import DistilledDataset
from ddkit.errors import ArtifactError

ROOT = Path(__file__).parent.parent

OBJECTIVE = """
from ddkit.testing import check_pair

check_pair("mean-distance", "pixels")
"""

SYNTHESIS = """
import sys

from ddkit.testing import check_pair, toy_data
from ddkit import Distiller

check_pair("distribution", "low-rank")
options = {"steps": 2, "model": "convnet:width=4", "synthesis": {"name": "low-rank", "rank": 3}}
Distiller("dm", 2, **options).fit(toy_data()).save(sys.argv[1])
"""


def example(name: str) -> str:
    """Return the code block that starts with the comment ``# my_package/name``."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if block.startswith(f"# my_package/{name}")]
    return str(found)


def run(folder: Path, code: str, *arguments: str) -> None:
    (folder / "main.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "main.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def test_objective_of_25_lines_keeps_the_contract(tmp_path: Path) -> None:
    code = example("mean_distance.py")
    assert len(code.splitlines()) <= 25
    run(tmp_path, code + OBJECTIVE)


def test_synthesis_of_20_lines_keeps_the_contract_and_its_sets_name_their_package(tmp_path: Path) -> None:
    code = example("low_rank.py")
    body = code[code.index("@registry") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 20
    (tmp_path / "my_package.py").write_text(code, encoding="utf-8")
    run(tmp_path, "import my_package\n" + SYNTHESIS, str(tmp_path / "low-rank.safetensors"))
    with pytest.raises(ArtifactError, match="install the package 'my_package', which registers it") as refused:
        DistilledDataset.load(tmp_path / "low-rank.safetensors")
    assert "damaged" not in str(refused.value)
