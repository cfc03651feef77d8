"""Does a round survive clients that fail, cheat or fall silent, and does the server go on where it was?"""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddkit.errors import ConfigError, RunError, UnknownNameError
from ddkit.integrations.federated import (
    DistillClient,
    FedDistill,
    InProcessGrid,
    ServerDistill,
    simulate,
    weights_to_arrays,
)
from ddkit.integrations.federated.flower import (
    Array,
    ClientApp,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
    task_identity,
)
from ddkit.integrations.federated.nodes import checked_wait, client_of
from ddkit.integrations.federated.weights import flat
from ddkit.training import TrainingRecipe
from tests.integrations.federated_small import (
    DATA,
    MODEL,
    OPTIONS,
    RECIPE,
    TASK,
    app_where,
    averaging,
    client,
    server,
    trainer,
)


def nan_pixels(message: Message, context: Context, reply: Message) -> Message:
    shape = reply.content["distilled"]["images"].shape  # type: ignore[index]
    reply.content["distilled"]["images"] = Array(np.full(shape, np.nan, np.float16))  # type: ignore[index]
    return reply


def oversized(message: Message, context: Context, reply: Message) -> Message:
    reply.content["distilled"]["images"] = Array(np.zeros((40_000, 1, 8, 8), np.uint8))  # type: ignore[index]
    return reply


def malformed(message: Message, context: Context, reply: Message) -> Message:
    return Message(RecordDict({"anything": MetricRecord({"a": 1})}), reply_to=message)


def flooding(message: Message, context: Context, reply: Message) -> Message:
    reply.content["distilled"]["images"] = Array(np.zeros((60, 1, 8, 8), np.uint8))  # type: ignore[index]
    reply.content["distilled"]["targets"] = Array(np.zeros(60, np.uint8))  # type: ignore[index]
    return reply


def crashing(message: Message, context: Context, reply: Message) -> Message:
    raise MemoryError("out of memory\nwith a long story")


#: Seconds after which an answer is too late: much more than a client of these tests takes.
LATE = 5.0


def slow(message: Message, context: Context, reply: Message) -> Message:
    time.sleep(LATE + 0.1)
    return reply


BAD = {
    "NaN": (nan_pixels, "refused", "range from nan"),
    "oversized": (oversized, "refused", "more than max_bytes_per_client=2000000"),
    "malformed": (malformed, "refused", "expected arrays"),
    "flooding": (flooding, "refused", "at most max_ipc=50"),
    "crashing": (crashing, "failed", "MemoryError: out of memory"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_round_survives_a_bad_client_and_names_it(case: str) -> None:
    behaviour, where, words = BAD[case]
    strategy = server(min_clients=3)
    simulate(strategy, app_where({2: behaviour}), clients=4)
    report = strategy.reports[0]
    assert list(getattr(report, where)) == [3] and words in getattr(report, where)[3]
    assert sorted(strategy.sets) == sorted(report.accepted) == [1, 2, 4]
    assert bool(flat(strategy.module).isfinite().all())


def test_a_bad_client_changes_nothing_for_the_others() -> None:
    """The outcome is that of a federation in which the bad client fell silent."""
    weights = []
    for behaviour in (nan_pixels, crashing):
        strategy = server()
        simulate(strategy, app_where({1: behaviour}), clients=4)
        weights.append(flat(strategy.module))
    assert torch.equal(*weights)


def test_a_client_that_is_too_late_is_silent() -> None:
    strategy = server(min_clients=2)
    simulate(strategy, app_where({0: slow}), clients=3, timeout=LATE)
    assert strategy.reports[0].silent == (1,) and 1 not in strategy.sets


def test_too_few_usable_sets_end_the_run_and_say_who_is_missing() -> None:
    strategy = server(min_clients=3)
    with pytest.raises(RunError, match=r"2 of 4 clients .* min_clients=3; missing: 2: images range .*3: MemoryError"):
        simulate(strategy, app_where({1: nan_pixels, 2: crashing}), clients=4)


def test_equal_reasons_are_told_once() -> None:
    strategy = server(min_clients=4)
    with pytest.raises(RunError, match="missing: 1, 3: MemoryError"):
        simulate(strategy, app_where({0: crashing, 2: crashing}), clients=4)


def test_too_few_clients_end_the_run_after_the_wait() -> None:
    strategy = server(min_clients=5, wait=0)
    with task_identity(1), pytest.raises(RunError, match="2 clients are connected after 0 seconds, min_clients=5"):
        strategy.start(InProcessGrid(client().app(), 2))


def test_clients_that_cannot_come_are_not_waited_for() -> None:
    with pytest.raises(ConfigError, match="clients=2, FedDistill needs min_clients=5"):
        simulate(server(min_clients=5), client().app(), clients=2)


class _Repeating(InProcessGrid):
    """Delivers a reply twice, and one of a client that is not part of the round."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = list(super().send_and_receive(messages, timeout=timeout))
        if not replies:  # of an evaluation that asks nobody
            return replies
        stranger = copy.deepcopy(replies[1])
        stranger.metadata._src_node_id = 77  # type: ignore[attr-defined]
        again = malformed(replies[0], self.context(1), replies[0])
        again.metadata._src_node_id = 1  # type: ignore[attr-defined]
        return [*replies, again, stranger]


def test_the_first_reply_of_a_client_counts_and_strangers_are_refused() -> None:
    strategy = server()
    with task_identity(1):
        strategy.start(_Repeating(client().app(), 2))
    report = strategy.reports[0]
    assert sorted(strategy.sets) == [1, 2]
    assert "replied before" in report.refused[1] and "not asked" in report.refused[77]
    plain = server()
    simulate(plain, client().app(), clients=2)
    assert torch.equal(flat(strategy.module), flat(plain.module))


class _DeadNode(InProcessGrid):
    """Answers for node 2 as a SuperLink does for a SuperNode that is gone: from a node of its own."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        from flwr.server.superlink.linkstate.utils import create_message_error_unavailable_res_message

        alive, replies = [], []
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"message-{number}"
            if message.metadata.dst_node_id == 2:
                replies.append(create_message_error_unavailable_res_message(message.metadata, "node_unavail"))
            else:
                alive.append(message)
        return [*replies, *super().send_and_receive(alive, timeout=timeout)]


def test_a_dead_node_has_failed_with_flowers_reason_and_nobody_else_is_blamed() -> None:
    strategy = server()
    with task_identity(1):
        strategy.start(_DeadNode(client().app(), 3))
    report = strategy.reports[0]
    assert list(report.failed) == [2] and "Node Unavailable" in report.failed[2]
    assert sorted(report.accepted) == [1, 3] and report.refused == {} and report.silent == ()
    assert "2: Error: Node Unavailable" in report.reasons()


def test_a_dead_node_is_booked_by_dynafed_as_well() -> None:
    strategy = ServerDistill(TASK, averaging(), model=MODEL, warmup_rounds=5)
    with task_identity(1):
        strategy.start(_DeadNode(trainer().app(), 3), num_rounds=1)
    report = strategy.reports[0]
    assert list(report.failed) == [2] and sorted(report.accepted) == [1, 3] and report.refused == {}


def test_a_client_may_not_answer_for_another_with_a_set() -> None:
    """Only errors are matched by the message that they answer: a set is that of its sender."""
    with task_identity(1):
        asked = Message(RecordDict(), 7, "train.distil")
        asked.metadata.__dict__["_message_id"] = "asked"
        reply = Message(RecordDict(), reply_to=asked)
        reply.metadata.__dict__["_src_node_id"] = 8
        failed = Message(Error(2, "gone"), reply_to=asked)
        failed.metadata.__dict__["_src_node_id"] = 1
    assert (client_of(reply, [asked]), client_of(failed, [asked]), client_of(failed, [])) == (8, 7, 1)


def test_what_a_client_writes_is_kept_as_one_printable_line() -> None:
    def shouting(message: Message, context: Context, reply: Message) -> Message:
        return Message(Error(2, "\x1b[31mred\x07 " + "x" * 10**6 + "\nmore"), reply_to=message)

    strategy = server()
    simulate(strategy, app_where({0: shouting}), clients=3)
    assert strategy.reports[0].failed[1].startswith(" [31mred  x") and len(strategy.reports[0].failed[1]) == 300


def only(*classes: int) -> Any:
    def load(context: Context) -> Any:
        return DATA.subset(torch.cat([DATA.class_index[number] for number in classes]))

    return load


def test_clients_without_a_class_do_where_others_have_it() -> None:
    shards = {0: only(0, 1), 1: only(2)}
    app = DistillClient(TASK, lambda c: shards[int(c.node_config["partition-id"])](c), ipc=1, options=OPTIONS).app()
    strategy = server()
    simulate(strategy, app, clients=2)
    assert strategy.reports[0].missing_classes == () and strategy.reports[0].accepted == {1: 2, 2: 1}


def test_a_class_that_nobody_has_ends_the_run_by_name() -> None:
    app = DistillClient(TASK, only(0, 2), ipc=1, options=OPTIONS).app()
    with pytest.raises(RunError, match="no client sent images of class class-1"):
        simulate(server(), app, clients=2)


def test_the_outcome_does_not_depend_on_which_node_holds_which_shard() -> None:
    def load_from(order: list[int]) -> Any:
        return lambda context: DATA.subset(torch.arange(order[int(context.node_config["partition-id"])], len(DATA), 3))

    weights = []
    for order in ([0, 1, 2], [2, 0, 1]):
        # Distilled by the same seed whatever the node: real images, the first ones of each class.
        app = ClientApp()
        features = {"selection": {"features": "pixels"}}
        node = DistillClient(TASK, load_from(order), method="herding", ipc=2, allow_real_init=True, options=features)
        node.register(app)
        strategy = server()
        simulate(strategy, app, clients=3)
        weights.append(flat(strategy.module))
    assert torch.equal(*weights)


def test_iterative_rounds_go_on_from_each_other_within_the_radius() -> None:
    strategy = server(rounds="iterative", radius=0.2, recipe=RECIPE.replace(lr=0.5))
    start, seen = flat(strategy.module), []
    simulate(
        strategy, client().app(), clients=3, rounds=3, evaluate=lambda r, a: seen.append(flat(strategy.module)) or None
    )
    assert torch.equal(seen[0], start)
    steps = [float((b - a).norm()) for a, b in itertools.pairwise(seen)]
    assert len(steps) == 3 and max(steps) <= 0.2 + 1e-5 and min(steps) > 0.1


def test_several_rounds_of_one_shot_are_refused() -> None:
    with pytest.raises(ConfigError, match="rounds='iterative'"):
        simulate(server(), client().app(), clients=2, rounds=2)


def silent_after(first: int) -> Any:
    def behaviour(message: Message, context: Context, reply: Message) -> Message:
        if int(message.content["config"]["server-round"]) > first:  # type: ignore[index]
            raise TimeoutError
        return reply

    return behaviour


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_failed_clients_last_set_is_used_for_as_many_rounds_as_allowed(staleness: int) -> None:
    strategy = server(rounds="iterative", staleness=staleness)
    simulate(strategy, app_where({0: silent_after(1)}), clients=3, rounds=3)
    assert [report.stale for report in strategy.reports] == [{}, {1: 1} if staleness else {}, {}]
    assert [1 in report.accepted for report in strategy.reports] == [True, bool(staleness), False]


class _Leaving(InProcessGrid):
    """The first client is connected for one round."""

    rounds = 0

    def get_node_ids(self) -> list[int]:
        self.rounds += 1
        return list(super().get_node_ids())[self.rounds > 1 :]


def test_the_last_set_of_a_client_that_left_is_used_as_well() -> None:
    strategy = server(rounds="iterative", staleness=1)
    with task_identity(1):
        strategy.start(_Leaving(client().app(), 3), num_rounds=3)
    assert [report.stale for report in strategy.reports] == [{}, {1: 1}, {}]
    assert strategy.reports[1].asked == (2, 3) and strategy.reports[1].silent == ()


def flipped(message: Message, context: Context, reply: Message) -> Message:
    labels = reply.content["distilled"]["targets"].numpy()  # type: ignore[index]
    reply.content["distilled"]["targets"] = Array(((labels + 1) % 3).astype(np.uint8))  # type: ignore[index]
    return reply


def test_the_robust_step_leaves_out_wrong_labels_and_reports_it() -> None:
    strategy = server(min_cosine=0.0)
    simulate(strategy, app_where({3: flipped}, client(ipc=2)), clients=5)
    assert list(strategy.reports[0].outliers) == [4] and strategy.reports[0].outliers[4] < 0
    assert strategy.reports[0].silent == () and "4: left out as an outlier" in strategy.reports[0].reasons()
    assert sorted(strategy.sets) == [1, 2, 3, 5]


def test_without_the_robust_step_wrong_labels_are_within_the_quota() -> None:
    strategy = server()
    simulate(strategy, app_where({3: flipped}), clients=4)
    assert strategy.reports[0].outliers == {} and len(strategy.sets) == 4


def test_a_killed_server_asks_only_those_that_are_missing(tmp_path: Path) -> None:
    asked: list[int] = []

    def counting(message: Message, context: Context, reply: Message) -> Message:
        asked.append(context.node_id)
        return reply

    def failing(message: Message, context: Context, reply: Message) -> Message:
        raise ConnectionError("gone")

    with pytest.raises(RunError, match="min_clients=3"):
        simulate(server(min_clients=3, folder=tmp_path), app_where({0: counting, 1: failing, 2: counting}), clients=3)
    again = server(min_clients=3, folder=tmp_path)
    simulate(again, app_where(dict.fromkeys(range(3), counting)), clients=3)
    assert asked == [1, 3, 2]
    whole = server(min_clients=3)
    simulate(whole, client().app(), clients=3)
    assert torch.equal(flat(again.module), flat(whole.module))


def test_a_resumed_run_of_rounds_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    def dies(message: Message, context: Context, reply: Message) -> Message:
        return silent_after(1)(message, context, reply)

    options = {"rounds": "iterative", "min_clients": 3}
    with pytest.raises(RunError):
        simulate(server(**options, folder=tmp_path), app_where({2: dies}), clients=3, rounds=2)
    resumed, whole = server(**options, folder=tmp_path), server(**options)
    simulate(resumed, client().app(), clients=3, rounds=2)
    simulate(whole, client().app(), clients=3, rounds=2)
    assert resumed.reports[0].asked == () and resumed.reports[1].asked == (3,)
    assert torch.equal(flat(resumed.module), flat(whole.module))


def test_a_resumed_run_remembers_what_may_be_used_again(tmp_path: Path) -> None:
    def gone(message: Message, context: Context, reply: Message) -> Message:
        raise ConnectionError("gone")

    options: dict[str, Any] = {"rounds": "iterative", "min_clients": 3, "staleness": 1, "folder": tmp_path}
    simulate(server(**options), client().app(), clients=3, rounds=1)
    resumed = server(**options)
    simulate(resumed, app_where({0: gone}), clients=3, rounds=2)
    assert resumed.reports[1].stale == {1: 1}


def test_a_run_that_began_with_other_weights_is_refused(tmp_path: Path) -> None:
    simulate(server(folder=tmp_path), client().app(), clients=2)
    other = weights_to_arrays(server(seed=5).module)
    with pytest.raises(ConfigError, match="began with other weights"):
        simulate(server(folder=tmp_path), client().app(), clients=2, initial_arrays=other)


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    server(folder=tmp_path / "run")
    with pytest.raises(ConfigError, match="other settings"):
        server(folder=tmp_path / "run", seed=1)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="not empty"):
        server(folder=tmp_path)


def test_a_damaged_set_on_disk_is_asked_for_again(tmp_path: Path) -> None:
    simulate(server(folder=tmp_path), client().app(), clients=2)
    (tmp_path / "round-0001" / "model.safetensors").unlink()
    (tmp_path / "round-0001" / "client-1.safetensors").write_bytes(b"damaged")
    again = server(folder=tmp_path)
    simulate(again, client().app(), clients=2)
    assert again.reports[0].asked == (1,)


@pytest.mark.parametrize(
    "bad, error, words",
    [
        ({"rounds": 3}, UnknownNameError, "kind of rounds '3'"),
        ({"rounds": "iterativ"}, UnknownNameError, "did you mean 'iterative'"),
        ({"weighting": "count"}, UnknownNameError, "did you mean 'counts'"),
        ({"min_clients": 0}, ConfigError, "min_clients=0"),
        ({"radius": 0.0}, ConfigError, "radius=0"),
        ({"staleness": -1}, ConfigError, "staleness=-1"),
        ({"model": "convnett"}, UnknownNameError, "did you mean 'convnet'"),
        ({"max_bytes_per_client": "two"}, ConfigError, "number of bytes"),
        ({"recipe": TrainingRecipe.idc("mnist")}, ConfigError, "cutmix"),
    ],
)
def test_bad_settings_of_a_server_are_refused(bad: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        server(**bad)


def test_the_server_learns_from_sets_alone() -> None:
    strategy = FedDistill(TASK, model=MODEL, recipe=TrainingRecipe(name="s", epochs=60, lr=0.05, schedule="constant"))
    simulate(strategy, client(ipc=2).app(), clients=4)
    strategy.module.eval()
    images, labels = DATA.batch(torch.arange(len(DATA))), DATA.labels
    assert float((strategy.module(images).argmax(1) == labels).float().mean()) > 0.9


def test_initial_weights_follow_the_seed() -> None:
    assert not torch.equal(flat(server(seed=1).module), flat(server(seed=2).module))
    assert torch.equal(flat(server(seed=1).module), flat(server(seed=1).module))


def test_a_server_may_wait_for_ever_but_not_for_less_than_nothing() -> None:
    assert checked_wait(float("inf")) == float("inf")
    for wait in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="must be at least 0"):
            checked_wait(wait)
