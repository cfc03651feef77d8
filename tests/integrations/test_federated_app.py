"""Is what ``write_app`` writes an app that Flower runs, without installing or writing elsewhere?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.integrations.federated import (
    InProcessGrid,
    quiet_environment,
    write_app,
)
from ddkit.integrations.federated.app import PACKAGE, SETTINGS
from ddkit.integrations.federated.flower import Context, RecordDict, task_identity
from tests.integrations.federated_small import MODEL


def test_an_app_holds_what_flower_needs(tmp_path: Path) -> None:
    folder = write_app(tmp_path / "app", {"ipc": 3, "data": "mnist"})
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["components"]["serverapp"] == f"{PACKAGE}.server_app:app"
    assert project["tool"]["flwr"]["app"]["config"] == {**SETTINGS, "ipc": 3, "data": "mnist"}
    assert {path.name for path in (folder / PACKAGE).iterdir()} == {
        "__init__.py",
        "client_app.py",
        "server_app.py",
        "shared.py",
    }


def test_an_app_does_not_overwrite_and_knows_its_settings(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ConfigError, match="nothing was overwritten"):
        write_app(tmp_path)
    with pytest.raises(UnknownNameError, match="did you mean 'ipc'"):
        write_app(tmp_path / "app", {"ipcs": 3})
    with pytest.raises(ConfigError, match="number or a text"):
        write_app(tmp_path / "app", {"ipc": [3]})
    assert not (tmp_path / "app").exists()


def test_the_app_runs_in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ``flwr run`` starts, without its processes."""
    settings = {"steps": 2, "epochs": 1, "ipc": 1, "model": MODEL, "out": str(tmp_path / "out")}
    monkeypatch.syspath_prepend(str(write_app(tmp_path / "app", settings)))
    client_app, server_app = (import_module(f"{PACKAGE}.{name}").app for name in ("client_app", "server_app"))
    config = {**SETTINGS, **settings}
    with task_identity(1):
        grid = InProcessGrid(client_app, 3)
        for node in grid.get_node_ids():
            grid.context(node).run_config.update(config)
        server_app(grid, Context(1, 0, {}, RecordDict(), config))
    outcome = json.loads((tmp_path / "out" / "outcome.json").read_text())
    assert outcome["clients"][0]["clients-accepted"] == 3 and 0 < outcome["accuracy"]["1"] <= 1


@pytest.mark.slow
def test_flwr_run_runs_the_app_without_installing_or_writing_elsewhere(tmp_path: Path) -> None:
    flwr = Path(sys.executable).parent / "flwr"
    if not flwr.exists():
        pytest.skip("no flwr command beside this Python")
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    app = write_app(tmp_path / "app", {"steps": 2, "epochs": 1, "ipc": 1, "model": MODEL, "out": str(out)})
    environment = {**quiet_environment(tmp_path / "flower"), "HOME": str(home)}
    (tmp_path / "flower").mkdir()
    federation = ["--federation-config", "num-supernodes=3 client-resources-num-cpus=1"]
    before = _superlinks()
    try:
        done = subprocess.run(
            [flwr, "run", app, "--stream", *federation], env=environment, capture_output=True, text=True, timeout=300
        )
    finally:
        for process in _superlinks() - before:  # the one that this run started in the background
            os.kill(process, signal.SIGTERM)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((out / "outcome.json").read_text())["clients"][0]["clients-accepted"] == 3
    assert list(home.iterdir()) == []


def _superlinks() -> set[int]:
    """Return the processes that run a SuperLink."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.endswith(b"flower-superlink") for word in words[:2]):
            found.add(int(path.parent.name))
    return found
