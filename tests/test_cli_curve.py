"""Does ``ddkit curve`` draw accuracy against bytes, keep what it measured, and refuse mistakes in one line?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit.cli import main
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.evaluation import rate_points
from ddkit.evaluation.rate_kept import read_kept

from .test_cli import Command, ddkit

__all__ = ["ddkit"]

MODEL = "convnet:width=4,depth=1"
DISTIL = (
    "distill",
    "--method",
    "dm",
    "--data",
    "digits",
    "--steps",
    "2",
    "--set",
    f"model={MODEL}",
    "--set",
    "objective.real_batch=8",
)
HOW = ("--repeats", "2", "--set", "epochs=2")
CURVE = ("--codec", "uniform:bits=4", "--baseline", "random-bytes", *HOW)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves")
    for ipc in (1, 3):
        main(
            [*DISTIL, "--set", "objective.real_batch=8", "--ipc", str(ipc), "--out", str(folder / f"dm{ipc}"), "--json"]
        )
    return folder


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs" / "dm1", tmp_path / "runs" / "dm3"


def counted(monkeypatch: pytest.MonkeyPatch, after: int | None = None) -> list[int]:
    """Count evaluations; the one after so many is interrupted."""
    calls: list[int] = []
    evaluate: Callable[..., Any] = rate_points.evaluate

    def counting(*arguments: Any, **options: Any) -> Any:
        if after is not None and len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(rate_points, "evaluate", counting)
    return calls


def test_points_are_those_of_the_sets_and_of_real_images_in_no_more_bytes(
    ddkit: Command,
    runs: tuple[Path, Path],
) -> None:
    done = ddkit("curve", *runs, *CURVE, "--json")
    assert done.status == 0 and done.err == ""
    drawn = done.document
    points = {(point["kind"], point["run"], point["codec"]): point for point in drawn["points"]}
    own = DistilledDataset.load(runs[1])
    assert points["dm", "dm3", None]["payload"] == own.budget.payload == 30 * 64 * 4
    coded = own.coded("uniform:bits=4")
    assert points["dm", "dm3", "uniform:bits=4"]["payload"] == coded.budget.payload
    assert points["dm", "dm3", "uniform:bits=4"]["bytes_per_class"] == (coded.budget.payload or 0) / 10
    for (kind, run, codec), point in points.items():
        assert sum(map(len, point["accuracies"])) == 2
        assert point["payload"] <= points["dm", run, codec]["payload"], kind
        assert len(point["accuracies"]) == (2 if kind == "random-bytes" else 1)
    assert ("random-bytes", "dm1", "uniform:bits=4") not in points  # not one image a class fits
    (lead,) = drawn["leads"]
    assert (lead["kind"], lead["baseline"]) == ("dm", "random-bytes") and lead["gap"] is not None
    assert drawn["classes"] == 10 and drawn["model"].startswith("convnet(") and drawn["whole"] is None
    page = Path(drawn["html"])
    assert page == runs[0].parent / "curve.html" and page.read_text(encoding="utf-8").count("<picture>") == 1


def test_second_call_trains_nothing_and_a_further_codec_only_itself(
    ddkit: Command,
    runs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = ddkit("curve", *runs, *CURVE, "--json").document
    assert read_kept(runs[0]).curve == read_kept(runs[1]).curve and not (runs[0] / "evaluating").exists()
    calls = counted(monkeypatch)
    assert ddkit("curve", *runs, *CURVE, "--json").document == first and calls == []
    more = ddkit("curve", *runs, *CURVE, "--codec", "uniform:bits=2", "--json").document
    added = [point for point in more["points"] if point not in first["points"]]
    assert {point["codec"] for point in added} == {"uniform:bits=2"}
    assert len(calls) == sum(len(point["accuracies"]) for point in added)
    assert ddkit("curve", *runs, *CURVE, "--seed", "1", "--json").document["points"] != first["points"]


def test_interrupted_curve_goes_on_where_it_stopped(
    ddkit: Command,
    runs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        counted(patch, after=3)
        stopped = ddkit("curve", *runs, *CURVE)
    assert stopped.status == 130 and "go on with `ddkit curve" in stopped.err
    assert len(read_kept(runs[0]).points) == 3 and read_kept(runs[0]).curve is None
    calls = counted(monkeypatch)
    resumed = ddkit("curve", *runs, *CURVE, "--json").document
    fresh = runs[0].parent / "fresh"
    for run in runs:
        shutil.copytree(run, fresh / run.name, ignore=shutil.ignore_patterns("curve.json"))
    total = len(calls) + 3
    assert ddkit("curve", fresh / "dm1", fresh / "dm3", *CURVE, "--json").document["points"] == resumed["points"]
    assert len(calls) == 2 * total - 3


def test_text_names_every_point_and_what_follows(ddkit: Command, runs: tuple[Path, Path]) -> None:
    done = ddkit("curve", *runs, *CURVE, "--out", runs[0].parent / "page.html")
    assert done.status == 0
    assert "no point of 'random-bytes' beside 'dm1', uniform:bits=4" in done.err
    for word in ("uniform:bits=4", "bytes per class", "DM against random-bytes:", "points on average", "page.html"):
        assert word in done.out
    shown = ddkit("show", runs[0], "--json").document["report"]
    text = Path(shown).read_text(encoding="utf-8")
    assert "Accuracy against bytes" in text and "DM against random-bytes:" in text and "<script" not in text


def test_whole_set_is_a_line(
    ddkit: Command,
    runs: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = rate_points.whole_recipe
    monkeypatch.setattr(rate_points, "whole_recipe", lambda train: whole(train).replace(epochs=1))
    done = ddkit("curve", runs[0], "--codec", "float16", "--baseline", "whole", *HOW, "--json").document
    assert len(done["whole"]) == 2 and {point["kind"] for point in done["points"]} == {"dm"}
    assert "The whole set reaches" in Path(done["html"]).read_text(encoding="utf-8")


def test_one_run_and_a_lone_file_make_a_curve_that_is_not_kept(
    ddkit: Command,
    runs: tuple[Path, Path],
) -> None:
    file = runs[0] / "distilled.safetensors"
    done = ddkit("curve", file, "--codec", "float16", "--baseline", "random-bytes", "--arch", MODEL, *HOW)
    assert done.status == 0 and "not kept" in done.err and not (runs[0] / "curve.json").exists()
    assert (runs[0] / "curve.html").is_file()


def other_data(folder: Path, **changes: Any) -> Path:
    """Return a set of other data in a folder."""
    fields: dict[str, Any] = {"images": torch.zeros(10, 1, 8, 8), "labels": torch.arange(10)}
    one = DistilledDataset.load(folder)
    fields |= {"class_names": one.class_names, "preprocessing": one.preprocessing, "metadata": one.metadata, **changes}
    (folder.parent / "other").mkdir()
    DistilledDataset(**fields).save(folder.parent / "other")
    return folder.parent / "other"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{dm1}",), ("a curve needs two", "--codec")),
        (("{dm1}", "{dm1}"), ("a curve needs two",)),
        (("{new}",), ("new",)),
        (("{dm1}", "{dm3}", "--baseline", "random"), ("unknown baseline 'random'", "random-bytes")),
        (("{dm1}", "--codec", "unifrom:bits=3"), ("did you mean 'uniform'",)),
        (("{dm1}", "--codec", "palette"), ("codec palette is for images of several channels",)),
        (("{dm1}", "{dm3}", "--repeats", "0"), ("--repeats 0",)),
        (("{dm1}", "{dm3}", "--arch", "convent"), ("did you mean 'convnet'",)),
        (("{dm1}", "{dm3}", "--out", "{dm1}/config.json"), ("is no HTML file", "--out")),
    ],
    ids=str,
)
def test_mistakes_are_refused_in_one_line(
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    ddkit: Command,
    runs: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    typed = [word.format(dm1=runs[0], dm3=runs[1], new=tmp_path / "new") for word in arguments]
    ddkit("curve", *typed).refused(*words)
    assert not (runs[0] / "curve.json").exists()


@pytest.mark.parametrize("change", ["fingerprint", "classes", "shape"])
def test_runs_of_other_data_are_refused(change: str, ddkit: Command, runs: tuple[Path, Path]) -> None:
    metadata = DistilledDataset.load(runs[0]).metadata
    changes: dict[str, Any] = {
        "fingerprint": {"metadata": {**metadata, "source": {**metadata["source"], "fingerprint": "0" * 64}}},
        "classes": {"class_names": [f"class {number}" for number in range(10)]},
        "shape": {"images": torch.zeros(10, 1, 9, 8)},
    }[change]
    ddkit("curve", runs[0], other_data(runs[0], **changes)).refused(
        "is of other data than", "'dm1' (digits, 10 classes"
    )


def test_runs_that_want_other_recipes_or_networks_are_refused(ddkit: Command, runs: tuple[Path, Path]) -> None:
    metadata = DistilledDataset.load(runs[0]).metadata
    changed = {
        **metadata,
        "recipe": {**metadata["recipe"], "name": "idc"},
        "config": {**metadata["config"], "model": "mlp"},
    }
    other = other_data(runs[0], metadata=changed)
    ddkit("curve", runs[0], other).refused("recipe 'idc'", "choose one with --recipe")
    ddkit("curve", runs[0], other, "--recipe", "dsa").refused("mlp", "choose one with --arch")


def test_damaged_file_is_named(ddkit: Command, runs: tuple[Path, Path]) -> None:
    (runs[1] / "curve.json").write_text(json.dumps({"points": {"a": {"kind": "dm"}}}))
    ddkit("curve", *runs, *CURVE).refused("curve.json' is damaged: delete it")
    ddkit("show", runs[1]).refused("curve.json' is damaged: delete it")


def test_figures_stay_outside_of_a_private_release(
    ddkit: Command,
    runs: tuple[Path, Path],
) -> None:
    (runs[0] / "privacy.json").write_text("{}")
    ddkit("curve", *runs, *CURVE, "--out", runs[0] / "x.html").refused("private release")
    done = ddkit("curve", *runs, *CURVE, "--json")
    assert done.status == 0 and "exact figures about records" in done.err
    assert not (runs[0] / "curve.json").exists()
    assert (runs[0].with_name("dm1-evaluation") / "curve.json").is_file() and (runs[1] / "curve.json").is_file()
