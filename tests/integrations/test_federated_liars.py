"""How much can a client that lies about its images or its labels do, and does the report say so?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import RunError
from ddkit.integrations.federated import ClientSet, DistillClient, FedDistill, ServerDistill, Task, simulate
from ddkit.integrations.federated.flower import Array, ClientApp, Context, Message, MetricRecord
from ddkit.integrations.federated.shares import bounded, largest_share
from ddkit.integrations.federated.suspects import find_suspects
from ddkit.integrations.federated.union import MOST_IMPORTANCE, joined
from ddkit.integrations.federated.weights import flat
from tests.integrations.federated_small import MODEL, TASK, app_where, averaging, client, initial, server, trainer


@given(st.lists(st.integers(1, 2**43), min_size=1, max_size=40))
def test_nobody_gets_more_than_the_bound_and_the_order_of_claims_stays(claims: list[int]) -> None:
    weights = bounded(torch.tensor(claims, dtype=torch.float64))
    most = largest_share(len(claims))
    assert float(weights.max() / weights.sum()) <= most * (1 + 1e-9)
    assert bool((weights > 0).all()) and bool((weights <= torch.tensor(claims)).all())
    order = torch.tensor(claims).argsort(stable=True)
    assert bool((weights[order].diff() >= 0).all())
    if max(claims) <= most * sum(claims):
        assert weights.tolist() == claims


@pytest.mark.parametrize("clients, share", [(1, 1.0), (2, 1 / 2), (3, 1 / 2), (4, 2 / 5), (8, 2 / 9), (99, 1 / 50)])
def test_the_bound_is_twice_what_the_others_have_on_average(clients: int, share: float) -> None:
    assert largest_share(clients) == pytest.approx(share)
    claims = torch.tensor([1e12] + [30.0] * (clients - 1), dtype=torch.float64)
    weights = bounded(claims)
    assert float(weights[0] / weights.sum()) == pytest.approx(share)
    assert clients < 3 or float(weights[0]) == pytest.approx(2 * float(weights[1:].mean()))


def test_honest_differences_below_the_bound_are_kept() -> None:
    claims = torch.tensor([90.0, 5.0, 60.0, 100.0, 30.0, 70.0, 12.0, 100.0], dtype=torch.float64)
    assert torch.equal(bounded(claims), claims)


def sets_of(*counts: tuple[int, int, int], ipc: int = 2) -> list[ClientSet]:
    strategy = server(min_clients=1)
    simulate(strategy, client(ipc=ipc).app(), clients=4)
    own = list(strategy.sets.values())
    return [ClientSet(own[place % 4].distilled, claimed) for place, claimed in enumerate(counts)]


def test_importance_follows_real_counts_and_its_sum_is_bounded_by_client() -> None:
    fair = joined(sets_of((10, 20, 30), (10, 20, 30)), "counts")
    assert fair.importance is not None and len(fair.images) == 12
    by_class = [float(fair.importance[fair.images.hard_labels() == k].mean()) for k in range(3)]
    assert by_class == pytest.approx([0.5, 1.0, 1.5]) and fair.shares == fair.claimed == (0.5, 0.5)
    greedy = joined(sets_of((2**40,) * 3, *[(1, 1, 1)] * 3), "counts")
    assert greedy.importance is not None and float(greedy.importance[:6].sum()) / 24 == pytest.approx(0.4)
    assert greedy.shares == pytest.approx((0.4, 0.2, 0.2, 0.2)) and greedy.claimed[0] == pytest.approx(1.0)


def test_a_claim_for_one_class_is_bounded_as_well() -> None:
    whole = joined(sets_of((2**40, 1, 1), *[(5, 5, 5)] * 7), "counts")
    assert whole.importance is not None
    assert float(whole.importance[0] / whole.importance[-1]) <= MOST_IMPORTANCE + 1e-4
    assert whole.shares[0] <= largest_share(8) + 1e-9


def test_sending_many_images_buys_no_larger_share_where_all_weigh_the_same() -> None:
    many, few = sets_of((9, 9, 9), ipc=6)[0], sets_of((1, 1, 1), (1, 1, 1), (1, 1, 1), ipc=1)
    whole = joined([many, *few], "equal")
    assert whole.importance is not None and float(whole.importance[:18].sum()) / 27 == pytest.approx(0.4)
    assert joined(few, "equal").importance is None


def claiming(*counts: Any) -> Any:
    def behaviour(message: Message, context: Context, reply: Message) -> Message:
        reply.content["metrics"]["class-counts"] = list(counts)  # type: ignore[index]
        reply.content["metrics"]["num-examples"] = sum(counts)  # type: ignore[index]
        return reply

    return behaviour


@pytest.mark.parametrize(
    "counts", [(float("nan"),) * 3, (float("inf"), 1.0, 1.0), (-5, 9, 9), (2**41, 1, 1), (0, 3, 3)]
)
def test_claims_that_are_no_counts_are_refused(counts: tuple[Any, ...]) -> None:
    strategy = server()
    simulate(strategy, app_where({0: claiming(*counts)}), clients=4)
    assert 1 in strategy.reports[0].refused and sorted(strategy.sets) == [2, 3, 4]
    assert bool(flat(strategy.module).isfinite().all())


@pytest.mark.parametrize("rounds", ["one-shot", "iterative"])
def test_the_report_says_who_claimed_too_much_and_which_shares_were_used(rounds: Any) -> None:
    strategy = server(rounds=rounds)
    simulate(strategy, app_where({2: claiming(10**6, 10**6, 10**6)}), clients=4, rounds=1)
    report = strategy.reports[0]
    assert list(report.cut) == [3] and report.cut[3] > 0.99
    assert report.shares[3] == max(report.shares.values()) == pytest.approx(0.4, abs=1e-4)
    assert sum(report.shares.values()) == pytest.approx(1, abs=1e-3)
    assert report.metrics()["clients-cut"] == 1 and report.metrics()["largest-share"] == report.shares[3]


def test_honest_clients_are_not_cut() -> None:
    strategy = server()
    simulate(strategy, client().app(), clients=4)
    assert strategy.reports[0].cut == {} and max(strategy.reports[0].shares.values()) < 0.3


def test_dynafed_bounds_the_weight_of_an_update() -> None:
    """An update of a client that claims any number of images moves the average by its bounded share."""

    def greedy(message: Message, context: Context, reply: Message) -> Message:
        arrays = reply.content["arrays"]
        for name in list(arrays):
            arrays[name] = Array(np.full_like(arrays[name].numpy(), 10.0))  # type: ignore[index, union-attr]
        reply.content["metrics"]["num-examples"] = 2**40  # type: ignore[index]
        return reply

    app, honest = ClientApp(), trainer()

    @app.train()
    def reply(message: Message, context: Context) -> Message:
        answer = honest.reply(message, context)
        return greedy(message, context, answer) if context.node_config["partition-id"] == 0 else answer

    strategy = ServerDistill(TASK, averaging(), model=MODEL, warmup_rounds=5)
    simulate(strategy, app, clients=4, initial_arrays=initial())
    report = strategy.reports[0]
    assert report.shares[1] == pytest.approx(0.4, abs=1e-3) and report.cut == {1: pytest.approx(1.0, abs=1e-3)}
    assert 3.0 < float(flat(strategy.module).mean()) < 5.0  # 0.4 of 10, not all of it


def blobs(client_number: int, classes: int = 6, per_class: int = 12) -> RealData:
    """Return images of well separated classes, the same ones for all clients, with their own noise."""
    centres = torch.rand(classes, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(100 + client_number)
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = centres[labels] + 0.1 * torch.randn(len(labels), 1, 8, 8, generator=generator)
    return RealData.from_tensors(images.clamp(0, 1), labels, class_names=[f"c{k}" for k in range(classes)])


BLOBS = Task.of(blobs(0))


def mean_set(real: RealData, change: Callable[[Tensor], Tensor] | None = None) -> ClientSet:
    """Return the class means of a client as its set, with labels that ``change`` has changed."""
    real = real.with_preprocessing(BLOBS.preprocessing)
    images = torch.stack([real.batch(index).mean(dim=0) for index in real.class_index])
    labels = torch.tensor([BLOBS.class_names.index(name) for name in real.class_names])
    told = labels if change is None else change(labels)
    distilled = DistilledDataset(
        images, told, class_names=BLOBS.class_names, preprocessing=BLOBS.preprocessing, label_kind="hard"
    )
    return ClientSet(distilled, tuple((torch.bincount(told, minlength=6) * 12).tolist()))


def sent(
    skewed: bool = False, change: Mapping[int, Callable[[Tensor], Tensor]] | None = None, clients: int = 6
) -> list[ClientSet]:
    """Return what clients of blobs send; those with a skew have three of the six classes each."""
    shards = [blobs(number) for number in range(clients)]
    if skewed:
        shards = [real.only([number % 6, (number + 1) % 6, (number + 2) % 6]) for number, real in enumerate(shards)]
    return [mean_set(real, (change or {}).get(number)) for number, real in enumerate(shards)]


def rotated(labels: Tensor) -> Tensor:
    return (labels + 1) % 6


def swapped(labels: Tensor) -> Tensor:
    return torch.where(labels == 0, 1, torch.where(labels == 1, 0, labels))


@pytest.mark.parametrize("skewed", [False, True])
def test_flipped_labels_are_told_from_those_of_honest_clients(skewed: bool) -> None:
    assert find_suspects(sent(skewed)) == {}
    for liar in range(6):
        found = find_suspects(sent(skewed, {liar: rotated}))
        assert list(found) == [liar] and "looks like" in found[liar]


def test_two_exchanged_classes_are_enough_and_named() -> None:
    found = find_suspects(sent(change={4: swapped}))
    assert list(found) == [4] and "2 of 6 classes" in found[4] and "'c0' looks like 'c1'" in found[4]


def test_several_liars_are_found_while_they_are_a_minority() -> None:
    assert sorted(find_suspects(sent(change={0: rotated, 3: swapped}))) == [0, 3]
    assert len(find_suspects(sent(change=dict.fromkeys(range(4), rotated)))) <= 2


def test_two_clients_cannot_accuse_each_other() -> None:
    assert find_suspects(sent(change={0: rotated}, clients=2)) == {}


def test_classes_that_nobody_else_has_are_no_crime() -> None:
    others = [mean_set(blobs(number).only([0, 1, 2, 3])) for number in range(4)]
    assert find_suspects([*others, mean_set(blobs(4).only([4, 5]))]) == {}


def test_images_that_show_no_class_accuse_nobody() -> None:
    def noise(number: int) -> ClientSet:
        distilled = sent()[number].distilled
        images = torch.rand(distilled.images.shape, generator=torch.Generator().manual_seed(number))
        names, preprocessing = distilled.class_names, distilled.preprocessing
        return ClientSet(
            DistilledDataset(images, distilled.labels, class_names=names, preprocessing=preprocessing), (12,) * 6
        )

    assert find_suspects([noise(number) for number in range(6)]) == {}


def blob_app(liar: int) -> ClientApp:
    options = {"steps": 2, "model": MODEL, "objective": {"real_batch": 4}, "augmentation": "none"}
    honest = DistillClient(BLOBS, lambda c: blobs(int(c.node_config["partition-id"])), ipc=1, options=options)

    def flips(message: Message, context: Context, reply: Message) -> Message:
        labels = reply.content["distilled"]["targets"].numpy()  # type: ignore[index]
        reply.content["distilled"]["targets"] = Array(((labels + 1) % 6).astype(np.uint8))  # type: ignore[index]
        return reply

    return app_where({liar: flips}, honest)


def test_a_suspect_is_reported_and_left_out_only_where_that_is_asked_for() -> None:
    told, out = (
        FedDistill(BLOBS, model=MODEL, exclude_suspects=exclude, recipe=server().recipe) for exclude in (False, True)
    )
    for strategy in (told, out):
        simulate(strategy, blob_app(2), clients=5)
        assert list(strategy.reports[0].suspects) == [3] and strategy.reports[0].metrics()["clients-suspect"] == 1
        assert strategy.reports[0].silent == ()
    assert sorted(told.sets) == [1, 2, 3, 4, 5] and sorted(out.sets) == [1, 2, 4, 5]
    assert 3 not in out.reports[0].accepted and 3 not in out.reports[0].shares
    assert "3: left out as a suspect" in out.reports[0].reasons() and told.reports[0].reasons() == ""


def test_leaving_suspects_out_can_leave_too_few() -> None:
    strategy = FedDistill(BLOBS, model=MODEL, exclude_suspects=True, min_clients=5, recipe=server().recipe)
    with pytest.raises(RunError, match=r"4 of 5 clients .* left out as a suspect"):
        simulate(strategy, blob_app(2), clients=5)


def test_metrics_of_flower_take_no_text_or_truth_value_as_a_count() -> None:
    for value in ("10", True):
        with pytest.raises(TypeError):
            MetricRecord({"class-counts": [value] * 3})  # type: ignore[list-item, dict-item]
