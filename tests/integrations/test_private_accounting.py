"""Do Opacus's accountants, the independent computation and the literature agree, and does a budget hold?"""

from __future__ import annotations

import copy
import math
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from opacus.accountants.utils import get_noise_multiplier

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.integrations.private import (
    Plan,
    PrivacyBudget,
    PrivacyBudgetError,
    Queries,
    calibrate,
    gaussian_epsilon,
    independent_epsilon,
    plan_epsilon,
    replace_one_epsilon,
)
from ddkit.integrations.private.independent import gaussian_delta, renyi_divergence, renyi_epsilon

DELTA = 1e-5


@pytest.mark.parametrize(("epsilon", "sigma"), [(1, 3.731), (10, 0.500)])
def test_the_analytic_gaussian_mechanism_has_its_known_noise(epsilon: float, sigma: float) -> None:
    assert gaussian_epsilon(sigma, DELTA) == pytest.approx(epsilon, rel=1e-3)
    assert gaussian_delta(sigma, epsilon) == pytest.approx(DELTA, rel=2e-2)


@pytest.mark.parametrize(("epsilon", "prv", "rdp"), [(1, 3.789, 4.063), (10, 0.501, 0.530)])
def test_one_shot_noise_is_that_of_the_accountants_and_covers_the_analytic_one(
    epsilon: float, prv: float, rdp: float
) -> None:
    by_prv, by_rdp = (calibrate(epsilon, DELTA, 1.0, 1, name) for name in ("prv", "rdp"))
    assert by_prv == pytest.approx(prv, rel=0.01) and by_rdp == pytest.approx(rdp, rel=0.01)
    assert gaussian_epsilon(by_prv, DELTA) <= epsilon and gaussian_epsilon(by_rdp, DELTA) <= epsilon


def test_the_textbook_formula_would_give_too_little_noise_at_large_epsilon() -> None:
    textbook = math.sqrt(2 * math.log(1.25 / DELTA)) / 10
    assert gaussian_epsilon(textbook, DELTA) > 10
    assert calibrate(10, DELTA, 1.0, 1) > textbook


def test_calibrated_noise_is_close_to_what_opacus_itself_finds() -> None:
    theirs = get_noise_multiplier(target_epsilon=2, target_delta=DELTA, sample_rate=0.01, steps=500, accountant="rdp")
    assert calibrate(2, DELTA, 0.01, 500, "rdp") == pytest.approx(theirs, rel=0.01)


@pytest.mark.parametrize(
    ("plan", "accountant"),
    [
        (Queries(2.0, 0.1, 20), "prv"),
        (Queries(3.0, 1.0, 2), "prv"),
        (Queries(2.0, 0.1, 50), "rdp"),
        (Queries(0.9, 0.02, 100), "rdp"),
    ],
)
def test_calibration_undoes_accounting(plan: Queries, accountant: str) -> None:
    epsilon = plan_epsilon([plan], DELTA, accountant)  # type: ignore[arg-type]
    sigma = calibrate(epsilon, DELTA, plan.rate, plan.steps, accountant)  # type: ignore[arg-type]
    assert sigma == pytest.approx(plan.sigma, rel=5e-3)
    assert plan_epsilon([Queries(sigma, plan.rate, plan.steps)], DELTA, accountant) <= epsilon  # type: ignore[arg-type]


@pytest.mark.parametrize("plan", [Queries(1.0, 0.01, 1000), Queries(2.5, 0.1, 100), Queries(0.8, 0.05, 20)])
def test_integrated_renyi_divergences_agree_with_opacus_and_bound_the_prv_figure(plan: Queries) -> None:
    own, how = independent_epsilon([plan], DELTA)
    assert own == pytest.approx(plan_epsilon([plan], DELTA, "rdp"), rel=5e-3)
    assert plan_epsilon([plan], DELTA, "prv") < own
    assert "integrated" in how


def test_integrated_divergence_is_the_closed_form_where_there_is_one() -> None:
    # Order 2: log(1 + q^2 (exp(1/sigma^2) - 1)), Wang, Balle and Kasiviswanathan 2019.
    q, sigma = 0.05, 1.3
    assert renyi_divergence(q, sigma, 2.0) == pytest.approx(math.log1p(q**2 * math.expm1(sigma**-2)), rel=1e-6)
    assert renyi_divergence(1.0, sigma, 3.0) == pytest.approx(3 / (2 * sigma**2))


def test_a_composition_of_different_queries_costs_more_than_each_and_less_than_their_sum() -> None:
    first, second = Queries(4.0, 1.0, 1), Queries(2.0, 0.05, 50)
    both = plan_epsilon([first, second], DELTA)
    alone = [plan_epsilon([one], DELTA) for one in (first, second)]
    assert max(alone) < both < sum(alone)
    assert renyi_epsilon([first, second], DELTA) >= both * 0.99


@pytest.mark.parametrize(("sigma", "replaced"), [(3.731, 2.15), (0.500, 24.4)])
def test_replacing_a_record_of_a_one_shot_release_costs_what_half_the_noise_does(sigma: float, replaced: float) -> None:
    assert replace_one_epsilon([Queries(sigma, 1.0, 1)], DELTA) == pytest.approx(replaced, rel=0.01)


def test_replacing_a_record_of_sampled_queries_is_bounded_by_two_neighbours() -> None:
    plan = [Queries(2.0, 0.05, 50)]
    bound = replace_one_epsilon(plan, DELTA)
    assert bound >= 2 * plan_epsilon(plan, DELTA, "rdp")
    assert replace_one_epsilon([Queries(0.05, 0.5, 50)], DELTA) == math.inf


def test_an_empty_ledger_has_no_epsilon_to_report() -> None:
    with pytest.raises(ConfigError, match="an empty ledger has no epsilon"):
        plan_epsilon([], DELTA)


@pytest.mark.parametrize("accountant", ["prv", "rdp"])
def test_an_epsilon_that_no_noise_reaches_is_refused(accountant: str) -> None:
    with pytest.raises(ConfigError, match=r"epsilon=0\.001 at delta=1e-05 cannot be reached by 10 queries"):
        calibrate(0.001, DELTA, 0.5, 10, accountant)  # type: ignore[arg-type]


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 1e-5), (-1, 1e-5), (math.inf, 1e-5), (1, 0), (1, 1)])
def test_a_budget_refuses_numbers_that_promise_nothing(epsilon: float, delta: float) -> None:
    with pytest.raises(ConfigError, match="must"):
        PrivacyBudget(epsilon, delta)


def test_a_budget_refuses_an_unknown_accountant() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rdp'"):
        PrivacyBudget(1, 1e-5, "rpd")  # type: ignore[arg-type]


def test_a_plan_beyond_the_budget_is_refused_before_any_query() -> None:
    budget = PrivacyBudget(1, DELTA)
    with pytest.raises(PrivacyBudgetError, match="above the budget of 1"):
        budget.plan(Queries(1.0, 1.0, 1))
    assert budget.ledger == () and budget.spent() == 0


def test_fits_on_one_budget_add_up_and_the_second_gets_what_is_left() -> None:
    budget = PrivacyBudget(2, DELTA)
    first = budget.plan(Queries(budget.calibrate(1.0, 1, 1.0), 1.0, 1))
    first.charge(first.queries.sigma, 1.0)
    assert budget.spent() == pytest.approx(1.0, abs=0.02)
    left = budget.calibrate(1.0, 1)
    second = budget.plan(Queries(left, 1.0, 1))
    second.charge(left, 1.0)
    assert 1.95 < budget.spent() <= 2


def test_no_noise_helps_where_the_budget_is_used_up() -> None:
    with pytest.raises(ConfigError, match="was spent before"):
        calibrate(1, DELTA, 0.5, 10, "rdp", past=[Queries(2.0, 1.0, 1)])


def test_a_plan_refuses_one_query_too_many_and_queries_of_another_kind() -> None:
    plan = PrivacyBudget(100, DELTA).plan(Queries(1.0, 0.1, 2))
    with pytest.raises(PrivacyBudgetError, match="is not planned"):
        plan.charge(0.5, 0.1)
    plan.charge(1.0, 0.1)
    with pytest.raises(PrivacyBudgetError, match="1 queries were made where 2 were planned"):
        plan.close()
    plan.charge(1.0, 0.1)
    plan.close()
    with pytest.raises(PrivacyBudgetError, match="query 3 of 2 planned ones is refused"):
        plan.charge(1.0, 0.1)
    assert plan.budget.ledger == (Queries(1.0, 0.1, 2),)


@pytest.mark.parametrize(("rate", "steps"), [(0.0, 5), (1.5, 5), (0.1, 0)])
def test_a_plan_without_records_or_queries_is_refused(rate: float, steps: int) -> None:
    with pytest.raises(ConfigError, match="there must be at least one"):
        PrivacyBudget(10, DELTA).plan(Queries(1.0, rate, steps))


def test_queries_of_fits_that_take_turns_are_counted_together() -> None:
    budget = PrivacyBudget(100, DELTA, "rdp")
    plans = [budget.plan(Queries(sigma, 0.1, 3)) for sigma in (2.0, 3.0)]
    for _ in range(3):
        for plan in plans:
            plan.charge(plan.queries.sigma, 0.1)
    assert budget.ledger == tuple(plan.queries for plan in plans)
    assert budget.spent() == pytest.approx(plan_epsilon([plan.queries for plan in plans], DELTA, "rdp"))


def test_plans_that_are_open_at_once_cannot_spend_the_same_budget() -> None:
    budget = PrivacyBudget(2, DELTA, "rdp")
    queries = Queries(budget.calibrate(1.0, 1), 1.0, 1)
    first = budget.plan(queries)
    with pytest.raises(PrivacyBudgetError, match="above the budget of 2"):
        budget.plan(queries)
    first.release()
    budget.plan(queries).charge(queries.sigma, 1.0)
    assert budget.spent() <= 2
    with pytest.raises(PrivacyBudgetError, match="is not open"):
        first.charge(queries.sigma, 1.0)


def test_what_an_open_plan_may_still_ask_is_not_left_for_others() -> None:
    budget = PrivacyBudget(2, DELTA, "rdp")
    plan = budget.plan(Queries(budget.calibrate(0.1, 10, 1.5), 0.1, 10))
    plan.charge(plan.queries.sigma, 0.1)
    while_open = budget.calibrate(1.0, 1)
    plan.release()
    assert budget.calibrate(1.0, 1) < 0.9 * while_open


def test_a_plan_that_nobody_holds_any_more_keeps_nothing() -> None:
    budget = PrivacyBudget(2, DELTA, "rdp")
    queries = Queries(budget.calibrate(1.0, 1), 1.0, 1)
    for _ in range(2):
        budget.plan(queries)


def test_a_plan_that_was_not_compared_with_its_budget_charges_nothing() -> None:
    budget = PrivacyBudget(1, DELTA)
    with pytest.raises(PrivacyBudgetError, match=r"get one from PrivacyBudget\.plan"):
        Plan(budget, Queries(0.01, 1.0, 1)).charge(0.01, 1.0)
    assert budget.ledger == ()


def test_many_threads_together_stay_within_the_budget() -> None:
    budget = PrivacyBudget(2, DELTA, "rdp")
    queries = Queries(budget.calibrate(1.0, 3), 1.0, 1)

    def fit(_: int) -> bool:
        try:
            plan = budget.plan(queries)
        except PrivacyBudgetError:
            return False
        plan.charge(queries.sigma, 1.0)
        return True

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(fit, range(8)))
    assert sum(done) == 3 and budget.spent() <= 2


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_budget_is_not_copied_as_a_copy_would_count_for_itself(copied: object) -> None:
    with pytest.raises(ConfigError, match="a copy would count for itself"):
        copied(PrivacyBudget(1, DELTA))  # type: ignore[operator]


@pytest.mark.parametrize("epsilon", [0.0, -1.0, math.inf, math.nan, "1", True])
def test_calibration_refuses_an_epsilon_that_is_no_promise(epsilon: object) -> None:
    with pytest.raises(ConfigError, match="must be a positive finite number"):
        calibrate(epsilon, DELTA, 1.0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, "1e-5"])
def test_accounting_refuses_a_delta_outside_of_its_range(delta: object) -> None:
    with pytest.raises(ConfigError, match="must be a number between 0 and 1"):
        plan_epsilon([Queries(1.0, 1.0, 1)], delta)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be a number between 0 and 1"):
        calibrate(1.0, delta, 1.0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.inf, math.nan])
def test_queries_without_noise_do_not_exist(sigma: float) -> None:
    with pytest.raises(ConfigError, match=r"noise_multiplier=.* must be a positive finite number"):
        Queries(sigma, 1.0, 1)


def test_an_unknown_accountant_is_not_taken_for_the_default() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'rdp'"):
        plan_epsilon([Queries(1.0, 1.0, 1)], DELTA, "rpd")  # type: ignore[arg-type]


def test_hardly_any_noise_is_bounded_without_a_grid_that_fills_the_memory() -> None:
    started = time.process_time()
    bound, _ = independent_epsilon([Queries(1e-5, 0.5, 3)], DELTA)
    assert math.isfinite(bound) and bound > 1e6
    assert time.process_time() - started < 5
    # Above the longest grid the divergence without sampling stands in, which is never smaller.
    assert renyi_divergence(0.5, 1e-3, 12.0) >= renyi_divergence(0.5, 1e-3, 4.0)


def test_the_same_plan_is_counted_once() -> None:
    plan = [Queries(1.2345, 0.123, 77)]
    first = plan_epsilon(plan, DELTA)
    started = time.perf_counter()
    assert plan_epsilon(plan, DELTA) == first
    assert time.perf_counter() - started < 0.01
