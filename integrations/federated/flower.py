"""Which parts of Flower does the adapter use? The only file that imports it, after switching reporting home off."""

from __future__ import annotations

import logging
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddkit.errors import MissingExtraError

#: Switches that are read when Flower or Ray are imported or started; a user who sets one keeps it.
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

for _name, _value in QUIET.items():
    os.environ.setdefault(_name, _value)

try:
    from flwr.app import (
        Array,
        ArrayRecord,
        ConfigRecord,
        Context,
        Error,
        Message,
        MessageType,
        MetricRecord,
        RecordDict,
    )
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg, FedProx, Result, Strategy
    from flwr.supercore.run import Run
    from flwr.supercore.task_identity import TaskIdentity
except ImportError as _missing:
    raise MissingExtraError("federated learning on Flower", "federated") from _missing

__all__ = [
    "Array",
    "ArrayRecord",
    "ClientApp",
    "ConfigRecord",
    "Context",
    "Error",
    "FedAvg",
    "FedProx",
    "Grid",
    "Message",
    "MessageType",
    "MetricRecord",
    "RecordDict",
    "Result",
    "Run",
    "ServerApp",
    "Strategy",
    "flower_log",
    "quiet_environment",
    "run_on_ray",
    "task_identity",
]

#: Code of an error that a client's own code raised (Flower's ErrorCode.CLIENT_APP_RAISED_EXCEPTION).
CLIENT_RAISED = 2


def quiet_environment(home: Path | str) -> dict[str, str]:
    """Return the environment in which ``flwr`` commands send nothing and write into ``home`` only.

    The app runs in the Python environment that is active: nothing is installed.

    Args:
        home: folder for Flower's identifier, configuration, database and logs.
    """
    own = {"FLWR_HOME": str(Path(home).resolve()), "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1"}
    return {**os.environ, **{name: os.environ.get(name, value) for name, value in QUIET.items()}, **own}


@contextmanager
def task_identity(run_id: int) -> Iterator[None]:
    """Let messages be made outside a run of Flower's, then put back what was there.

    Flower's strategies draw nodes from Python's global random state, which is put back as well.
    """
    names = ("_task_id", "_run_id", "_node_id")
    before, state = {name: getattr(TaskIdentity, name) for name in names}, random.getstate()
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run_id, 0
    random.seed(run_id)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)
        random.setstate(state)


@contextmanager
def flower_log(verbose: bool) -> Iterator[None]:
    """Let Flower log its progress or warnings only, then put its level back."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(before if verbose else logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def run_on_ray(server: ServerApp, client: ClientApp, clients: int, cpus: int, folder: Path) -> None:
    """Run both apps in Flower's simulation engine, whose clients are Ray actors of one CPU each.

    Args:
        server: runs in a thread of this process.
        client: sent to the actors by cloudpickle, a local transport between processes of one user.
        clients: number of virtual SuperNodes.
        cpus: CPUs of the local Ray.
        folder: Flower's home.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
        from flwr.simulation import run_simulation
    except ImportError as missing:
        raise MissingExtraError("Flower's simulation engine", "federated") from missing
    home = os.environ.get("FLWR_HOME")
    os.environ["FLWR_HOME"] = str(folder)
    init: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False, "log_to_driver": False}
    backend: dict[str, Any] = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": init}
    try:
        run_simulation(server, client, clients, backend_config=backend)
    finally:
        if home is None:
            del os.environ["FLWR_HOME"]
        else:
            os.environ["FLWR_HOME"] = home
        if "ray" in sys.modules and ray.is_initialized():
            ray.shutdown()
