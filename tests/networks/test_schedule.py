"""CAFE's schedule, fed with scripted accuracies, against what follows by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, repeat

import pytest

from ddkit.errors import ConfigError
from ddkit.networks.schedule import DynamicSchedule


def play(schedule: DynamicSchedule, accuracies: Iterator[float], updates: int = 1000) -> list[int]:
    """Serve one network: the number of inner epochs after each of its updates."""
    epochs: list[int] = []

    def train() -> None:
        epochs[-1] += 1

    schedule.restart()
    for _ in range(updates):
        epochs.append(0)
        if not schedule.updated(lambda: next(accuracies), train):
            break
    return epochs


def two_levels(schedule: DynamicSchedule, outer: Callable[[int], float]) -> list[int]:
    """Serve a network whose accuracy after update n is ``outer(n)`` and always rises in the inner loop."""
    epochs: list[int] = []
    script = {"inner": 0.0, "update": True}

    def accuracy() -> float:
        if script["update"]:
            script["update"] = False
            return outer(len(epochs))
        script["inner"] += 0.01
        return script["inner"]

    def train() -> None:
        epochs[-1] += 1

    schedule.restart()
    while True:
        epochs.append(0)
        script["update"] = True
        if not schedule.updated(accuracy, train):
            return epochs


def test_network_whose_accuracy_stands_still_between_updates_serves_one_window() -> None:
    schedule = DynamicSchedule(window=10)
    assert two_levels(schedule, lambda update: 0.5) == [10] * 9 + [0]
    assert schedule.counts == {"updates": 10, "inner_epochs": 90}


def test_training_ends_once_the_accuracy_has_moved() -> None:
    """Rising by 0.01 per query: ten queries span 0.09 > 0.03, and outer ones, eleven apart, never stand still."""
    rising = (0.01 * n for n in count())
    schedule = DynamicSchedule(window=10, max_updates=15)
    assert play(schedule, rising) == [10] * 14 + [0]
    assert schedule.counts == {"updates": 15, "inner_epochs": 140, "update_caps": 1}


def test_slow_rise_is_waited_for() -> None:
    """0.002 per query: the window of ten spans 0.018, so a jump has to come before the training ends."""
    slow = [0.002 * n for n in range(15)]
    schedule = DynamicSchedule(window=10)
    assert play(schedule, iter([0.0, *slow, 0.5]), updates=1) == [16]


def test_window_slides() -> None:
    """A jump in the first query of the inner loop has left a window of three after three more."""
    accuracies = iter([0.5, 0.9, 0.5, 0.5])
    schedule = DynamicSchedule(window=3, inner_threshold=0.3, max_inner_epochs=20)
    assert play(schedule, accuracies, updates=1) == [3]
    late = iter([0.5, 0.5, 0.5, 0.5, 0.5, 0.9])
    assert play(schedule, late, updates=1) == [5]


def test_outer_window_forgets_the_first_changes() -> None:
    """0.1 to 0.5 in five updates, then still: updates six to nine fill a window of four with 0.5."""
    schedule = DynamicSchedule(window=4)
    epochs = two_levels(schedule, lambda update: min(0.1 * update, 0.5))
    assert len(epochs) == 8 and epochs[-1] == 0


@pytest.mark.parametrize(("change", "updates"), [(0.04, 3), (0.039, 2)])
def test_range_equal_to_the_outer_threshold_keeps_the_network(change: float, updates: int) -> None:
    schedule = DynamicSchedule(window=2, outer_threshold=0.04, inner_threshold=0.005, max_updates=3)
    assert len(two_levels(schedule, lambda update: change * (update % 2))) == updates


def test_range_equal_to_the_inner_threshold_goes_on_training() -> None:
    schedule = DynamicSchedule(window=2, inner_threshold=0.25)
    assert play(schedule, iter([0.0, 0.0, 0.25, 0.5, 0.75, 0.0]), updates=1) == [5]


def test_accuracy_that_never_moves_again_ends_the_network_at_the_cap() -> None:
    schedule = DynamicSchedule(window=10, max_inner_epochs=10)
    assert play(schedule, repeat(0.5)) == [10]
    assert schedule.counts == {"updates": 1, "inner_epochs": 10, "inner_caps": 1}


def test_new_network_has_a_new_window() -> None:
    schedule = DynamicSchedule(window=10)
    assert two_levels(schedule, lambda update: 0.5) == two_levels(schedule, lambda update: 0.5) == [10] * 9 + [0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "networks.window=1 must be at least 2"),
        ({"outer_threshold": 0.0}, "networks.outer_threshold=0.0"),
        ({"inner_threshold": 1.0}, "networks.inner_threshold=1.0"),
        ({"inner_threshold": float("nan")}, "networks.inner_threshold=nan"),
        ({"max_inner_epochs": 9}, "networks.max_inner_epochs=9 must be at least networks.window=10"),
        ({"max_updates": 9}, "networks.max_updates=9 must be at least networks.window=10"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DynamicSchedule(**options)
