"""A pool of networks at various stages: which snapshots it holds, how they are drawn, what a checkpoint knows."""

from __future__ import annotations

import pytest
import torch

from ddkit.errors import ConfigError, DivergedError
from ddkit.models import ModelSpec
from ddkit.networks import Network, TrainedPool
from ddkit.networks.real_training import RealTraining
from ddkit.testing import toy_data
from tests.networks.bench import present, ready, same_after_resuming, walk, weights

SMALL = {"runs": 2, "stages": 3, "steps": 6, "batch_size": 4, "lr": 0.1}


def losses(source: TrainedPool) -> list[float]:
    images, labels = source.setting.signal.labelled(100, "test")
    values = []
    for snapshot in source.snapshots:
        source.network.module.load_state_dict(snapshot)
        values.append(source.network.loss(images, labels).item())
    return values


def test_pool_is_trained_once_and_draws_its_snapshots_only() -> None:
    source, pixels = ready(TrainedPool(**SMALL))
    assert source.snapshots == []
    seen = {tuple(w.tolist()) for w in walk(source, pixels, 60)}
    held = [torch.cat([v.flatten() for v in snapshot.values()]) for snapshot in source.snapshots]
    assert seen == {tuple(snapshot.tolist()) for snapshot in held}
    assert len(seen) == 6
    assert source.drawn == 60


def test_snapshots_are_evenly_spaced_and_the_first_is_untrained(monkeypatch) -> None:
    taken: list[int] = []
    run = RealTraining.run
    monkeypatch.setattr(RealTraining, "run", lambda *args: taken.append(run(*args)) or taken[-1])
    source, _ = ready(TrainedPool(**{**SMALL, "runs": 1, "steps": 7}))
    source.current()
    assert sum(taken) == 7
    fresh, _ = ready(TrainedPool(**SMALL))
    fresh.network.reset(fresh.streams.integer("pool"))
    untrained = fresh.network.module.state_dict()
    assert all(torch.equal(value, untrained[name]) for name, value in source.snapshots[0].items())


@pytest.mark.parametrize(
    ("steps", "batch_size", "expected"), [(20, 4, [6, 6, 6, 2]), (9, 4, [6, 3]), (6, 4, [6]), (3, 100, [1, 1, 1])]
)
def test_run_has_exactly_its_steps_on_small_data(steps, batch_size, expected, monkeypatch) -> None:
    """22 images: six batches of four, or one of all; further steps need another draw."""
    taken: list[int] = []
    run = RealTraining.run
    monkeypatch.setattr(RealTraining, "run", lambda *args: taken.append(run(*args)) or taken[-1])
    source, _ = ready(
        TrainedPool(runs=1, stages=2, steps=steps, batch_size=batch_size), data=toy_data(counts=(6, 9, 7))
    )
    source.current()
    assert taken == expected


def test_few_images_are_held_at_once(monkeypatch) -> None:
    counts: list[int] = []
    run = RealTraining.run
    monkeypatch.setattr(RealTraining, "run", lambda *args: counts.append(args[1]) or run(*args))
    source, _ = ready(TrainedPool(runs=1, stages=2, steps=3, batch_size=1500), data=toy_data(counts=(6, 9, 7)))
    source.current()
    assert counts == [1500] * 3


def test_later_stages_know_more() -> None:
    source, _ = ready(TrainedPool(**{**SMALL, "steps": 60}))
    source.current()
    first, middle, end, *second_run = losses(source)
    assert first > middle > end
    assert second_run[0] > second_run[2] and second_run[0] != first


def test_momentum_goes_on_from_stage_to_stage() -> None:
    few, many = (ready(TrainedPool(runs=1, stages=s, steps=4, batch_size=100))[0] for s in (2, 3))
    for source in (few, many):
        source.current()
    for name, value in few.snapshots[-1].items():
        assert torch.equal(value, many.snapshots[-1][name])


def test_pool_follows_the_seed() -> None:
    (first, _), (again, _), (other, _) = (ready(TrainedPool(**SMALL), seed) for seed in (0, 0, 1))
    a = weights(first)
    assert torch.equal(a, weights(again)) and not torch.equal(a, weights(other))


def test_every_step_has_a_number_of_its_own() -> None:
    source, pixels = ready(TrainedPool(**SMALL))
    ages = []
    for _ in range(3):
        source.current()
        ages.append(source.age())
        source.after_step(pixels, last=False)
    assert ages == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize("before", [0, 1, 4])
def test_resumed_source_goes_on_with_the_same_networks(before: int) -> None:
    same_after_resuming(TrainedPool, SMALL, before, 5)


def test_resumed_pool_asks_the_signal_nothing(monkeypatch) -> None:
    source, _ = ready(TrainedPool(**SMALL))
    source.current()
    state = source.state_dict()
    other, _ = ready(TrainedPool(**SMALL))
    other.load_state_dict(state)
    monkeypatch.setattr(other.setting.signal, "labelled", None)
    assert other.current() is other.network


BLENDED = {**SMALL, "stages": 2, "blend": True}


def test_blended_networks_lie_on_the_line_between_the_ends_of_one_run() -> None:
    source, pixels = ready(TrainedPool(**BLENDED))
    places = []
    for _ in range(200):
        theta = weights(source).double()
        run = source.number // 2
        start, end = (
            torch.cat([v.flatten() for v in source.snapshots[2 * run + stage].values()]).double() for stage in (0, 1)
        )
        share = float((theta - end) @ (start - end) / (start - end).square().sum())
        torch.testing.assert_close(theta, share * start + (1 - share) * end, rtol=0, atol=1e-6)
        source.last()
        assert torch.equal(present(source).double(), end)
        places.append((run, share))
        source.after_step(pixels, last=False)
    shares = torch.tensor([share for _, share in places])
    assert 0 <= shares.min() < 0.05 and 0.95 < shares.max() <= 1 and abs(shares.mean() - 0.5) < 0.07
    assert {run for run, _ in places} == {0, 1} and len(set(shares.tolist())) == 200


def test_blending_leaves_the_counters_of_batch_norm_alone() -> None:
    source, _ = ready(TrainedPool(**BLENDED))
    source.network = Network(ModelSpec.parse("convnet:width=4,depth=1,norm=batch"), (1, 8, 8), 3)
    source.training.network = source.network
    names = [name for name, value in source.current().module.state_dict().items() if not value.is_floating_point()]
    assert names and all(source.network.module.state_dict()[name] == 0 for name in names)


@pytest.mark.parametrize("before", [0, 1, 4])
def test_resumed_pool_blends_on(before: int) -> None:
    same_after_resuming(TrainedPool, BLENDED, before, 5)


def test_snapshots_stay_while_networks_are_blended() -> None:
    source, pixels = ready(TrainedPool(**BLENDED))
    source.current()
    before = [{name: value.clone() for name, value in one.items()} for one in source.snapshots]
    walk(source, pixels, 5)
    for old, new in zip(before, source.snapshots, strict=True):
        assert all(torch.equal(old[name], new[name]) for name in old)


def test_cutmix_changes_the_training() -> None:
    (plain, _), (mixed, _) = ready(TrainedPool(**SMALL)), ready(TrainedPool(**SMALL, cutmix=1.0))
    plain.current(), mixed.current()
    assert not all(torch.equal(value, mixed.snapshots[-1][name]) for name, value in plain.snapshots[-1].items())


def test_weights_that_are_no_longer_finite_stop_the_run() -> None:
    source, _ = ready(TrainedPool(**{**SMALL, "lr": 1e30}))
    with pytest.raises(DivergedError, match=r"lower networks\.lr \(now 1e\+30\)"):
        source.current()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runs": 0}, "networks.runs=0"),
        ({"stages": 1}, "networks.stages=1 must be at least 2: for untrained networks use networks=fresh"),
        ({"steps": 2, "stages": 4}, "networks.steps=2 is too few for networks.stages=4"),
        ({"steps": 0}, "networks.steps=0"),
        ({"stages": 4, "blend": True}, "networks.stages=4 with networks.blend=true.*set networks.stages=2"),
        ({"cutmix": 1.5}, "networks.cutmix=1.5"),
        ({"batch_size": 0}, "networks.batch_size=0"),
        ({"momentum": 1.0}, "networks.momentum=1.0"),
        ({"lr": -1.0}, "networks.lr=-1.0"),
    ],
)
def test_settings_out_of_range_are_refused(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainedPool(**options)
