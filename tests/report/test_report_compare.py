"""Does the comparison put the right figures side by side?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ddkit.errors import ArtifactError, DataError
from ddkit.evaluation.report import comparison_table, write_report
from ddkit.evaluation.report.accuracy import accuracy_rows
from ddkit.evaluation.report.facts import cost, identity, key_figures, notes, protocol
from ddkit.evaluation.report.formats import known
from ddkit.evaluation.report.runs import RunContent, read_run
from tests.report.conftest import MakeRun, architecture_row, result


def test_row_holds_measured_and_published_figures(make_run: MakeRun, evaluation: dict[str, Any]) -> None:
    (row,) = comparison_table([make_run(evaluation=evaluation)])
    assert (row["method"], row["data"], row["ipc"], row["seed"]) == ("dm", "mnist", 10, 7)
    assert (row["images"], row["bytes"], row["label_kind"]) == (30, 30 * 64 * 4, "hard")
    assert (row["architecture"], row["repeats"], row["steps"], row["seconds"]) == ("convnet", 2, 100, 50.0)
    assert row["mean"] == pytest.approx(0.975)
    assert row["std"] == pytest.approx(0.005)
    assert row["interval95"] == pytest.approx([0.971, 0.979])
    assert row["published"] == pytest.approx(0.975)
    assert row["difference"] == pytest.approx(0.0, abs=1e-12)
    json.dumps(row, allow_nan=False)


def test_better_runs_of_the_same_setting_come_first(make_run: MakeRun) -> None:
    runs = [
        make_run(name, ipc=ipc, evaluation={"results": [result("dm", architecture_row("convnet", [mean]))]})
        for name, ipc, mean in [("worse", 10, 0.8), ("better", 10, 0.9), ("small", 1, 0.7)]
    ]
    runs.append(make_run("unevaluated", ipc=1))
    rows = comparison_table(runs)
    assert [Path(row["run"]).name for row in rows] == ["small", "unevaluated", "better", "worse"]
    assert rows[1]["architecture"] is None
    assert rows[1]["mean"] is None
    assert rows[2]["interval95"] is None


def test_baselines_are_listed_on_request_and_repeated_draws_numbered(
    make_run: MakeRun, evaluation: dict[str, Any]
) -> None:
    rows = comparison_table([make_run(evaluation=evaluation)], baselines=True)
    assert [row["label"] for row in rows] == ["whole", "dm", "random 2", "random 1"]
    by_label = {row["label"]: row for row in rows}
    assert by_label["whole"]["bytes"] == 60_000 * 64
    assert by_label["whole"]["published"] == pytest.approx(0.996)
    assert by_label["random 1"]["published"] == pytest.approx(0.951)
    assert by_label["random 1"]["seconds"] is None


def test_network_of_another_width_has_no_published_figure(make_run: MakeRun) -> None:
    narrow = result("dm", architecture_row("convnet(depth=3,width=32)", [0.9]))
    standard = result("dm", architecture_row("convnet(depth=3,width=128)", [0.9]))
    assert comparison_table([make_run("a", evaluation={"results": [narrow]})])[0]["published"] is None
    assert comparison_table([make_run("b", evaluation={"results": [standard]})])[0]["published"] is not None


def test_figures_listed_by_the_evaluation_fill_gaps_of_the_table(make_run: MakeRun) -> None:
    listed = {"method": "mine", "architecture": "convnet", "accuracy": 55.5, "std": None, "source": "thesis"}
    content = {"results": [result("mine", architecture_row("convnet", [0.5]))], "published": [listed]}
    (row,) = comparison_table([make_run(method="mine", evaluation=content)])
    assert row["published"] == pytest.approx(0.555)
    assert row["published_source"] == "thesis"
    assert row["difference"] == pytest.approx(-0.055)


def test_lone_artifact_file_can_be_compared(make_run: MakeRun) -> None:
    (row,) = comparison_table([make_run() / "distilled.safetensors"])
    assert (row["method"], row["ipc"], row["mean"]) == ("dm", 10, None)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run"):
        comparison_table([tmp_path])


@pytest.mark.parametrize(("name", "content"), [("evaluation.json", "{"), ("run.json", "[1]"), ("config.json", "\xff")])
def test_damaged_files_are_named(make_run: MakeRun, name: str, content: str) -> None:
    run = make_run()
    (run / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=name):
        read_run(run)


def test_damaged_artifact_is_refused(make_run: MakeRun) -> None:
    run = make_run()
    content = bytearray((run / "distilled.safetensors").read_bytes())
    content[-5] ^= 1
    (run / "distilled.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError):
        read_run(run)


def test_later_line_of_a_step_counts_and_unfinished_last_line_is_ignored(make_run: MakeRun) -> None:
    lines = '{"step": 10, "loss": 3}\n{"step": 0, "loss": 4}\n{"step": 10, "loss": 2}\n{"step": 20, "lo'
    metrics = read_run(make_run(metrics=lines)).metrics
    assert metrics == [{"step": 0, "loss": 4}, {"step": 10, "loss": 2}]


@pytest.mark.parametrize("last", [b"\xff\xfe", b"[" * 10**5, b'{"step": "20"}', b"7"])
def test_a_damaged_last_line_of_any_kind_is_ignored(make_run: MakeRun, last: bytes) -> None:
    run = make_run(metrics='{"step": 10, "loss": 3}\n')
    with (run / "metrics.jsonl").open("ab") as stream:
        stream.write(last)
    assert read_run(run).metrics == [{"step": 10, "loss": 3}]


def test_numbers_beyond_floats_are_not_drawn(make_run: MakeRun) -> None:
    run = make_run(metrics='{"step": 1, "loss": 1%s}\n{"step": 2, "loss": 2}\n' % ("0" * 400))
    assert write_report(run, run / "r.html").is_file() and not known(10**400) and not known(float("nan"))


def test_measures_of_wrong_types_are_left_out_of_a_report(make_run: MakeRun) -> None:
    run = make_run()
    info = json.loads((run / "run.json").read_text())
    networks = {"experts": 3, "settings": {"lr": "fast", "rho": [1], "alpha": None}}
    (run / "run.json").write_text(json.dumps({**info, "prepare_seconds": "long", "networks": networks}))
    assert write_report(run, run / "r.html").is_file()


def test_damaged_line_inside_the_log_is_refused(make_run: MakeRun) -> None:
    run = make_run(metrics='{"step": 0, "loss": 4}\n{"loss": 2}\n{"step": 10, "loss": 3}\n')
    with pytest.raises(DataError, match="line 2"):
        read_run(run)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["results", "label", "result", "rows", "architecture", "accuracies", "mean", "budget", "name"]
            )
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
results = st.fixed_dictionaries(
    {
        "label": json_values,
        "result": st.dictionaries(st.sampled_from(["rows", "budget", "recipe", "note"]), json_values),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(json_values | results, max_size=3),
    st.dictionaries(st.text(max_size=3), json_values),
    json_values,
)
def test_unexpected_json_never_breaks_reading(entries: list[Any], info: dict[str, Any], value: Any) -> None:
    info = {
        **info,
        "seconds": value,
        "steps": value,
        "hardware": value,
        "peak_memory_bytes": value,
        "data": value,
    }
    run = RunContent(Path("run"), info=info, evaluation={"results": entries, "published": value})
    rows = accuracy_rows(run)
    assert all(len(row.label) >= 0 and row.mean == row.mean for row in rows)
    for describe in (cost, identity, notes, protocol):
        describe(run)
    key_figures(run, rows)
    json.dumps(comparison_table([run]), allow_nan=False, default=str)
