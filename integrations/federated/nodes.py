"""Which clients are connected, and how long does a server wait for enough of them?"""

from __future__ import annotations

import time

from ddkit.errors import RunError
from ddkit.integrations.federated.flower import Grid


def connected(grid: Grid, needed: int, wait: float) -> list[int]:
    """Wait for ``needed`` clients, at most ``wait`` seconds; return all that are connected, ascending.

    Raises:
        RunError: fewer are connected then.
    """
    deadline = time.monotonic() + wait
    while len(nodes := sorted(grid.get_node_ids())) < needed:
        if time.monotonic() >= deadline:
            raise RunError(
                f"{len(nodes)} clients are connected after {wait:g} seconds, min_clients={needed}: start more "
                f"SuperNodes, or lower min_clients"
            )
        time.sleep(min(1.0, max(0.0, deadline - time.monotonic())))
    return nodes
