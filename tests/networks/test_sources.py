"""Network sources: when a network is new, when it is trained, what a checkpoint has to know."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from ddkit.errors import ConfigError, DivergedError, UnknownNameError
from ddkit.networks import FreshNetworks, SyntheticTrainedNetworks, registry
from ddkit.synthesis import Pixels
from tests.networks.bench import ready, same_after_resuming, walk, weights


def test_fresh_networks_are_new_in_every_step_and_follow_the_seed() -> None:
    (first, _), (again, _), (other, _) = (ready(FreshNetworks(), seed) for seed in (0, 0, 1))
    a, b = weights(first), weights(first)
    assert not torch.equal(a, b)
    assert torch.equal(weights(again), a) and torch.equal(weights(again), b)
    assert not torch.equal(weights(other), a)


def test_fresh_networks_serve_as_many_steps_as_asked() -> None:
    source, pixels = ready(FreshNetworks(serve=3))
    seen = walk(source, pixels, 7)
    assert [not torch.equal(a, b) for a, b in pairwise(seen)] == [False, False, True, False, False, True]
    assert source.drawn == 3 and source.life() == 3


@pytest.mark.parametrize("before", [0, 1, 3, 5])
def test_resumed_fresh_networks_go_on_serving(before: int) -> None:
    same_after_resuming(FreshNetworks, {"serve": 3}, before, 5)


def test_network_lives_for_one_outer_loop_and_is_trained_inside_it() -> None:
    source, pixels = ready(SyntheticTrainedNetworks(outer_loop=3, inner_epochs=1, lr=0.1))
    lives, changes = [], []
    for _ in range(6):
        before = weights(source)
        source.after_step(pixels, last=False)
        after = torch.cat([p.detach().flatten() for p in source.network.module.parameters()])
        lives.append(before)
        changes.append(not torch.equal(before, after))
    assert changes == [True, True, False] * 2
    assert not torch.equal(lives[0], lives[3])


def test_network_is_not_trained_after_the_last_step() -> None:
    source, pixels = ready(SyntheticTrainedNetworks(outer_loop=3))
    before = weights(source)
    source.after_step(pixels, last=True)
    after = torch.cat([p.detach().flatten() for p in source.network.module.parameters()])
    assert torch.equal(before, after)


def test_training_lowers_the_loss_on_the_synthetic_set() -> None:
    source, pixels = ready(SyntheticTrainedNetworks(outer_loop=2, inner_epochs=30, lr=0.1))
    images, targets = (tensor.detach() for tensor in pixels())
    before = source.current().loss(images, targets).item()
    source.after_step(pixels, last=False)
    assert source.current().loss(images, targets).item() < 0.5 * before


def test_setup_starts_a_new_outer_loop() -> None:
    source, pixels = ready(SyntheticTrainedNetworks(outer_loop=3))
    source.current()
    source.after_step(pixels, last=False)
    ready(source)
    assert source.state_dict() == {"drawn": 0, "served": 0}


def test_state_inside_an_outer_loop_holds_the_weights() -> None:
    source, pixels = ready(SyntheticTrainedNetworks(outer_loop=3, lr=0.1))
    source.current()
    source.after_step(pixels, last=False)
    state = source.state_dict()
    assert (state["drawn"], state["served"]) == (1, 1)
    other, _ = ready(SyntheticTrainedNetworks(outer_loop=3, lr=0.1))
    other.load_state_dict(state)
    assert torch.equal(weights(other), weights(source))
    source.network.module.requires_grad_(False)
    next(iter(source.network.module.parameters())).zero_()
    assert not torch.equal(weights(other), weights(source)), "the state must be a copy"


def test_weights_that_are_no_longer_finite_stop_the_run() -> None:
    source, pixels = ready(SyntheticTrainedNetworks(outer_loop=2, lr=1e30))
    source.current()
    with pytest.raises(DivergedError, match=r"lower networks\.lr \(now 1e\+30\)"):
        for _ in range(2):
            source.served = 0
            source.after_step(pixels, last=False)


def test_passes_count_the_training_between_steps() -> None:
    hundred = Pixels(10, 10, (1, 8, 8))
    assert FreshNetworks().passes_per_step(hundred) == 0
    assert SyntheticTrainedNetworks(outer_loop=1).passes_per_step(hundred) == 0
    assert SyntheticTrainedNetworks(outer_loop=10, inner_epochs=50).passes_per_step(hundred) == 100 * 450 / 10


@pytest.mark.parametrize("name", ["outer_loop", "inner_epochs", "batch_size", "lr"])
def test_settings_below_their_range_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"networks.{name}=0"):
        SyntheticTrainedNetworks(**{name: 0})


def test_unknown_source_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'synthetic-trained'"):
        registry.create("synthetic_trained")
