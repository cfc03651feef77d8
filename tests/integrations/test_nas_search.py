"""Does a search by Optuna train each candidate once, stop the bad ones, and repeat itself?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ddkit.errors import ConfigError, MissingExtraError
from ddkit.integrations.nas import ProxyRanker, SearchSpace, convnet, search
from tests.integrations.nas_cases import Counting, digits, linear, tiny_set

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")

CHOICES: dict[str, list[Any]] = {"depth": [1, 2], "width": [2, 4, 8], "norm": ["none", "instance"]}
QUICK = ProxyRanker(epochs=6, seeds=1)


def test_proposals_are_scored_as_the_ranker_scores_them_and_trained_once() -> None:
    _, validation, _ = digits()
    counting = Counting()
    found = search(convnet, CHOICES, tiny_set(5), validation, QUICK, trials=30, sampler="random", executor=counting)
    assert counting.count == len(found) <= 12
    entry = found[found.best]
    options = dict(part.split("=") for part in entry.name.split(","))
    name = f"convnet:{entry.name}"
    alone = QUICK.rank(SearchSpace({entry.name: name}), tiny_set(5), validation)
    assert options.keys() == CHOICES.keys() and alone[entry.name].scores == entry.scores


def test_a_search_repeats_itself_and_goes_on_from_what_was_trained(tmp_path: Path) -> None:
    _, validation, _ = digits()

    def run(trials: int) -> tuple[list[str], int]:
        counting = Counting()
        found = search(
            convnet, CHOICES, tiny_set(5), validation, QUICK, trials=trials, executor=counting, cache=tmp_path
        )
        return [entry.name for entry in found.entries], counting.count

    first, trained = run(4)
    assert trained == len(first)
    more, rest = run(8)
    assert more[: len(first)] == first and rest == len(more) - len(first)
    assert run(8) == (more, 0)


def test_halving_stops_proposals_and_keeps_their_rung() -> None:
    _, validation, _ = digits()
    ranker = ProxyRanker(epochs=18, seeds=1, budget="halving")
    found = search(convnet, CHOICES, tiny_set(5), validation, ranker, trials=20, sampler="random")
    stopped = [entry for entry in found.entries if entry.status.startswith("stopped at rung")]
    finished = [entry for entry in found.entries if entry.status == "ok"]
    assert stopped and finished and found.best in {entry.name for entry in finished}
    assert {entry.rung for entry in finished} == {2} and all(entry.rung < 2 for entry in stopped)
    assert max(found.ranks[entry.name] for entry in finished) < min(found.ranks[entry.name] for entry in stopped)


def test_proposals_in_batches_and_broken_ones_are_told_to_the_study() -> None:
    _, validation, _ = digits()

    def build(depth: int) -> Any:
        return linear if depth == 0 else f"convnet:width=2,depth={depth}"

    found = search(build, {"depth": [0, 1, 9]}, tiny_set(5), validation, QUICK, trials=12, batch=4, sampler="random")
    statuses = {entry.name: entry.status for entry in found.entries}
    assert statuses == {"depth=0": "ok", "depth=1": "ok", "depth=9": "failed"}


def test_values_that_do_not_go_together_fail_their_proposal_alone() -> None:
    def build(heads: int) -> Any:
        if 8 % heads:
            raise ValueError(f"8 is not divisible by {heads}")
        return linear

    found = search(build, {"heads": [2, 3]}, tiny_set(5), digits()[1], QUICK, trials=6, sampler="random")
    assert {entry.name: entry.status for entry in found.entries} == {"heads=2": "ok", "heads=3": "failed"}
    assert "not divisible by 3" in found["heads=3"].message


def test_the_level_of_optunas_log_is_what_it_was() -> None:
    before = optuna.logging.get_verbosity()
    search(convnet, {"width": [2, 8]}, tiny_set(5), digits()[1], QUICK, trials=4)
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize(
    "options, words",
    [
        ({"choices": {}}, "at least one choice"),
        ({"choices": {"width": []}}, "at least one value"),
        ({"choices": {"norm": "none"}}, "each a list"),
        ({"choices": {"width": 4}}, "each a list"),
        ({"trials": 0}, "trials=0"),
        ({"sampler": "grid"}, "sampler='grid'"),
        ({"validation": "test"}, "test split"),
    ],
)
def test_bad_searches_are_refused(options: dict[str, Any], words: str) -> None:
    choices = options.pop("choices", CHOICES)
    scored_on = digits()[2] if options.pop("validation", None) else digits()[1]
    with pytest.raises(ConfigError, match=words):
        search(convnet, choices, tiny_set(), scored_on, QUICK, **options)


def test_without_optuna_ranking_works_and_searching_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddkit.integrations.nas.optuna_search.optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ddkit\[nas\]'"):
        search(convnet, CHOICES, tiny_set(), digits()[1], QUICK)
    code = "import sys; sys.modules['optuna'] = None; from ddkit.integrations.nas import ProxyRanker; ProxyRanker()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
