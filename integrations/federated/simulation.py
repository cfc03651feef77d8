"""How is a federation run on one machine: in this process, or by Flower's simulation engine on Ray?"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ddkit.base.ranges import Count, in_range
from ddkit.errors import ConfigError, RunError, unknown_name
from ddkit.integrations.federated.flower import (
    CLIENT_RAISED,
    ArrayRecord,
    ClientApp,
    Context,
    Error,
    Grid,
    Message,
    MetricRecord,
    RecordDict,
    Result,
    Run,
    ServerApp,
    Strategy,
    flower_log,
    run_on_ray,
    task_identity,
)
from ddkit.integrations.federated.traffic import CountingGrid, Traffic

How = Literal["in-process", "ray"]
Evaluate = Callable[[int, ArrayRecord], MetricRecord | None]

#: Number of the run in this process; Flower's own are random.
RUN_ID = 1


@dataclass(frozen=True)
class Simulation:
    """What a simulated federation ended with.

    Args:
        result: Flower's: final arrays, metrics by round.
        traffic: bytes by round and client.
        seconds: wall clock.
    """

    result: Result
    traffic: Traffic
    seconds: float


class InProcessGrid(Grid):
    """Clients in this process, one after the other, in the order of their nodes 1 to ``clients``.

    What a client raises becomes an error reply, as in a real federation. A client that takes longer than the timeout
    has answered too late: its reply is dropped. Nothing is interrupted.

    Args:
        client: the app that all clients run.
        clients: how many.
        node_config: for each partition what else its ``context.node_config`` holds; None for nothing.
    """

    @in_range("")
    def __init__(
        self, client: ClientApp, clients: Count, node_config: Callable[[int], dict[str, Any]] | None = None
    ) -> None:
        self._client = client
        self._run = Run.create_empty(run_id=RUN_ID)
        self._replies: dict[str, Message] = {}
        self._contexts = {}
        for partition in range(clients):
            own = {} if node_config is None else node_config(partition)
            config = {"partition-id": partition, "num-partitions": clients, **own}
            self._contexts[partition + 1] = Context(RUN_ID, partition + 1, config, RecordDict(), {})

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Create a message."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Return 1 to the number of clients."""
        return list(self._contexts)

    def context(self, node: int) -> Context:
        """Return the context of a client, whose state outlives rounds."""
        return self._contexts[node]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Run the clients now; the replies wait to be pulled."""
        names = []
        for message in messages:
            name = f"message-{len(self._replies) + 1}"
            self._replies[name] = self._answer(message)
            names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to messages that were pushed."""
        return [self._replies[name] for name in message_ids]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Run each client; return the replies that took at most ``timeout`` seconds, in the order of the nodes."""
        replies = []
        for message in sorted(messages, key=lambda message: message.metadata.dst_node_id):
            begun = time.monotonic()
            reply = self._answer(message)
            if timeout is None or time.monotonic() - begun <= timeout:
                replies.append(reply)
        return replies

    def _answer(self, message: Message) -> Message:
        own = copy.deepcopy(message)  # clients share nothing with each other or with the server
        try:
            return self._client(own, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return Message(Error(CLIENT_RAISED, f"{type(error).__name__}: {error}"), reply_to=message)


@in_range("")
def simulate(
    strategy: Strategy,
    client: ClientApp,
    *,
    clients: Count,
    rounds: int = 1,
    how: How = "in-process",
    initial_arrays: ArrayRecord | None = None,
    evaluate: Evaluate | None = None,
    timeout: float = 600.0,
    cpus: int = 2,
    verbose: bool = False,
) -> Simulation:
    """Run a federation on this machine.

    The outcome of ddkit's strategies and clients is the same in process and on Ray. Flower's ``flwr run`` is the third
    way, see :func:`ddkit.integrations.federated.write_app`.

    Args:
        strategy: any strategy of Flower's message API.
        client: the app of all clients; on Ray it must be picklable by cloudpickle.
        clients: how many; client k has ``context.node_config["partition-id"] == k``.
        rounds: how many.
        how: ``in-process``, without Ray and further processes, or ``ray``, Flower's simulation engine.
        initial_arrays: weights to start from; None for those of the strategy (ddkit's have some).
        evaluate: called with the round and the weights before the first round and after each.
        timeout: seconds that clients have for a round; on Ray its start counts.
        cpus: CPUs of the local Ray.
        verbose: let Flower log its progress; warnings always show.

    Raises:
        UnknownNameError: another way to run.
        ConfigError: no clients, or fewer than the strategy needs.
        RunError: what the strategy raises, or a simulation that ended without a result.
        MissingExtraError: Ray is asked for and not installed.
    """
    if how not in ("in-process", "ray"):
        raise unknown_name("way to simulate", how, ("in-process", "ray"))
    for one in (strategy, getattr(strategy, "base", strategy)):
        for name in ("min_clients", "min_available_nodes", "min_train_nodes"):
            if clients < getattr(one, name, 1):
                raise ConfigError(
                    f"clients={clients}, {type(one).__name__} needs {name}={getattr(one, name)}: more will not come, "
                    f"raise clients or lower {name}"
                )
    begun = time.monotonic()
    options: dict[str, Any] = {"num_rounds": rounds, "timeout": timeout, "evaluate_fn": evaluate}
    if initial_arrays is not None:
        options["initial_arrays"] = initial_arrays
    if how == "in-process":
        with task_identity(RUN_ID), flower_log(verbose):
            grid = CountingGrid(InProcessGrid(client, clients))
            result = strategy.start(grid, **options)
        return Simulation(result, grid.traffic, time.monotonic() - begun)
    with flower_log(verbose):
        outcome = _on_ray(strategy, client, clients, cpus, options)
    return Simulation(*outcome, time.monotonic() - begun)


def _on_ray(
    strategy: Strategy, client: ClientApp, clients: int, cpus: int, options: dict[str, Any]
) -> tuple[Result, Traffic]:
    outcome: list[tuple[Result, Traffic]] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        deadline = time.monotonic() + options["timeout"]
        while len(list(grid.get_node_ids())) < clients and time.monotonic() < deadline:
            time.sleep(0.1)
        counting = CountingGrid(grid)
        outcome.append((strategy.start(counting, **options), counting.traffic))

    with tempfile.TemporaryDirectory(prefix="ddkit-flower-") as home:
        run_on_ray(server, client, clients, cpus, Path(home))
    if not outcome:
        raise RunError("the simulation ended without a result: see Flower's log above for what its server said")
    return outcome[0]
