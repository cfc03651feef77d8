"""Are mean, spread and interval those of the definitions?"""

from __future__ import annotations

import math

import pytest

from ddkit.errors import ConfigError
from ddkit.evaluation import paired_difference, summary, two_level


def test_three_values_have_the_hand_computed_statistics() -> None:
    result = summary([0.5, 0.6, 0.7])
    assert math.isclose(result.mean, 0.6)
    assert math.isclose(result.std, 0.08165, abs_tol=1e-5)
    assert result.half_width95 is not None
    assert math.isclose(result.half_width95, 4.302653 * 0.1 / math.sqrt(3), rel_tol=1e-6)
    assert math.isclose(result.half_width95, 0.2484, abs_tol=1e-4)
    assert result.interval95 == (result.mean - result.half_width95, result.mean + result.half_width95)


def test_single_value_has_no_interval() -> None:
    result = summary([0.4])
    assert (result.mean, result.std, result.interval95) == (0.4, 0.0, None)


@pytest.mark.parametrize("values", [[], [0.1, float("nan")], [float("inf")]])
def test_unusable_values_are_refused(values: list[float]) -> None:
    with pytest.raises(ConfigError, match="finite"):
        summary(values)


def test_pooled_variance_splits_into_its_two_levels() -> None:
    result = two_level([[0.5, 0.7], [0.6, 0.6], [0.2, 0.4]])
    assert math.isclose(result.pooled_std**2, result.between_sets_std**2 + result.between_networks_std**2)
    assert math.isclose(result.between_sets_std, math.sqrt((0.1**2 + 0.1**2 + 0.2**2) / 3))
    assert result.interval_over == "sets"
    assert result.half_width95 == pytest.approx(summary([0.6, 0.6, 0.3]).half_width95)


def test_interval_of_two_sets_is_over_networks() -> None:
    result = two_level([[0.5, 0.7], [0.6, 0.8]])
    assert result.interval_over == "networks"
    assert result.half_width95 == summary([0.5, 0.7, 0.6, 0.8]).half_width95
    assert two_level([[0.5]]).interval95 is None


def test_pairing_removes_the_common_spread() -> None:
    base = [0.2, 0.5, 0.8]
    better = [0.22, 0.53, 0.81]
    result = paired_difference(better, base)
    assert result.differences.mean == pytest.approx(0.02)
    assert result.differences.std < summary(base).std / 10
    # t = 0.02 / (0.01 / sqrt(3)) with 2 degrees of freedom; p = 1 - t / sqrt(t^2 + 2)
    t = 0.02 / (0.01 / math.sqrt(3))
    assert result.p_value == pytest.approx(1 - t / math.sqrt(t * t + 2))


def test_pairs_must_be_equally_many() -> None:
    with pytest.raises(ConfigError, match="3 and 2"):
        paired_difference([0.1, 0.2, 0.3], [0.1, 0.2])


def test_summary_in_percent() -> None:
    assert summary([0.5, 0.6]).percent() == "55.0 ± 5.0"
