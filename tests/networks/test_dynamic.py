"""Networks that live by their accuracy: what is queried, when they are trained, what a checkpoint knows."""

from __future__ import annotations

import pytest
import torch

from ddkit.errors import ConfigError, DivergedError
from ddkit.networks import DynamicNetworks
from ddkit.synthesis import Pixels
from tests.networks.bench import present, ready, same_after_resuming, walk, weights

SMALL = {"window": 2, "query": 4, "lr": 0.1, "max_inner_epochs": 4, "max_updates": 3}


def scripted(source: DynamicNetworks, accuracies: list[float]) -> list[tuple[int, str]]:
    """Let the signal answer with ``accuracies``; returns the list to which its queries are added."""
    asked: list[tuple[int, str]] = []
    answers = iter(accuracies)

    def accuracy(network: object, per_class: int, stream: str) -> float:
        asked.append((per_class, stream))
        return next(answers)

    source.setting.signal.accuracy = accuracy  # type: ignore[method-assign]
    return asked


def test_accuracy_decides_over_training_and_the_next_network() -> None:
    source, pixels = ready(DynamicNetworks(**SMALL, outer_threshold=0.3, inner_threshold=0.2))
    # Update 1: three epochs until the range of two accuracies exceeds 0.2. Update 2: range 0.1 < 0.3, left.
    asked = scripted(source, [0.5, 0.1, 0.2, 0.9, 0.6, 0.5, 0.1, 0.9])
    first, second, third = walk(source, pixels, 3)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    assert dict(source.counts) == {"updates": 3, "inner_epochs": 5}
    assert source.drawn == 2 and asked == [(4, "query")] * 8
    fresh, _ = ready(DynamicNetworks(**SMALL))
    assert torch.equal(first, weights(fresh))
    assert torch.equal(third, weights(fresh))


def test_network_is_not_trained_once_it_is_left() -> None:
    source, pixels = ready(DynamicNetworks(**SMALL, outer_threshold=0.3, inner_threshold=0.2))
    scripted(source, [0.5, 0.1, 0.9, 0.5])
    walk(source, pixels, 1)
    before = weights(source)
    source.after_step(pixels, last=False)
    assert torch.equal(before, present(source))


def test_nothing_is_asked_after_the_last_step() -> None:
    source, pixels = ready(DynamicNetworks(**SMALL))
    asked = scripted(source, [])
    before = weights(source)
    source.after_step(pixels, last=True)
    assert asked == [] and torch.equal(before, present(source))


def test_age_counts_networks_and_their_updates() -> None:
    source, pixels = ready(DynamicNetworks(**SMALL, outer_threshold=0.3, inner_threshold=0.2))
    scripted(source, [0.5, 0.1, 0.9, 0.5, 0.5, 0.1, 0.9])
    ages = []
    for _ in range(3):
        source.current()
        ages.append(source.age())
        source.after_step(pixels, last=False)
    assert ages == [(0, 0), (0, 1), (1, 0)]


def test_training_lowers_the_loss_on_the_synthetic_set() -> None:
    options = {**SMALL, "window": 2, "max_inner_epochs": 40, "inner_threshold": 0.99}
    source, pixels = ready(DynamicNetworks(**options))
    images, targets = (tensor.detach() for tensor in pixels())
    before = source.current().loss(images, targets).item()
    source.after_step(pixels, last=False)
    assert source.network.loss(images, targets).item() < 0.5 * before
    assert source.counts["inner_caps"] == 1


def test_inner_epochs_use_the_augmentation_of_the_run() -> None:
    def trained(strategy: str) -> torch.Tensor:
        options = {**SMALL, "outer_threshold": 0.3, "inner_threshold": 0.2}
        source, pixels = ready(DynamicNetworks(**options), strategy=strategy)
        scripted(source, [0.5, 0.1, 0.9])
        return walk(source, pixels, 1)[0] - present(source)

    assert torch.equal(trained("crop"), trained("crop"))
    assert not torch.equal(trained("crop"), trained("none"))


@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_resumed_source_goes_on_with_the_same_networks(before: int) -> None:
    same_after_resuming(DynamicNetworks, SMALL, before, 8)


def test_resumed_source_keeps_its_counts_and_its_window() -> None:
    options = {**SMALL, "outer_threshold": 0.3, "inner_threshold": 0.2}
    source, pixels = ready(DynamicNetworks(**options))
    scripted(source, [0.5, 0.1, 0.9])
    walk(source, pixels, 1)
    other, pixels = ready(DynamicNetworks(**options))
    other.load_state_dict(source.state_dict())
    assert dict(other.counts) == {"updates": 1, "inner_epochs": 2}
    scripted(other, [0.6])
    other.current()
    other.after_step(pixels, last=False)
    assert other.served == 0, "0.5 from before the checkpoint and 0.6 make a window that stands still"


def test_setup_starts_from_nothing() -> None:
    source, pixels = ready(DynamicNetworks(**SMALL))
    walk(source, pixels, 2)
    ready(source)
    assert source.state_dict() == {"drawn": 0, "served": 0, "outer": [], "counts": {}}


def test_weights_that_are_no_longer_finite_stop_the_run() -> None:
    source, pixels = ready(DynamicNetworks(**{**SMALL, "lr": 1e30}))
    with pytest.raises(DivergedError, match=r"trained on the synthetic set: lower networks\.lr \(now 1e\+30\)"):
        walk(source, pixels, 4)


def test_passes_count_training_and_a_third_of_the_queries() -> None:
    assert DynamicNetworks().passes_per_step(Pixels(10, 10, (1, 8, 8))) == 10 * 100 + 11 * 128 * 10 / 3


@pytest.mark.parametrize(
    ("name", "value"), [("query", 0), ("batch_size", 0), ("lr", 0.0), ("window", 1), ("max_updates", 3)]
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"networks.{name}={value}"):
        DynamicNetworks(**{name: value})
