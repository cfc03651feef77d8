"""Federated learning on Flower with distilled sets as messages: clients, strategies, simulation, an app."""

from ddkit.integrations.federated.app import write_app
from ddkit.integrations.federated.client import DistillClient, TrainClient
from ddkit.integrations.federated.dynafed import ServerDistill
from ddkit.integrations.federated.flower import quiet_environment
from ddkit.integrations.federated.npy import PayloadError
from ddkit.integrations.federated.partition import dirichlet_partition
from ddkit.integrations.federated.privacy import BudgetExceededError, PrivateRelease, private_release
from ddkit.integrations.federated.report import RoundReport
from ddkit.integrations.federated.simulation import InProcessGrid, Simulation, simulate
from ddkit.integrations.federated.strategy import FedDistill
from ddkit.integrations.federated.task import Task
from ddkit.integrations.federated.traffic import CountingGrid, Traffic
from ddkit.integrations.federated.weights import load_arrays, weights_to_arrays
from ddkit.integrations.federated.wire import ClientSet, Limits

__all__ = [
    "BudgetExceededError",
    "ClientSet",
    "CountingGrid",
    "DistillClient",
    "FedDistill",
    "InProcessGrid",
    "Limits",
    "PayloadError",
    "PrivateRelease",
    "RoundReport",
    "ServerDistill",
    "Simulation",
    "Task",
    "Traffic",
    "TrainClient",
    "dirichlet_partition",
    "load_arrays",
    "private_release",
    "quiet_environment",
    "simulate",
    "weights_to_arrays",
    "write_app",
]
