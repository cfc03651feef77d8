"""Settings of the whole suite: one thread per worker, no download, caches of its own."""

from __future__ import annotations

import os

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:
    # Two workers with two threads each on two cores wait for each other most of the time.
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

if "OMP_NUM_THREADS" in os.environ:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked ``slow`` out unless they are asked for with ``-m slow``; those that fork come first.

    A process in which autograd has run in several threads cannot be forked to compute gradients.
    """
    items.sort(key=lambda item: "forks" not in item.keywords)
    if config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="longer than a minute: run with -m slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)
