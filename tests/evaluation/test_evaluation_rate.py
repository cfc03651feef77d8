"""Curves of accuracy against bytes: what follows from given points, exactly."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ddkit.evaluation.rate import Curve, Pair, Point, byte_ratio, crossovers, mean_gap, running_maximum

OURS = [(2.0, 0.5), (4.0, 0.25), (8.0, 0.75)]
THEIRS = [(1.0, 0.25), (4.0, 0.5), (16.0, 0.75)]
PAIRS = st.lists(
    st.tuples(st.integers(0, 12).map(lambda power: 2.0**power), st.integers(0, 16).map(lambda parts: parts / 16)),
    min_size=1,
    max_size=7,
)


def point(kind: str, payload: float, *accuracies: float, distilled: bool = False) -> Point:
    return Point(
        kind=kind, distilled=distilled, run="a", codec=None, payload=payload, images=3, accuracies=(accuracies,)
    )


def curve(*points: Point) -> Curve:
    return Curve(data="toy", classes=2, model="convnet", recipe="dsa", points=points)


def test_running_maximum_keeps_what_beats_all_that_take_fewer_bytes() -> None:
    assert running_maximum(OURS) == [(2.0, 0.5), (8.0, 0.75)]
    assert running_maximum([(4.0, 0.5), (4.0, 0.75), (2.0, 0.25), (8.0, 0.75)]) == [(2.0, 0.25), (4.0, 0.75)]


def test_gap_is_the_mean_over_the_logarithm_of_the_common_bytes() -> None:
    # from 2 to 4 bytes 0.5 against 0.25, from 4 to 8 both 0.5
    assert mean_gap(OURS, THEIRS) == 0.125
    # three octaves in which the gap is 0.25, and one in which it is -0.5
    assert mean_gap([(1.0, 0.5), (16.0, 0.5)], [(1.0, 0.25), (8.0, 1.0), (16.0, 1.0)]) == 0.0625


def test_ratio_is_two_to_the_mean_difference_at_equal_accuracy() -> None:
    assert byte_ratio(OURS, THEIRS) == 0.5  # for more than 0.5 up to 0.75: 8 bytes against 16
    # half of the accuracies for 4 bytes against 1, half for 4 against 16
    assert byte_ratio([(1.0, 0.0), (4.0, 1.0)], [(0.5, 0.0), (1.0, 0.5), (16.0, 1.0)]) == 1.0
    assert byte_ratio([(1.0, 0.0), (4.0, 1.0)], [(0.5, 0.0), (1.0, 0.5), (4.0, 1.0)]) == 2.0


def test_lead_passes_where_its_sign_changes() -> None:
    ours, theirs = [(1.0, 0.5), (8.0, 0.5), (16.0, 1.0)], [(1.0, 0.25), (2.0, 0.5), (4.0, 0.75), (32.0, 0.75)]
    assert crossovers(ours, theirs) == crossovers(theirs, ours) == [4.0, 16.0]
    assert crossovers(OURS, THEIRS) == []
    # the last bytes in common count
    assert crossovers([(1.0, 0.5), (8.0, 0.5)], [(1.0, 0.25), (8.0, 0.75)]) == [8.0]


def test_curves_without_common_bytes_or_accuracies_have_no_figures() -> None:
    few, many = [(1.0, 0.25), (2.0, 0.5)], [(4.0, 0.75), (8.0, 1.0)]
    assert mean_gap(few, many) is None and byte_ratio(few, many) is None and crossovers(few, many) == []
    assert mean_gap([(2.0, 0.5)], [(2.0, 0.25)]) is None
    assert byte_ratio([(2.0, 0.5)], [(2.0, 0.25)]) is None


@settings(max_examples=200, deadline=None)
@given(PAIRS, PAIRS)
def test_figures_change_sign_with_the_sides(ours: list[Pair], theirs: list[Pair]) -> None:
    gap, ratio = mean_gap(ours, theirs), byte_ratio(ours, theirs)
    back, other = mean_gap(theirs, ours), byte_ratio(theirs, ours)
    assert (gap is None) == (back is None) and (ratio is None) == (other is None)
    if gap is not None and back is not None:
        assert math.isclose(gap, -back, abs_tol=1e-12) and abs(gap) <= 1
    if ratio is not None and other is not None:
        assert math.isclose(ratio * other, 1)
    assert crossovers(ours, theirs) == crossovers(theirs, ours)


@settings(max_examples=100, deadline=None)
@given(PAIRS, st.integers(1, 5))
def test_the_same_set_in_more_bytes_needs_as_many_times_the_bytes(ours: list[Pair], times: int) -> None:
    ratio = byte_ratio([(size * times, accuracy) for size, accuracy in ours], ours)
    assert ratio is None or math.isclose(ratio, times)


def test_curve_compares_distilled_kinds_with_baselines_in_bytes_per_class() -> None:
    drawn = curve(
        point("random-bytes", 2, 0.25),
        point("random-bytes", 8, 0.5),
        point("dm", 4, 0.5, distilled=True),
        point("dm", 16, 0.75, distilled=True),
        point("random-best", 64, 0.75),
    )
    assert list(drawn.kinds()) == ["dm", "random-bytes", "random-best"]
    first, second = drawn.leads()
    assert (first.kind, first.baseline, first.bytes) == ("dm", "random-bytes", (2.0, 4.0))
    assert first.gap == 0.25 and first.ratio is None and first.crossovers == ()
    assert (second.baseline, second.bytes, second.gap, second.ratio) == ("random-best", None, None, None)


def test_points_have_intervals_over_networks_and_over_three_draws() -> None:
    assert point("dm", 4, 0.5).interval95 is None
    low, high = point("dm", 4, 0.5, 0.75).interval95 or (0.0, 0.0)
    assert low == 0.0 and high == 1.0  # within what accuracies can be
    draws = point("random-bytes", 4, 0.5).model_copy(update={"accuracies": ((0.5,), (0.5, 0.5), (0.5,))})
    assert draws.mean == 0.5 and draws.interval95 == (0.5, 0.5)


def test_what_was_written_is_read_back() -> None:
    drawn = curve(point("dm", 4, 0.5, 0.75, distilled=True), point("random-bytes", 4, 0.5))
    content = drawn.as_dict()
    assert content["points"][0]["mean"] == 0.625 and content["points"][0]["bytes_per_class"] == 2.0
    assert content["leads"][0]["kind"] == "dm"
    assert Curve.model_validate(content) == drawn


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": 0.0}, {"payload": math.inf}, {"accuracies": ()}, {"accuracies": ((),)}, {"accuracies": ((1.5,),)},
        {"accuracies": ((math.nan,),)}, {"kind": "$x$"}, {"kind": ""}, {"images": 0},
    ],
    ids=str,
)  # fmt: skip
def test_points_that_make_no_sense_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Point.model_validate({**point("dm", 4, 0.5).model_dump(), **changes})
