"""How many bytes go over the wire, per round and client, in both directions?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ddkit.integrations.federated.flower import Grid, Message, RecordDict, Run


def content_bytes(content: RecordDict) -> int:
    """Return the bytes of a message's records as Flower counts them, before compression and without envelopes."""
    return sum(record.count_bytes() for record in content.values())


@dataclass
class Traffic:
    """Bytes by round and client.

    Flower's own framing (protobuf, object headers) is not included; nothing is compressed.

    Args:
        down: bytes from the server to each client, by (round, node).
        up: bytes from each client to the server, by (round, node); nothing for a reply that is an error.
    """

    down: dict[tuple[int, int], int] = field(default_factory=dict)
    up: dict[tuple[int, int], int] = field(default_factory=dict)

    def uploaded(self, rounds: int | None = None) -> int:
        """Return the bytes that all clients sent up to the end of round ``rounds``; None for all."""
        return sum(size for (number, _), size in self.up.items() if rounds is None or number <= rounds)

    def downloaded(self, rounds: int | None = None) -> int:
        """Return the bytes that all clients received up to the end of round ``rounds``; None for all."""
        return sum(size for (number, _), size in self.down.items() if rounds is None or number <= rounds)

    def table(self) -> list[dict[str, Any]]:
        """Return one row per round: clients that answered, bytes up and down, the largest upload of one client."""
        rows = []
        for number in sorted({number for number, _ in [*self.down, *self.up]}):
            up = [size for (r, _), size in self.up.items() if r == number]
            down = [size for (r, _), size in self.down.items() if r == number]
            row = {"round": number, "answers": len(up), "bytes up": sum(up), "bytes down": sum(down)}
            rows.append({**row, "largest upload": max(up, default=0)})
        return rows


class CountingGrid(Grid):
    """A grid that counts what goes through another one; strategies run on it unchanged.

    Args:
        grid: the grid that does the work.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid, self.traffic, self._round = grid, Traffic(), 0

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self.grid.set_run(run)

    @property
    def run(self) -> Run:
        """Run information."""
        return self.grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Create a message."""
        return self.grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes that are connected."""
        return self.grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Count and send."""
        return self.grid.push_messages(self._sent(messages))

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive and count."""
        return self._received(self.grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Count, send, receive and count."""
        return self._received(self.grid.send_and_receive(self._sent(messages), timeout=timeout))

    def _sent(self, messages: Iterable[Message]) -> list[Message]:
        sent = list(messages)
        for message in sent:
            for config in message.content.config_records.values():
                self._round = int(config.get("server-round", self._round))  # type: ignore[arg-type]
            self._add(self.traffic.down, message.metadata.dst_node_id, message.content)
        return sent

    def _received(self, messages: Iterable[Message]) -> list[Message]:
        received = list(messages)
        for message in received:
            if message.has_content():
                self._add(self.traffic.up, message.metadata.src_node_id, message.content)
        return received

    def _add(self, ledger: dict[tuple[int, int], int], node: int, content: RecordDict) -> None:
        key = self._round, node
        ledger[key] = ledger.get(key, 0) + content_bytes(content)
