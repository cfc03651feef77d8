"""Is a budget in a file spent once, whoever spends it, and are files refused that say something else?"""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest

from ddkit.errors import ConfigError
from ddkit.integrations.private import PrivacyBudget, PrivacyBudgetError, PrivateDistiller, Queries, plan_epsilon
from tests.integrations.private_small import TINY, records

DELTA = 1e-5
PROCESSES = multiprocessing.get_context("fork")
ONE = Queries(3.0, 1.0, 1)  # epsilon 1.33 by RDP


def spend(path: Path, epsilon: float = 3.0, queries: Queries = ONE) -> PrivacyBudget:
    """Do what a script does that makes one release."""
    budget = PrivacyBudget(epsilon, DELTA, "rdp", file=path)
    plan = budget.plan(queries)
    plan.charge(queries.sigma, queries.rate)
    plan.release()
    return budget


def test_three_runs_of_a_script_are_three_expenses(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    limit = plan_epsilon([Queries(3.0, 1.0, 3)], DELTA, "rdp")
    spent = [spend(path, limit).spent() for _ in range(3)]
    assert 0 < spent[0] < spent[1] < spent[2] == pytest.approx(limit)
    with pytest.raises(PrivacyBudgetError, match="above the budget of"):
        spend(path, limit)
    assert PrivacyBudget.load(path).ledger == (Queries(3.0, 1.0, 3),)


def test_fits_of_separate_objects_share_a_file(tmp_path: Path) -> None:
    options: dict[str, Any] = {"method": "dp-dm", "ipc": 1, "accountant": "rdp", **TINY["dp-dm"]}
    totals = []
    for _ in range(2):
        made = PrivateDistiller(
            1.0, budget=PrivacyBudget(3, DELTA, "rdp", file=tmp_path / "budget.json"), **{**options, "ipc": 1}
        )
        made.fit(records())
        totals.append(made.report().total_epsilon)
    assert totals[0] == pytest.approx(1, abs=0.02) and totals[1] > 1.3


def _race(path: Path, start: Any, found: Any) -> None:
    start.wait()
    try:
        spend(path, epsilon=1.4)
        found.put("spent")
    except PrivacyBudgetError:
        found.put("refused")


def test_processes_at_once_cannot_both_spend_the_last_epsilon(tmp_path: Path) -> None:
    path, start, found = tmp_path / "budget.json", PROCESSES.Event(), PROCESSES.Queue()
    racers = [PROCESSES.Process(target=_race, args=(path, start, found)) for _ in range(4)]
    for racer in racers:
        racer.start()
    start.set()
    outcomes = sorted(found.get(timeout=60) for _ in racers)
    for racer in racers:
        racer.join()
    assert outcomes == ["refused"] * 3 + ["spent"]


def _die(path: Path) -> None:
    PrivacyBudget(3, DELTA, "rdp", file=path).plan(Queries(10.0, 1.0, 4))
    os._exit(9)


def test_a_crash_before_the_release_counts_as_spent(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    victim = PROCESSES.Process(target=_die, args=(path,))
    victim.start()
    victim.join()
    assert victim.exitcode == 9
    assert PrivacyBudget(3, DELTA, "rdp", file=path).ledger == (Queries(10.0, 1.0, 4),)


def test_what_was_not_asked_is_given_back_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    budget = PrivacyBudget(3, DELTA, "rdp", file=path)
    plan = budget.plan(Queries(10.0, 1.0, 4))
    plan.charge(10.0, 1.0)
    other = PrivacyBudget(3, DELTA, "rdp", file=path)
    assert other.ledger == (Queries(10.0, 1.0, 4),) and budget.ledger == (Queries(10.0, 1.0, 1),)
    plan.release()
    assert other.ledger == budget.ledger == (Queries(10.0, 1.0, 1),)
    assert other.spent() == budget.spent() > 0
    budget.plan(Queries(20.0, 1.0, 2)).release()
    assert other.ledger == (Queries(10.0, 1.0, 1),)


def test_a_state_can_be_saved_and_loaded(tmp_path: Path) -> None:
    budget = PrivacyBudget(3, DELTA, "rdp")
    plan = budget.plan(Queries(8.0, 0.5, 3))
    plan.charge(8.0, 0.5)
    state = json.loads(json.dumps(budget.state_dict()))  # open plans are spent in a copy
    again = PrivacyBudget(3, DELTA, "rdp")
    again.load_state_dict(state)
    assert again.ledger == (Queries(8.0, 0.5, 3),) and again.unit == budget.unit
    assert again.calibrate(1.0, 1) > PrivacyBudget(3, DELTA, "rdp").calibrate(1.0, 1)
    with pytest.raises(ConfigError, match="would forget"):
        again.load_state_dict(state)
    budget.save(tmp_path / "saved.json")
    saved = PrivacyBudget.load(tmp_path / "saved.json")
    assert saved.ledger == again.ledger and saved.save(tmp_path / "saved.json").is_file()
    again.plan(Queries(20.0, 1.0, 1)).charge(20.0, 1.0)
    again.save(tmp_path / "saved.json")  # knows all that was saved before
    with pytest.raises(ConfigError, match="would be forgotten"):
        budget.save(tmp_path / "saved.json")
    with pytest.raises(ConfigError, match="no privacy budget in"):
        PrivacyBudget.load(tmp_path / "typo.json")
    assert [path.name for path in tmp_path.glob("*typo*")] == []


def test_another_process_gets_the_same_file_and_never_a_copy(tmp_path: Path) -> None:
    budget = spend(tmp_path / "budget.json")
    for other in (pickle.loads(pickle.dumps(budget)), copy.deepcopy(budget)):
        assert set(other.ledger) == set(budget.ledger)
        before = budget.spent()
        other.plan(Queries(20.0, 1.0, 1))
        assert budget.spent() > before


def _ask_in_a_fork(plan: Any, budget: PrivacyBudget, found: Any) -> None:
    for ask in (lambda: plan.charge(3.0, 1.0), lambda: budget.plan(ONE)):
        try:
            ask()
            found.put("asked")
        except (ConfigError, PrivacyBudgetError) as error:
            found.put(str(error))


@pytest.mark.parametrize("kept", [False, True])
def test_a_forked_process_cannot_use_the_plans_of_its_parent(kept: bool, tmp_path: Path) -> None:
    budget = PrivacyBudget(1.4, DELTA, "rdp", file=tmp_path / "budget.json" if kept else None)
    plan, found = budget.plan(ONE), PROCESSES.Queue()
    child = PROCESSES.Process(target=_ask_in_a_fork, args=(plan, budget, found))
    child.start()
    answers = [found.get(timeout=60) for _ in range(2)]
    child.join()
    assert "asked" not in answers
    assert ("above the budget" if kept else "cannot be copied") in answers[1]
    plan.charge(3.0, 1.0)


@pytest.mark.parametrize("terms", [(4.0, DELTA, "rdp"), (3.0, 1e-6, "rdp"), (3.0, DELTA, "prv")])
def test_a_file_of_another_budget_is_refused(terms: tuple[Any, ...], tmp_path: Path) -> None:
    spend(tmp_path / "budget.json")
    with pytest.raises(ConfigError, match="give equal ones, or another file"):
        PrivacyBudget(*terms, file=tmp_path / "budget.json")


@pytest.mark.parametrize(
    "harm",
    ["cheaper", "no plans", "cut", "empty", "list", "not json", "deep", "huge", "older", "gone", "folder"],
)
def test_a_file_that_was_changed_is_refused(harm: str, tmp_path: Path) -> None:
    path = tmp_path / "budget.json"
    spend(path)
    older = path.read_text()
    spend(path)
    document = json.loads(path.read_text())
    if harm == "cheaper":
        for plan in document["content"]["plans"].values():
            plan[0] = 100.0
    if harm == "no plans":
        document["content"]["plans"] = {}
    changed = {
        "cut": older[:40],
        "empty": "",
        "list": "[]",
        "not json": "nothing",
        "deep": "[" * 100_000,
        "huge": " " * 20_000_000,
        "older": older,
    }.get(harm, json.dumps(document))
    path.write_text(changed)
    if harm in ("gone", "folder"):
        path.unlink()
    if harm == "folder":
        path.mkdir()
    with pytest.raises(ConfigError, match=r"restore it|is a folder") as error:
        spend(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epsilon": 3.0, "delta": DELTA, "accountant": "rdp", "unit": None, "plans": {"a": [0.0, 1.0, 1]}},
        {"epsilon": 3.0, "delta": DELTA, "accountant": "rdp", "unit": None, "plans": {"a": [1.0, 2.0, 1]}},
        {"epsilon": 3.0, "delta": DELTA, "accountant": "rdp", "unit": None, "plans": {"a": [1.0, "x", 1]}},
        {"epsilon": 3.0, "delta": DELTA, "accountant": "rdp", "unit": None, "plans": {"a": [1.0]}},
        {"epsilon": 3.0, "delta": DELTA, "accountant": "rdp", "unit": None, "plans": [1]},
    ],
)
def test_a_state_that_is_damaged_is_refused(state: dict[str, Any]) -> None:
    budget = PrivacyBudget(3.0, DELTA, "rdp")
    with pytest.raises(ConfigError, match="damaged"):
        budget.load_state_dict(state)
    assert budget.ledger == ()


def test_a_file_is_a_path() -> None:
    with pytest.raises(ConfigError, match="must be the path of a file"):
        PrivacyBudget(1, DELTA, file=5)  # type: ignore[arg-type]


def test_the_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        spend(tmp_path / "budget.json")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / ".budget.json.lock").stat().st_mode) == 0o600
