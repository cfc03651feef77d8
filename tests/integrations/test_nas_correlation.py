"""Are correlations, their intervals, regret and precision what SciPy and pencil and paper say?"""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from ddkit.errors import ConfigError
from ddkit.integrations.nas import Cost, Entry, Ranking, break_even, compare, difference, mean_spearman
from ddkit.integrations.nas.correlation import kendall, of_resamples, resampled_indices, spearman
from tests.integrations.nas_cases import generator, of_scores

X = np.array([0.1, 0.4, 0.4, 0.9, 0.2, 0.7, 0.7, 0.3])
Y = np.array([0.2, 0.3, 0.5, 0.8, 0.1, 0.9, 0.8, 0.4])


def test_both_correlations_equal_those_of_scipy_with_ties() -> None:
    assert spearman(X[None], Y[None])[0] == pytest.approx(stats.spearmanr(X, Y).statistic, abs=1e-12)
    assert kendall(X[None], Y[None])[0] == pytest.approx(stats.kendalltau(X, Y).statistic, abs=1e-12)


def test_resampled_correlations_equal_those_of_scipy_on_every_resample() -> None:
    indices = resampled_indices(len(X), 50, generator())
    for kind, oracle in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
        ours = of_resamples(kind, X, Y, indices)
        theirs = [oracle(X[index], Y[index]).statistic for index in indices]
        np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_intervals_agree_with_scipys_bootstrap() -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=40)
    x = y + rng.normal(size=40)
    theirs = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=rng,
    ).confidence_interval
    ours = compare(_ranking(x), dict(zip(_names(40), y.tolist(), strict=True))).spearman["all"]
    assert ours.low == pytest.approx(theirs.low, abs=0.04) and ours.high == pytest.approx(theirs.high, abs=0.04)
    assert ours.count == 40 and ours.over == "candidates"


def test_noisy_seeds_widen_the_interval() -> None:
    rng = np.random.default_rng(1)
    y = np.arange(30.0)
    scores = y[:, None] + rng.normal(scale=40, size=(30, 2))
    truth = dict(zip(_names(30), y.tolist(), strict=True))
    several = compare(_ranking(scores), truth).spearman["all"]
    single = compare(_ranking(scores.mean(axis=1)), truth).spearman["all"]
    assert single.value == several.value
    assert (several.high or 0) - (several.low or 0) >= (single.high or 0) - (single.low or 0)


def test_constant_scores_and_fewer_than_five_candidates_are_undefined_not_zero() -> None:
    truth = dict(zip("abcdef", range(6), strict=True))
    assert compare(of_scores(*[0.5] * 6), truth).spearman["all"].value is None
    few = compare(of_scores(1, 2, 3, 4), truth)
    assert few.spearman["all"].value is None and few.spearman["all"].count == 4
    assert str(few.kendall["all"]) == "undefined"
    assert compare(of_scores(1, 2, 3, 4, 5, 6, separates=False), truth).spearman["all"].value is None


def test_regret_and_precision_with_ties_at_the_edge() -> None:
    ranking = of_scores(0.9, 0.9, 0.5, 0.5, 0.1)
    report = compare(ranking, {"a": 0.8, "b": 0.6, "c": 0.9, "d": 0.1, "e": 0.2}, at=(1, 3))
    assert report.selected == ("a", "b") and ranking.best == "a"
    assert report.selected_value == pytest.approx(0.7) and report.regret == pytest.approx(0.2)
    assert report.best == "c"
    assert report.precision == {1: 0.0, 3: pytest.approx(2.5 / 3)}  # a and b, and c for one of two tied places


def test_top_candidates_are_those_of_the_truth_with_their_number() -> None:
    y = np.arange(40.0)
    x = y.copy()
    x[35:] = x[35:][::-1]
    report = compare(_ranking(x), dict(zip(_names(40), y.tolist(), strict=True)), top=(0.125,))
    assert report.spearman["top 12.5%"].count == 5
    assert report.spearman["top 12.5%"].value == pytest.approx(-1)
    assert (report.spearman["all"].value or 0) > 0.98


def test_scores_of_different_rungs_are_never_compared() -> None:
    entries = [Entry(chr(97 + i), "stopped at rung 0", (0.9 - 0.01 * i,), rung=0) for i in range(4)]
    entries += [Entry(chr(101 + i), "ok", (0.1 + 0.1 * i,), rung=1) for i in range(2)]
    ranking = Ranking(tuple(entries))
    assert ranking.ranks == {"f": 1, "e": 2, "a": 3, "b": 4, "c": 5, "d": 6}
    truth = {name: -rank for name, rank in ranking.ranks.items()}
    assert compare(ranking, truth).spearman["all"].value == pytest.approx(1)


def test_missing_truth_is_intersected_and_counted_and_failed_candidates_stay_out() -> None:
    failed = Entry("g", "failed", message="no")
    ranking = Ranking((*of_scores(1, 2, 3, 4, 5, 6).entries, failed))
    report = compare(ranking, {**dict(zip("abcde", range(5), strict=True)), "z": 1.0, "g": 2.0})
    assert report.count == 5 and report.missing == ("f", "z") and report.failed == ("g",)
    assert report.selected == ("e",) and report.best == "e" and report.regret == 0
    blind = compare(ranking, {**dict(zip("abcdef", range(6), strict=True)), "g": 9.0})
    assert blind.best == "g" and blind.regret == 4  # what the failed candidate would have given


def test_the_ceiling_is_the_agreement_of_the_truth_with_itself() -> None:
    pairs = [(float(i), float(i)) for i in range(6)]
    assert compare(of_scores(*range(6)), of_scores(*pairs)).ceiling.value == pytest.approx(1)  # type: ignore[union-attr]
    assert compare(of_scores(*range(6)), of_scores(*map(float, range(6)))).ceiling is None
    assert compare(of_scores(*range(6)), dict(zip("abcdef", range(6), strict=True))).ceiling is None


def test_a_ranking_differs_from_itself_by_nothing_and_from_noise_by_a_lot() -> None:
    rng = np.random.default_rng(2)
    y = np.arange(30.0)
    truth = dict(zip(_names(30), y.tolist(), strict=True))
    good, noise = _ranking(y + rng.normal(size=30)), _ranking(rng.normal(size=30))
    same = difference(good, good, truth)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    apart = difference(good, noise, truth)
    assert apart.low is not None and apart.low > 0 and apart.count == 30
    constant = _ranking(np.zeros(30))
    assert difference(good, constant, truth).value is None
    with pytest.raises(ConfigError, match="same search space"):
        difference(good, of_scores(1, 2), {**truth, "a": 1.0})


def test_repeats_are_averaged() -> None:
    truth = dict(zip("abcdef", range(6), strict=True))
    up, down = of_scores(*range(6)), of_scores(*range(6)[::-1])
    mean = mean_spearman([up, down, up], truth)
    assert mean.value == pytest.approx(1 / 3)
    assert difference([up, down], up, truth).value == pytest.approx(-1)


def test_repeats_that_disagree_widen_the_interval_and_the_best_by_the_truth_can_be_looked_at_alone() -> None:
    y = np.arange(30.0)
    truth = dict(zip(_names(30), y.tolist(), strict=True))
    rng = np.random.default_rng(4)
    good, bad = _ranking(y + rng.normal(scale=4, size=30)), _ranking(rng.normal(size=30))
    alone, mixed = mean_spearman([good], truth), mean_spearman([good, bad], truth)
    assert (alone.over, mixed.over) == ("candidates", "candidates and repeats")
    assert mixed.high is not None and mixed.low is not None and bad.compare(truth).spearman["all"].value is not None
    assert mixed.high > (alone.low or 1) and mixed.low < 0.3  # either repeat may be the one that is drawn
    assert mixed.value == pytest.approx(
        np.mean([one.compare(truth).spearman["all"].value for one in (good, bad)])  # type: ignore[misc]
    )
    top = mean_spearman([good], truth, top=0.2)
    assert top.count == 6 and top.value == good.compare(truth).spearman["top 20%"].value


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ConfigError, match="candidate 'b' has the scores"):
        of_scores(1.0, float("nan"))


@pytest.mark.parametrize(
    "options, words",
    [({"top": (0,)}, "top=0"), ({"at": (0,)}, "at=0"), ({"resamples": 10}, "resamples=10")],
)
def test_bad_options_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        compare(of_scores(1, 2), {"a": 1.0, "b": 2.0}, **options)  # type: ignore[arg-type]


def test_a_truth_that_fits_nothing_or_is_not_finite_is_refused() -> None:
    with pytest.raises(ConfigError, match="same search space"):
        compare(of_scores(1, 2), {"z": 1.0})
    with pytest.raises(ConfigError, match="candidate 'a' is nan"):
        compare(of_scores(1, 2), {"a": float("nan"), "b": 1.0})


def test_break_even_counts_the_candidates_that_pay_for_the_set() -> None:
    proxy = Cost(cpu_seconds=10, preparation_seconds=90)
    assert break_even(proxy, Cost(cpu_seconds=40), 10) == pytest.approx(30)
    assert break_even(proxy, Cost(cpu_seconds=5), 10) is None
    assert break_even(proxy, Cost(cpu_seconds=40, preparation_seconds=60), 10) == pytest.approx(10)  # both are fixed
    assert break_even(proxy, Cost(cpu_seconds=40, preparation_seconds=95), 10) == 0


def test_a_report_is_json_and_equal_seeds_give_equal_reports() -> None:
    truth = of_scores(*[(float(i), i + 0.4) for i in range(8)])
    ranking = of_scores(*[(float(i % 5), i % 3 + 0.0) for i in range(8)])
    first, second = (json.dumps(ranking.compare(truth, seed=3).as_dict()) for _ in range(2))
    assert first == second


def _names(count: int) -> list[str]:
    return [f"n{index}" for index in range(count)]


def _ranking(scores: np.ndarray) -> Ranking:
    rows = scores.reshape(len(scores), -1).tolist()
    return Ranking(tuple(Entry(name, "ok", tuple(row)) for name, row in zip(_names(len(rows)), rows, strict=True)))
