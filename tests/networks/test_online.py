"""The online network: its steps are Adam's, it starts anew when it stops improving, its ages say how long to train."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from ddkit.errors import ConfigError, DivergedError
from ddkit.networks import FreshNetworks, OnlineNetwork
from ddkit.synthesis import Pixels
from tests.networks.bench import present, ready


def gradient_at(weights: Tensor) -> Tensor:
    return torch.sin(weights + torch.arange(len(weights)))


def advance(source: OnlineNetwork, pixels: Pixels, error: float = 0.5, *, last: bool = False) -> Tensor:
    """Take one step as an objective and the engine would; return the weights it started from."""
    source.current()
    weights = present(source)
    source.observe(gradient_at(weights), images=3, error=error)
    source.after_step(pixels, last=last)
    return weights


def run(source: OnlineNetwork, pixels: Pixels, errors: list[float]) -> list[int]:
    """Return the number of the network that served each step."""
    served = []
    for error in errors:
        advance(source, pixels, error)
        served.append(source.drawn)
    return served


def test_network_advances_by_adam_on_what_it_observes() -> None:
    source, pixels = ready(OnlineNetwork(lr=0.01))
    start = advance(source, pixels)
    weights = torch.nn.Parameter(start.clone())
    adam = torch.optim.Adam([weights], lr=0.01)
    for _ in range(4):
        weights.grad = gradient_at(weights.detach())
        adam.step()
        torch.testing.assert_close(present(source), weights.detach())
        advance(source, pixels)


def test_gradients_do_not_stay_on_the_network() -> None:
    source, pixels = ready(OnlineNetwork())
    advance(source, pixels)
    assert all(weight.grad is None for weight in source.network.module.parameters())


def test_network_starts_anew_when_the_averaged_error_stops_improving() -> None:
    source, pixels = ready(OnlineNetwork(gap=2))
    # Averages of two: 0.85, 0.75, 0.7, 0.7, 0.7; the best is that of step 4, more than two steps ago at step 7.
    errors = [0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7]
    assert run(source, pixels, errors) == [1] * 7
    assert source.ages == [4]
    before = present(source)
    first = advance(source, pixels, 0.7)
    assert source.drawn == 2 and source.age() == (1, 1) and not torch.equal(first, before)
    # Adam is new as well: its first step moves every weight by the learning rate.
    moved = (present(source) - first).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.001), rtol=0, atol=2e-5)
    assert run(source, pixels, [0.1] * 5)[-1] == 2, "the statistics are those of the new network"


def test_noise_below_the_average_does_not_end_a_life() -> None:
    source, pixels = ready(OnlineNetwork(gap=3))
    improving = [0.9 - 0.01 * step + 0.05 * (-1) ** step for step in range(30)]
    assert set(run(source, pixels, improving)) == {1}


def test_ages_become_epochs_of_the_recipe() -> None:
    source, pixels = ready(OnlineNetwork(gap=50))
    assert source.recipe_changes(pixels) == {}
    for _ in range(8):
        advance(source, pixels)
    assert source.recipe_changes(pixels) == {"epochs": 4, "batch_size": 3}  # 8 steps of 3 of 6 images
    source.ages = [1000, 10, 20, 31]
    assert source.training_steps == 20
    assert source.recipe_changes(pixels) == {"epochs": 10, "batch_size": 3}
    assert source.metadata() == {"networks": 1, "ages": [10, 20, 31], "training_steps": 20}


def test_a_network_that_was_never_restarted_is_warned_about() -> None:
    source, pixels = ready(OnlineNetwork())
    with pytest.warns(UserWarning, match=r"never restarted within 0 steps.*lower networks\.gap \(now 50\)"):
        advance(source, pixels, last=True)
    source.ages = [3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advance(source, pixels, last=True)


@pytest.mark.parametrize("before", [0, 1, 5, 7, 9])
def test_saved_state_goes_on_as_if_nothing_had_happened(before: int) -> None:
    errors = [0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5, 0.6, 0.6, 0.6]
    source, pixels = ready(OnlineNetwork(gap=2))
    run(source, pixels, errors[:before])
    state, streams = source.state_dict(), source.streams.state_dict()
    expected = [advance(source, pixels, error) for error in errors[before:]]
    other, pixels = ready(OnlineNetwork(gap=2), seed=7)
    other.load_state_dict(state)
    other.streams.seed = 0
    other.streams.load_state_dict(streams)
    for mine, theirs in zip([advance(other, pixels, error) for error in errors[before:]], expected, strict=True):
        assert torch.equal(mine, theirs)
    assert other.state_dict()["ages"] == source.ages and other.drawn == source.drawn


def test_an_objective_that_hands_over_no_gradient_is_refused() -> None:
    source, pixels = ready(OnlineNetwork())
    source.current()
    with pytest.raises(ConfigError, match="networks=online advances with the gradient"):
        source.after_step(pixels, last=False)


def test_weights_that_are_no_longer_finite_stop_the_run() -> None:
    source, pixels = ready(OnlineNetwork(lr=0.5))
    weights = source.current() and present(source)
    source.observe(torch.full_like(weights, float("nan")), images=3, error=0.5)
    with pytest.raises(DivergedError, match=r"lower networks\.lr \(now 0\.5\)"):
        source.after_step(pixels, last=False)


@pytest.mark.parametrize("options", [{"gap": 0}, {"lr": 0.0}, {"lr": float("inf")}])
def test_options_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError, match=rf"networks\.{next(iter(options))}="):
        OnlineNetwork(**options)


def test_other_sources_ignore_what_is_observed() -> None:
    source, pixels = ready(FreshNetworks())
    source.current()
    before = present(source)
    source.observe(torch.ones_like(before), images=1, error=0.0)
    source.after_step(pixels, last=False)
    assert torch.equal(present(source), before) and source.recipe_changes(pixels) == {}
