"""What happens around the loop: order, metrics, pictures, evaluation, early stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from ddkit.engine import Callback, EarlyStop, ImageGrids, JsonlMetrics, PeriodicEvaluation, ProgressBar, Run, read_lines
from ddkit.errors import ConfigError

from .runs import small, toy_data


class Record(Callback):
    def __init__(self, name: str, events: list[str], fail_at: str = "") -> None:
        self.name, self.events, self.fail_at = name, events, fail_at

    def _note(self, event: str) -> None:
        self.events.append(f"{self.name} {event}")
        if self.fail_at == event:
            raise RuntimeError(f"{self.name} failed")

    def on_start(self, run: Run) -> None:
        self._note("start")

    def on_step(self, run: Run) -> None:
        self._note(f"step {run.step}")

    def on_checkpoint(self, run: Run) -> None:
        self._note("checkpoint")

    def on_end(self, run: Run) -> None:
        self._note("end")


class Set(Callback):
    """Writes given values of a scalar, one a step."""

    def __init__(self, name: str, values: list[float]) -> None:
        self.name, self.values = name, values

    def on_step(self, run: Run) -> None:
        run.scalars[self.name] = self.values[run.step - 1]


def metrics(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_hooks_run_in_order(tmp_path: Path) -> None:
    events: list[str] = []
    small(steps=2, callbacks=[Record("a", events), Record("b", events)], checkpoint_every=2).fit(
        toy_data(), out=tmp_path
    )
    assert events == [
        *("a start", "b start", "a step 1", "b step 1", "a step 2", "b step 2"),
        *("a checkpoint", "b checkpoint", "b end", "a end"),
    ]


@pytest.mark.parametrize("event", ["start", "step 1", "end"])
def test_callbacks_are_closed_when_another_one_fails(event: str) -> None:
    events: list[str] = []
    with pytest.raises(RuntimeError, match="b failed"):
        small(steps=2, callbacks=[Record("a", events), Record("b", events, event)]).fit(toy_data())
    assert events[-1] == "a end" and events.count("a end") == 1


def test_metrics_hold_step_seconds_loss_and_what_other_callbacks_added(tmp_path: Path) -> None:
    small(steps=3, callbacks=[Set("accuracy", [0.1, 0.2, 0.3])]).fit(toy_data(), out=tmp_path)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert [line["accuracy"] for line in lines] == [0.1, 0.2, 0.3]
    assert all(line["loss"] > 0 for line in lines)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)


def test_metrics_keep_both_ends_between_which_lines_are_thinned_out(tmp_path: Path) -> None:
    small(steps=8, callbacks=[JsonlMetrics(every=3)]).fit(toy_data(), out=tmp_path)
    assert [line["step"] for line in metrics(tmp_path)] == [1, 3, 6, 8]


def test_last_line_of_a_run_stopped_early_is_there(tmp_path: Path) -> None:
    stop = [Set("accuracy", [0.5] * 9), EarlyStop(2), JsonlMetrics(every=100)]
    distilled = small(callbacks=stop).fit(toy_data(), out=tmp_path)
    assert distilled.metadata["steps"] == 3 == metrics(tmp_path)[-1]["step"]
    assert "accuracy has not improved for 2 evaluations" in json.loads((tmp_path / "run.json").read_text())["state"]


def test_half_written_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo')
    assert read_lines(path) == [{"step": 1}, {"step": 2}]
    assert read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("values", "options", "steps"),
    [
        ([0.1, 0.2, 0.3, 0.3, 0.3, 0.9], {"patience": 2}, 5),
        ([0.1, 0.2, 0.3, 0.31, 0.32, 0.9], {"patience": 2, "min_delta": 0.05}, 5),
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.0], {"patience": 2, "scalar": "other"}, 6),
        ([0.5, 1.0, 0.4, 1.0, 1.0, 1.0], {"patience": 1, "smoothing": 0.5}, 3),
    ],
)
def test_early_stop_waits_as_long_as_it_was_told(values, options, steps) -> None:
    distilled = small(steps=6, callbacks=[Set("accuracy", values), EarlyStop(**options)]).fit(toy_data())
    assert distilled.metadata["steps"] == steps


def test_early_stop_takes_a_falling_loss_for_progress() -> None:
    losses = [5.0, 4.0, 3.0, 3.0, 3.5, 9.0]
    distilled = small(steps=6, callbacks=[Set("loss", losses), EarlyStop(2, "loss")]).fit(toy_data())
    assert distilled.metadata["steps"] == 5


def test_early_stop_forgets_an_earlier_run() -> None:
    distiller = small(steps=6, callbacks=[Set("accuracy", [0.5] * 6), EarlyStop(3)])
    assert [distiller.fit(toy_data()).metadata["steps"] for _ in range(2)] == [4, 4]


def test_evaluation_leaves_the_run_as_it_was() -> None:
    scores: list[float] = []

    class Look(Callback):
        def on_step(self, run: Run) -> None:
            scores.extend(value for name, value in run.scalars.items() if name == "accuracy")

    evaluated = small(steps=4, ema=0.9, callbacks=[PeriodicEvaluation(toy_data(seed=3), every=2), Look()]).fit(
        toy_data()
    )
    assert len(scores) == 2 and all(0 <= score <= 1 for score in scores)
    assert evaluated.to_bytes() == small(steps=4, ema=0.9).fit(toy_data()).to_bytes()


def test_run_shows_callbacks_what_the_result_would_be() -> None:
    shown: list[torch.Tensor] = []

    class Look(Callback):
        def on_step(self, run: Run) -> None:
            shown.append(run.materialise({}).images)

    result = small(steps=3, ema=0.9, callbacks=[Look()]).fit(toy_data())
    assert torch.equal(shown[-1], result.images) and not torch.equal(shown[0], result.images)


def test_pictures_are_drawn_at_the_start_on_the_way_and_at_the_end(tmp_path: Path) -> None:
    small(steps=5, callbacks=[ImageGrids(every=2)]).fit(toy_data(), out=tmp_path)
    names = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert names == [f"step-{step:06d}.png" for step in (0, 2, 4, 5)]
    with Image.open(tmp_path / "images" / names[0]) as picture:
        assert picture.width > 8 and picture.height > 8


def test_progress_bar_writes_to_standard_error_only(capsys) -> None:
    small(steps=2, callbacks=[ProgressBar()]).fit(toy_data())
    captured = capsys.readouterr()
    assert captured.out == "" and "2/2" in captured.err


def test_tensorboard_hides_what_a_kill_left_behind(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("tensorboard")
    from ddkit.engine import TensorBoard

    opened: list[dict] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            opened.append({"folder": folder, "purge": purge_step, "steps": []})

        def add_scalar(self, name: str, value: float, step: int) -> None:
            opened[-1]["steps"].append(step)

        def close(self) -> None:
            opened[-1]["closed"] = True

    callback = TensorBoard()
    monkeypatch.setattr(callback, "_open", Writer)
    small(steps=2, callbacks=[callback]).fit(toy_data(), out=tmp_path)
    assert opened == [{"folder": str(tmp_path / "tensorboard"), "purge": 1, "steps": [1, 2], "closed": True}]


def test_settings_below_one_are_refused() -> None:
    for build, message in (
        (lambda: EarlyStop(0), r"early_stop\.patience=0 must be at least 1"),
        (lambda: EarlyStop(1, smoothing=1.0), r"early_stop\.smoothing=1\.0 must lie in \[0, 1\)"),
        (lambda: ImageGrids(0), r"images\.every=0 must be at least 1"),
        (lambda: JsonlMetrics(0), r"metrics\.every=0 must be at least 1"),
        (lambda: PeriodicEvaluation(toy_data(), 0), r"evaluation\.every=0 must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            build()
