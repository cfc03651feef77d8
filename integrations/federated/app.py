"""How does a federation run outside of a simulation: which folder does ``flwr run`` take?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddkit.base.files import write_text
from ddkit.errors import ConfigError, unknown_name

#: The app's settings, read through ``context.run_config`` and overridden by ``flwr run --run-config``.
SETTINGS: dict[str, Any] = {
    "data": "digits",
    "alpha": 0.5,
    "method": "dm",
    "ipc": 5,
    "steps": 100,
    "model": "convnet:width=32",
    "epochs": 200,
    "rounds": 1,
    "min-clients": 2,
    "out": "runs/federated",
}
#: Name of the app's Python package.
PACKAGE = "distilled_app"

_PROJECT = """\
# Run it: flwr run . --stream --federation-config "num-supernodes=10 client-resources-num-cpus=1"
# See ddkit.integrations.federated.quiet_environment for an environment without telemetry and installation.
# On several machines: flower-superlink on the server, flower-supernode on each client, then flwr run . NAME, where
# config.toml in Flower's home says of NAME which address the server has (port 8000). See docs/deployment.md of ddkit.
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "distilled-app"
version = "1.0.0"
description = "Federated learning with distilled sets as messages."
license = "Apache-2.0"
dependencies = ["ddkit[federated]"]

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "ddkit"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
{settings}
"""


def write_app(folder: Path | str, settings: Mapping[str, Any] | None = None) -> Path:
    """Write an app for ``flwr run`` and for deployment, to be edited: pyproject.toml and a package of three files.

    A relative folder ``out`` lies below the one in which ``flwr run``'s SuperLink was started, on its machine.

    Args:
        folder: new or empty.
        settings: values of ``SETTINGS`` that differ.

    Returns:
        the folder.

    Raises:
        UnknownNameError: no such setting.
        ConfigError: a value that TOML cannot hold here, or a folder that is not empty.
    """
    folder, settings = Path(folder), settings or {}
    for key, value in settings.items():
        if key not in SETTINGS:
            raise unknown_name("setting of the app", key, SETTINGS)
        if not isinstance(value, str | int | float):
            raise ConfigError(f"setting {key}={value!r} must be a number or a text")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"'{folder}' is not empty: choose another folder, nothing was overwritten")
    lines = [f"{key} = {json.dumps(value)}" for key, value in {**SETTINGS, **settings}.items()]
    write_text(folder / "pyproject.toml", _PROJECT.format(package=PACKAGE, settings="\n".join(lines)))
    source = files("ddkit.integrations.federated") / "example"
    for name in ("__init__.py", "shared.py", "client_app.py", "server_app.py"):
        write_text(folder / PACKAGE / name, (source / name).read_text(encoding="utf-8"))
    return folder
