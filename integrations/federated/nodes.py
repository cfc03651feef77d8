"""Which clients are connected, how long does a server wait for enough of them, and of which one does a reply tell?"""

from __future__ import annotations

import time
from collections.abc import Iterable

from ddkit.errors import ConfigError, RunError
from ddkit.integrations.federated.flower import Grid, Message


def checked_wait(wait: float) -> float:
    """Return how many seconds to wait, which may be for ever.

    Raises:
        ConfigError: a negative number, or none.
    """
    if not wait >= 0:
        raise ConfigError(f"wait={wait} must be at least 0")
    return wait


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


def client_of(reply: Message, asked: Iterable[Message]) -> int:
    """Return the client that a reply tells of.

    An error that Flower reports of a client (its SuperNode is gone, its answer has expired) comes from the SuperLink's
    own node: the client is the one that was sent the message that the error answers.

    Args:
        reply: of a client, or of Flower in its place.
        asked: the messages that were sent, which get their names when they are.
    """
    metadata = reply.metadata
    if reply.has_error() and metadata.reply_to_message_id:
        for message in asked:
            if message.metadata.message_id == metadata.reply_to_message_id:
                return message.metadata.dst_node_id
    return metadata.src_node_id
