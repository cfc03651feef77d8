"""What do server and clients of this app agree on, and where does a client's data come from? Edit this file."""

from __future__ import annotations

import functools

from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.integrations.federated.flower import Context
from ddkit.integrations.federated.partition import dirichlet_partition
from ddkit.integrations.federated.task import Task


@functools.cache
def pair(name: str) -> tuple[RealData, RealData]:
    """Return training and test images of a named data set."""
    return load_pair(name)


def task(context: Context) -> Task:
    """Return the classification problem of the federation."""
    return Task.of(pair(str(context.run_config["data"]))[1])


def load(context: Context) -> RealData:
    """Return the images of one client: here a part of a named data set, in a deployment its own files.

    A client's own files are read by ``RealData.from_tensors(images, labels, class_names=..., allow_missing=True)``.
    """
    real, _ = pair(str(context.run_config["data"]))
    clients, mine = int(context.node_config["num-partitions"]), int(context.node_config["partition-id"])
    alpha = float(context.run_config["alpha"])
    return real.subset(dirichlet_partition(real, clients, alpha, seed=0)[mine])
