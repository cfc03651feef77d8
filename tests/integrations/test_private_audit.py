"""Do audits stay below honest claims and catch mechanisms with mistakes and methods without privacy?"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from ddkit.cli import audit as cli_audit
from ddkit.data import RealData
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, RunError
from ddkit.integrations.private.audit import AuditRow, audit_mechanism
from ddkit.integrations.private.audit_bounds import at_least, at_most, canary_bound, curve, one_run_bound
from ddkit.integrations.private.audit_membership import attack
from tests.integrations.private_small import TINY_MODEL, records

DELTA = 1e-5


def normal(shift: float, count: int, seed: int) -> list[float]:
    return (shift + torch.randn(count, generator=torch.Generator().manual_seed(seed))).tolist()


def test_clopper_pearson_limits_have_their_closed_forms_at_the_ends() -> None:
    assert at_least(0, 50, 0.05) == 0 and at_most(50, 50, 0.05) == 1
    assert at_least(50, 50, 0.05) == pytest.approx(0.05 ** (1 / 50))
    assert at_most(0, 50, 0.05) == pytest.approx(1 - 0.05 ** (1 / 50))


def test_a_canary_that_changes_nothing_bounds_nothing() -> None:
    assert canary_bound(normal(0, 400, 0), normal(0, 400, 1), DELTA) < 0.5
    assert canary_bound(normal(0, 400, 0), normal(0, 400, 1), DELTA, gaussian=True) < 1


def test_a_canary_that_always_shows_bounds_by_the_number_of_runs() -> None:
    bound = canary_bound(normal(50, 400, 0), normal(0, 400, 1), DELTA)
    assert bound == pytest.approx(math.log((0.025 ** (1 / 200) - DELTA) / (1 - 0.025 ** (1 / 200))), rel=1e-3)


def test_gaussian_scores_are_bounded_tightly_and_from_below() -> None:
    from ddkit.integrations.private import gaussian_epsilon

    truth = gaussian_epsilon(1.0, DELTA)
    bound = canary_bound(normal(1, 4000, 2), normal(0, 4000, 3), DELTA, gaussian=True)
    assert 0.8 * truth < bound < truth


def test_the_one_run_bound_is_the_binomial_one_without_delta() -> None:
    # All of 100 guesses right: p^100 = 0.05.
    right = 0.05 ** (1 / 100)
    assert one_run_bound(100, 100, 1000, 0.0) == pytest.approx(math.log(right / (1 - right)), rel=1e-6)
    assert one_run_bound(50, 100, 1000, 0.0) == 0
    assert one_run_bound(100, 100, 1000, 1e-4) < one_run_bound(100, 100, 1000, 0.0)


@pytest.mark.parametrize("numbers", [(5, 4, 10), (5, 20, 10), (-1, 4, 10)])
def test_impossible_guesses_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="is impossible"):
        one_run_bound(*numbers, DELTA)


def test_the_curve_of_scores() -> None:
    perfect = curve([2.0] * 100, [1.0] * 1000)
    assert (perfect.auc, perfect.tpr_at_001, perfect.tpr_at_01) == (1, 1, 1)
    blind = curve([1.0] * 100, [1.0] * 1000)
    assert (blind.auc, blind.tpr_at_001) == (0.5, 0)


@pytest.fixture(scope="module")
def one_shot() -> dict[str, AuditRow]:
    return {row.subject: row for row in audit_mechanism("dp-dm", 4.0, DELTA, 800)}


def test_the_release_of_dp_dm_stays_below_its_claim_and_near_it(one_shot: dict[str, AuditRow]) -> None:
    assert one_shot["dp-dm"].passed and 2 < one_shot["dp-dm"].bound <= 4


@pytest.mark.parametrize("mutant", ["no-clip", "half-noise", "fresh-noise"])
def test_mistakes_in_the_release_are_caught(one_shot: dict[str, AuditRow], mutant: str) -> None:
    row = one_shot[f"dp-dm, mutant {mutant}"]
    assert row.passed and row.bound > 4 and row.as_dict()["verdict"] == "caught"


@pytest.mark.slow
def test_sampled_queries_stay_below_their_claim_and_mistakes_are_caught() -> None:
    rows = audit_mechanism("psg", 4.0, DELTA, 2000)
    assert [row.subject for row in rows] == ["psg", "psg, mutant no-clip", "psg, mutant half-noise"]
    assert all(row.passed for row in rows)


def test_a_refuted_claim_is_called_one() -> None:
    assert AuditRow("x", "canary", 1.0, 2.0, False).as_dict()["verdict"] == "CLAIM REFUTED"
    assert AuditRow("x", "canary", 1.0, 0.5, True).as_dict()["verdict"] == "MISSED"


def release(members: RealData, images: torch.Tensor, labels: torch.Tensor) -> DistilledDataset:
    return DistilledDataset(images, labels, class_names=members.class_names, preprocessing=members.preprocessing)


def copies(members: RealData, run: int) -> DistilledDataset:
    index = torch.cat([index[:6] for index in members.class_index])
    return release(members, members.batch(index), members.labels[index])


def nothing(members: RealData, run: int) -> DistilledDataset:
    labels = torch.arange(3).repeat_interleave(6)
    generator = torch.Generator().manual_seed(run)
    return release(members, torch.randn(18, 1, 8, 8, generator=generator), labels)


def test_membership_inference_catches_released_records_and_not_noise() -> None:
    real = records(per_class=60)
    exposed = attack(copies, real, delta=DELTA, runs=4, model=TINY_MODEL, epochs=2)
    blind = attack(nothing, real, delta=DELTA, runs=4, model=TINY_MODEL, epochs=2)
    assert exposed.one_run_epsilon > 1 and exposed.best.tpr_at_01 > 0.1
    assert blind.one_run_epsilon == 0 and blind.distance.auc == pytest.approx(0.5, abs=0.1)
    assert json.loads(json.dumps(exposed.as_dict()))["runs"] == 4


def test_shadows_calibrate_scores_record_by_record() -> None:
    # Easy records look like members; compared with sets made without them they do not.
    from ddkit.integrations.private.audit_membership import _calibrated, _pooled

    generator = torch.Generator().manual_seed(0)
    members = torch.rand(12, 300, generator=generator) < 0.5
    scores = 10 * torch.randn(300, generator=generator) + 0.3 * torch.randn(12, 300, generator=generator)
    scores = scores + 2.0 * members
    assert _pooled(scores, members).tpr_at_01 < 0.1 < 0.5 < _pooled(_calibrated(scores, members), members).tpr_at_01


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        attack(nothing, records(), delta=DELTA, runs=3)
    with pytest.raises(ConfigError, match="at least 20"):
        canary_bound([0.0] * 10, [0.0] * 10, DELTA)


def command() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(cli_audit.audit)
    return app


def call(**rows: Any) -> Any:
    return CliRunner().invoke(
        command(), ["--trials", "200", "--runs", "0", "--epsilon", "2", "--json", *rows.get("more", [])]
    )


def test_the_command_prints_one_document() -> None:
    done = call(more=["--no-mutants"])
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert document["passed"] and document["rows"][0]["subject"] == "dp-dm"


def test_the_command_fails_where_a_claim_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddkit.integrations.private import audit

    bad = AuditRow("dp-dm", "canary", 1.0, 3.0, False)
    monkeypatch.setattr(audit, "audit_mechanism", lambda *_: [bad])
    done = call()
    assert isinstance(done.exception, RunError) and "do not release anything" in str(done.exception)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--trials", "5"], "make at least 20, or 0"),
        (["--runs", "3"], "make at least 4, or 0"),
        (["--trials", "0"], "nothing to audit"),
        (["--epsilon", "-1"], "epsilon=-1.0 must be a positive finite number"),
        (["--epsilon", "inf"], "epsilon=inf must be a positive finite number"),
        (["--delta", "0.5"], "is not below 1/N"),
        (["--method", "herding"], "returns real images"),
        (["--runs", "4", "--ipc", "0"], "ipc=0 must be a whole number"),
    ],
)
def test_the_command_refuses_mistakes_before_it_attacks(
    options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddkit.integrations.private import audit

    def never(*_: Any, **__: Any) -> list[AuditRow]:
        raise AssertionError("an attack was made")

    monkeypatch.setattr(audit, "audit_mechanism", never)
    monkeypatch.setattr(audit, "audit_membership", never)
    done = call(more=options)
    assert isinstance(done.exception, ConfigError) and words in str(done.exception)


def test_the_command_makes_no_canaries_where_none_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddkit.integrations.private import audit

    row = AuditRow("dp-dm", "membership", 2.0, 0.0, False)
    monkeypatch.setattr(audit, "audit_membership", lambda *_, **__: [row])
    done = call(more=["--trials", "0", "--runs", "4"])
    assert [one["attack"] for one in json.loads(done.stdout)["rows"]] == ["membership"]
