"""Are quantities written as people expect them?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ddkit.evaluation.report import facts, formats


@pytest.mark.parametrize(
    ("write", "value", "text"),
    [
        (formats.percent, 0.9754, "97.5"),
        (formats.percent, None, "–"),
        (formats.points, 0.012, "+1.2"),
        (formats.points, -0.012, "−1.2"),
        (formats.points, 0.0001, "±0.0"),
        (formats.count, 60000, "60,000"),
        (formats.size, 12, "12 B"),
        (formats.size, 313_600, "314 kB"),
        (formats.size, 9_990, "9.99 kB"),
        (formats.size, 999_600, "1.00 MB"),
        (formats.size, 2.5e15, "2500 TB"),
        (formats.duration, 0.416, "0.42 s"),
        (formats.duration, 42.13, "42.1 s"),
        (formats.duration, 59.97, "1 min 0 s"),
        (formats.duration, 725, "12 min 5 s"),
        (formats.duration, 3599.7, "1 h 0 min"),
        (formats.ratio, 600.4, "600×"),
        (formats.ratio, 3.68, "3.7×"),
        (formats.number, 0.02129, "0.02129"),
        (formats.number, math.nan, "–"),
        (formats.size, "many", "–"),
    ],
)
def test_quantities_are_written_for_people(write: Callable[[Any], str], value: Any, text: str) -> None:
    assert write(value).replace("\u00a0", " ") == text


def test_interval_needs_both_ends() -> None:
    assert formats.interval(0.969, 0.978).replace("\u00a0", " ") == "96.9 – 97.8"
    assert formats.interval(None, 0.978) == "–"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dm", "DM"),
        ("cifar10", "CIFAR-10"),
        ("convnet(depth=3,width=128)", "ConvNet (depth 3, width 128)"),
        ("my-method", "my-method"),
    ],
)
def test_names_are_displayed_as_papers_write_them(name: str, text: str) -> None:
    assert facts.display_name(name) == text
