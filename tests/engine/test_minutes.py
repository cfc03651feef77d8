"""As many steps as fit a number of minutes: what is timed and refused, and that a folder keeps those of its run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from ddkit import Distiller, methods
from ddkit.base.precision import COMPILE_PAYS_SECONDS
from ddkit.engine import choosing, distiller, minutes, planning, promise
from ddkit.engine.callbacks import Callback
from ddkit.engine.minutes import Deadline, Pace, in_time, pace_of
from ddkit.engine.run import Run
from ddkit.engine.session import Session
from ddkit.errors import ConfigError
from ddkit.evaluation import form_search
from ddkit.evaluation.form_search import Tried
from ddkit.networks.experts import ExpertTrajectories
from ddkit.testing import toy_data
from ddkit.training.experts import build
from ddkit.training.judge import Judge
from tests.engine.runs import SMALL, Kill

QUICK: dict[str, Any] = {key: value for key, value in SMALL.items() if key != "steps"}


class Clock:
    """Seconds that pass when a session takes a step, and not otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, first: float = 5.0, step: float = 0.5) -> None:
        self.now, self.taken, run = 100.0, 0, Session.step
        monkeypatch.setattr(minutes.time, "monotonic", lambda: self.now)

        def timed(session: Session, number: int) -> dict[str, float]:
            self.now += first + step if number == 1 else step
            self.taken += 1
            return run(session, number)

        monkeypatch.setattr(Session, "step", timed)


def test_steps_fill_the_time_and_leave_some_to_spare() -> None:
    pace = Pace(before=4.0, step=0.5)
    assert pace.steps_in(100.0) == 184 and pace.seconds(184) <= 96
    assert pace.steps_in(4.0) == pace.steps_in(1.0) == 0


def test_a_pace_leaves_out_what_happens_once(monkeypatch: pytest.MonkeyPatch) -> None:
    config = planning.configure("dm", toy_data(), 2, None, 0, QUICK)
    clock = Clock(monkeypatch)
    pace = pace_of(Session(config, toy_data()), enough=2.0)
    assert pace == Pace(before=5.0, step=0.5)
    assert clock.taken == 1 + 4  # until two seconds were timed
    pace_of(Session(config, toy_data()), enough=0.0)
    assert clock.taken == 5 + 1 + 2  # but two steps at least


def test_a_run_gets_the_steps_that_fit_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    clock = Clock(monkeypatch)
    config = planning.configure("dm", toy_data(), 2, None, 0, QUICK, say=said.append, minutes=2.0)
    left = 120 - (clock.now - 100)
    assert config.steps == math.floor((0.96 * left - 5) / 0.5) and 100 < config.steps < 240
    assert said == [f"{config.steps} steps of 0.5 s: done in about {5 + config.steps / 2:.0f} s"]
    assert planning.configure("dm", toy_data(), 2, None, 0, QUICK, minutes=1e6).steps == 20_000


def test_short_runs_are_not_compiled_and_the_format_stays_that_of_the_timed_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Clock(monkeypatch)
    given = {**QUICK, "compile": "auto", "precision": "auto"}
    config = planning.configure("dm", toy_data(), 2, None, 0, given, minutes=1.0)
    assert (config.precision, config.compile) == ("float32", False)
    assert Deadline(COMPILE_PAYS_SECONDS / 60 + 1).compile("auto") == "auto"
    assert Deadline(1.0).compile(True) is True


@pytest.mark.parametrize(
    ("name", "given", "options", "words"),
    [
        ("dm", 0.0, {}, "must be positive"),
        ("dm", -1.0, {}, "must be positive"),
        ("dm", math.nan, {}, "must be positive"),
        ("dm", math.inf, {}, "must be positive"),
        ("dm", 1.0, {"steps": 5}, "--steps"),
        ("dm", 0.1, {}, "does not hold one step .*: give 0.3 or more"),
        ("herding", 1.0, {}, "no outer steps to time"),
    ],
)
def test_minutes_that_make_no_sense_are_refused(
    name: str, given: float, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock(monkeypatch)
    base = QUICK if name == "dm" else {"model": QUICK["model"]}
    with pytest.raises(ConfigError, match=words):
        planning.configure(name, toy_data(), 1, None, 0, {**base, **options}, minutes=given)
    if given <= 0 or given != given:
        with pytest.raises(ConfigError, match=words):
            Distiller("dm", 1, minutes=given)


def test_a_signal_is_not_asked_for_the_sake_of_timing() -> None:
    config = planning.configure("dm", toy_data(), 1, None, 0, QUICK)
    with pytest.raises(ConfigError, match="signal"):
        in_time(config, toy_data(), {"signal": object()}, Deadline(1.0), print)


@pytest.mark.parametrize(("step", "tried"), [(0.06, 3), (0.12, 1)])
def test_auto_stops_trying_when_its_share_of_the_time_is_gone(
    step: float, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best of what was tried fills the rest, less what the comparison at the end takes.

    Nothing is tried after 13.5 of 30 seconds: of trials of 75 steps the third is cut short where they take 4.5 s; where
    they take 9, there is no time for two, and the first one ends when its pace is known.
    """
    fixed = {"networks": {"name": "fixed", "count": 2}, "signal": {"name": "cached", "images": 5}}
    names = [f"rate {rate}" for rate in range(1, 7)]
    pieces = {name: {**fixed, "optimiser": {"lr": float(name[-1])}} for name in names}
    monkeypatch.setattr(choosing, "COMPOSITIONS", pieces)
    monkeypatch.setattr(form_search, "best_form", lambda *given, **options: [Tried("uniform:bits=2", 3, 0.5)])
    judged: list[tuple[str, ...]] = []

    def better(sets: Any, images: Any, config: Any, share: float) -> tuple[str, dict[str, Any]]:
        judged.append(tuple(sets))
        assert 0 < share <= 1
        return judged[-1][-1], {"accuracies": {name: [0.5] for name in sets}}

    monkeypatch.setattr(promise, "better", better)
    monkeypatch.setattr(Judge, "seconds", property(lambda self: 10.0))
    clock = Clock(monkeypatch, first=0.0, step=step)
    given = {key: value for key, value in QUICK.items() if key != "optimiser"} | {"init": "herded"}
    config = planning.configure("auto", toy_data(), None, 250, 0, given, minutes=0.5)
    assert judged == ([tuple(names[:tried])] if tried > 1 else []) and config.optimiser.lr == tried
    assert (clock.now - 100 > 13.4) == (tried > 1) and (tried > 1 or clock.now - 100 < 4)
    assert config.steps == pytest.approx(0.96 * (30 - (clock.now - 100) - 10) / step, abs=1.01)


def test_auto_whose_time_is_over_takes_one_step_and_one_whose_search_took_it_all_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch, first=0.0, step=0.1)
    fixed = {"networks": {"name": "fixed", "count": 2}, "signal": {"name": "cached", "images": 5}}
    monkeypatch.setattr(choosing, "COMPOSITIONS", {"one": {**fixed, "optimiser": {"lr": 1.0}}})
    found = [Tried("uniform:bits=2", 3, 0.5)]
    monkeypatch.setattr(promise, "better", lambda sets, *given: ("one", {"accuracies": {"one": [0.5]}}))
    monkeypatch.setattr(Judge, "seconds", property(lambda self: 100.0))
    given = {key: value for key, value in QUICK.items() if key != "optimiser"} | {"init": "herded"}
    monkeypatch.setattr(form_search, "best_form", lambda *given, **options: found)
    assert planning.configure("auto", toy_data(), None, 250, 0, given, minutes=1.0).steps == 1

    def slow(*given: Any, **options: Any) -> list[Tried]:
        clock.now += 61
        return found

    monkeypatch.setattr(form_search, "best_form", slow)
    with pytest.raises(ConfigError, match=r"--minutes 1 does not hold the choice of a codec: give 1\.1 or more"):
        planning.configure("auto", toy_data(), None, 250, 0, given, minutes=1.0)


def test_a_forecast_is_what_the_steps_will_take(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    expected = Distiller("dm", 2, **{**SMALL, "steps": 1000}).forecast(toy_data())
    assert expected.seconds == 5 + 1000 * 0.5 and expected.memory > 10**7
    assert str(expected).startswith("dm, 2 a class, 1,000 steps of 0.5 s: about 8 min in all, ")
    coded = Distiller("dm", bytes=400, **{**SMALL, "steps": 1000}, codec="uniform:bits=2")
    monkeypatch.setattr(Judge, "seconds", property(lambda self: 30.0))
    assert coded.forecast(toy_data()).seconds == 5 + 1000 * 0.5 + 30  # comparing it with its start
    with pytest.raises(ConfigError, match="no outer steps"):
        Distiller("herding", 2).forecast(toy_data())


def test_a_long_run_says_how_long_before_its_steps_and_after_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[int, str]] = []

    class Listener(Callback):
        step = 0

        def say(self, line: str) -> None:
            said.append((self.step, line))

        def on_step(self, run: Run) -> None:
            self.step = run.step

    Distiller("dm", 2, callbacks=[Listener()], **SMALL).fit(toy_data())
    assert not said
    monkeypatch.setattr(distiller, "LONG", 0.0)
    monkeypatch.setattr(distiller, "TIMED", 2.0)
    Clock(monkeypatch, first=5.0, step=0.5)
    Distiller("dm", 2, callbacks=[Listener()], **{**SMALL, "steps": 12}).fit(toy_data())
    (before, first), (after, second) = said
    assert before == 0 and "12 steps count to about" in first
    # after the first step, and five of half a second
    assert after == 6 and second.startswith("dm, 2 a class, 12 steps of 0.5 s: about 12 s in all, ")


def test_a_run_in_a_folder_goes_on_with_the_steps_it_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        Clock(patch, first=0.0, step=1.0)
        patch.setattr(minutes, "_STEPS", 2)
        killed = Distiller("dm", 2, minutes=0.5, callbacks=[Kill(5)], checkpoint_every=2, **QUICK)
        with pytest.raises(KeyboardInterrupt):
            killed.fit(toy_data(), out=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(planning, "configure", lambda *given: pytest.fail("configured twice"))
        resumed = Distiller("dm", 2, minutes=0.5, **QUICK).fit(toy_data(), out=tmp_path / "run", resume=True)
        with pytest.raises(pytest.fail.Exception):
            Distiller("dm", 2, minutes=0.7, **QUICK).fit(toy_data(), out=tmp_path / "run", resume=True)
    steps = resumed.metadata["config"]["steps"]
    assert 20 < steps < 30 and resumed.metadata["steps"] == steps
    options = {**SMALL, "steps": steps}
    assert Distiller("dm", 2, **options).fit(toy_data()).to_bytes() == resumed.to_bytes()


def test_what_experts_take_goes_by_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are trained on a few images; the first epoch compiles, which happens once."""
    clock, real = Clock(monkeypatch), toy_data(counts=(600, 600))
    train, trained = build._train, []

    def timed(job: Any, on_epoch: Any, experts: Any) -> None:
        def slow(epoch: int) -> None:
            clock.now += 0.01 * len(job.real) + (0.0 if trained else 30.0)
            trained.append(len(job.real))
            on_epoch(epoch)

        train(job, slow, experts)

    monkeypatch.setattr(build, "_train", timed)
    small = {"objective": {"student_steps": 2, "expert_epochs": 1, "max_start_epoch": 3, "batch_syn": None}}
    options = {"model": QUICK["model"], "networks": {"count": 5, "batch_size": 16}, **small}
    config = methods.get("mtt").configure(real, 2, 0, {**options, "precision": "float32", "compile": False})
    pace = minutes.forecast(config, real, {}, 0.0).pace
    assert trained == [8 * 16] * 6
    assert pace.step == 0.5 and pace.before == pytest.approx(30 + 0.01 * len(real) * 3 * 5 + 5.0)
    trained.clear()
    assert minutes.forecast(config, toy_data(counts=(9, 9)), {}, 0.0).pace.step == 0.5
    assert trained == [18] * 6  # which are all


def test_a_method_has_settings_for_minutes_which_the_user_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    said: list[str] = []
    given = {"precision": "float32", "compile": False, "objective": {"student_steps": 2}}
    config = planning.configure("mtt", toy_data(), 1, None, 0, given, say=said.append, minutes=2.0)
    assert (config.model, config.networks.options["count"]) == ("convnet:width=32", 3)
    assert config.objective.options["student_steps"] == 2 and "minutes" in said[0]
    named = planning.configure("mtt", toy_data(), 1, None, 0, {**given, "model": QUICK["model"]}, minutes=2.0)
    assert named.model == QUICK["model"]
    assert planning.configure("mtt", toy_data(), 1, None, 0, given).networks.options["count"] == 100


@pytest.mark.parametrize(("side", "first"), [(8, "fixed"), (16, "pool"), (28, "pool")])
def test_the_likely_compositions_are_tried_first(side: int, first: str) -> None:
    order = choosing._in_order(toy_data(shape=(1, side, side)))
    kinds = [pieces["networks"]["name"] for _, pieces in order]
    assert kinds == sorted(kinds, key=lambda kind: kind != first) and {"fixed", "pool"} == set(kinds)
    assert order[0][1]["optimiser"]["lr"] == 10.0 and len(order) == len(choosing.COMPOSITIONS)


def test_experts_given_as_an_object_are_timed_too() -> None:
    real = toy_data(counts=(300, 300))
    experts = ExpertTrajectories(count=2, batch_size=16)
    options = {"model": QUICK["model"], "precision": "float32", "compile": False}
    objective = {"student_steps": 2, "expert_epochs": 1, "max_start_epoch": 1, "batch_syn": None}
    distiller = Distiller("mtt", 1, networks=experts, minutes=0.5, objective=objective, **options)
    config = distiller.configure(real)
    assert 1 < config.steps <= 5000 and experts.count == 2
