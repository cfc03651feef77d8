"""Does a study of the user's get scores, intermediate ones for its pruner, and failures that do not end it?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from ddkit.errors import ConfigError, MissingExtraError
from ddkit.integrations.nas import ProxyRanker, TrialJudge, search
from tests.integrations.nas_cases import Counting, Explodes, digits, linear, tiny_set

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")

HALVING = ProxyRanker(epochs=18, seeds=1, budget="halving")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def study(pruner: Any = None, direction: str = "maximize") -> Any:
    return optuna.create_study(
        direction=direction, sampler=optuna.samplers.RandomSampler(seed=0), pruner=pruner or optuna.pruners.NopPruner()
    )


def test_a_trial_gets_the_score_of_the_ranker_and_a_report_after_every_rung_but_the_last() -> None:
    _, validation, _ = digits()
    judge = TrialJudge(tiny_set(5), validation, HALVING)
    own = study()
    own.optimize(lambda trial: judge(trial, f"convnet:width={trial.suggest_int('width', 4, 4)}"), n_trials=1)
    (trial,) = own.trials
    assert sorted(trial.intermediate_values) == [1, 3]
    rungs = [
        ProxyRanker(epochs=epochs, seeds=1).rank({"width=4": "convnet:width=4"}, tiny_set(5), validation)
        for epochs in (2, 6, 18)
    ]
    scores = [ranking.entries[0].score for ranking in rungs]
    assert [trial.intermediate_values[1], trial.intermediate_values[3], trial.value] == scores
    assert trial.user_attrs["status"] == "ok" and trial.user_attrs["epochs"] == 18


def constant() -> nn.Module:
    """Build a network that cannot learn: its outputs are the same for all images."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 10))


def test_the_studys_own_pruner_stops_a_bad_candidate_before_its_last_rung() -> None:
    counting = Counting()
    judge = TrialJudge(tiny_set(5), digits()[1], HALVING, executor=counting)
    own = study(optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=0))

    def objective(trial: Any) -> float:
        kind = trial.suggest_categorical("kind", ["good", "bad"])
        return judge(trial, linear if kind == "good" else constant)

    for kind in ("good", "good", "bad"):
        own.enqueue_trial({"kind": kind})
    own.optimize(objective, n_trials=3)
    states = [trial.state.name for trial in own.trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED"]
    assert list(own.trials[2].intermediate_values) == [1] and counting.count == 3 + 3 + 1
    assert own.best_trial.params == {"kind": "good"}


@pytest.mark.parametrize("pruner", ["SuccessiveHalvingPruner", "HyperbandPruner"])
def test_pruners_that_count_resources_work(pruner: str) -> None:
    options: dict[str, Any] = {"min_resource": 1, "reduction_factor": 3}
    own = study(getattr(optuna.pruners, pruner)(**options))
    judge = TrialJudge(tiny_set(5), digits()[1], HALVING)
    own.optimize(lambda trial: judge(trial, linear if trial.suggest_int("good", 0, 1) else constant), n_trials=8)
    assert {trial.state.name for trial in own.trials} <= {"COMPLETE", "PRUNED"} and own.best_value > 0.3


def test_a_candidate_that_fails_fails_its_trial_and_the_study_goes_on() -> None:
    kinds: dict[str, Callable[[], nn.Module]] = {
        "lazy": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)),
        "explodes": Explodes,
        "good": linear,
    }
    judge = TrialJudge(tiny_set(5), digits()[1], HALVING)
    own = study()
    for kind in kinds:
        own.enqueue_trial({"kind": kind})
    own.optimize(lambda trial: judge(trial, kinds[trial.suggest_categorical("kind", list(kinds))]), n_trials=3)
    assert [trial.state.name for trial in own.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "lazy layer" in own.trials[0].user_attrs["message"]
    assert own.trials[1].user_attrs["status"] == "diverged" and own.trials[1].value == pytest.approx(0.1)


def test_a_candidate_that_is_proposed_again_comes_from_the_cache(tmp_path: Path) -> None:
    counting = Counting()
    judge = TrialJudge(tiny_set(5), digits()[1], HALVING, executor=counting, cache=tmp_path)
    own = study()
    own.optimize(lambda trial: judge(trial, linear if trial.suggest_int("x", 1, 1) else constant), n_trials=2)
    assert counting.count == 3 and own.trials[0].value == own.trials[1].value


def test_studies_that_would_seek_the_worst_and_rankers_without_rungs_are_refused() -> None:
    _, validation, test = digits()
    judge = TrialJudge(tiny_set(5), validation, HALVING)
    with pytest.raises(ConfigError, match="direction='maximize'"):
        study(direction="minimize").optimize(lambda trial: judge(trial, linear), n_trials=1)
    with pytest.raises(ConfigError, match="direction='maximize'"):
        optuna.create_study(directions=["maximize", "maximize"]).optimize(
            lambda trial: judge(trial, linear), n_trials=1
        )
    with pytest.raises(ConfigError, match="budget='full' trains a candidate in 1 piece"):
        TrialJudge(tiny_set(5), validation, ProxyRanker(epochs=18))
    with pytest.raises(ConfigError, match="test split"):
        TrialJudge(tiny_set(5), test, HALVING)


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddkit.integrations.nas.optuna_objective.optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ddkit\[nas\]'"):
        TrialJudge(tiny_set(5), digits()[1], HALVING)


def test_a_search_in_the_wrong_order_says_so() -> None:
    with pytest.raises(ConfigError, match=r"first and the choices second, and was given a dict and a function"):
        search({"width": [2, 4]}, lambda width: linear, tiny_set(5), digits()[1], HALVING)  # type: ignore[arg-type]
