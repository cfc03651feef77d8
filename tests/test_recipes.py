"""Do the end-to-end recipes run, refuse bad settings before they start, and leave what was there alone?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ddkit import recipes
from ddkit.cli import main
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DataError, InterruptedRunError, UnknownNameError

TINY: dict[str, Any] = {
    "model": "convnet:width=4,depth=2",
    "methods": ["random", "dm"],
    "ipcs": [1],
    "repeats": 1,
    "draws": 2,
    "recipe": {"epochs": 2},
    "whole_epochs": 1,
    "budgets": {"dm": {"steps": 2, "objective": {"real_batch": 8}}},
}


def test_quickstart_distils_evaluates_and_reports(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = recipes.load("quickstart").run(TINY, tmp_path / "out", said.append, command="what was typed")
    assert [(row["set"], row["ipc"]) for row in outcome["table"]] == [
        ("random", 1),
        ("dm", 1),
        ("random-bytes", 1),
        ("whole", None),
    ]
    assert [row["networks"] for row in outcome["table"]] == [2, 1, 2, 1]  # two draws of one network each
    assert outcome["table"][3]["images"] == 1347
    assert Path(outcome["report"]).read_text().count("dm") > 0
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == outcome
    assert DistilledDataset.load(tmp_path / "out" / "dm-1").metadata["steps"] == 2
    kept = json.loads((tmp_path / "out" / "dm-1" / "evaluation.json").read_text())
    assert [entry["label"] for entry in kept["results"]] == ["dm", "random", "random-bytes", "whole"]
    assert kept["command"] == "what was typed"
    assert len(said) == 3


def test_the_same_settings_give_the_same_table(tmp_path: Path) -> None:
    small = {**TINY, "methods": ["dm"]}
    tables = []
    for name in ("first", "second"):
        table = recipes.load("quickstart").run(small, tmp_path / name)["table"]
        tables.append([{k: v for k, v in row.items() if k not in ("distil s", "evaluate s")} for row in table])
    assert tables[0] == tables[1]


def test_the_command_line_runs_a_copy_and_prints_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["recipe", "copy", "quickstart", str(tmp_path)])
    capsys.readouterr()
    settings = [f"--set={key}={json.dumps(value)}" for key, value in TINY.items() if key != "budgets"]
    settings += ["--set=methods=[dm]", "--set=budgets.dm.steps=2", "--set=budgets.dm.1.steps=3"]
    out = tmp_path / "out"
    main(["recipe", "run", str(tmp_path / "quickstart.yaml"), *settings, "--out", str(out), "--json"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["table"][0]["set"] == "dm" and captured.err == ""
    assert DistilledDataset.load(out / "dm-1").metadata["steps"] == 3  # the budget of this number of images wins
    command = json.loads((out / "dm-1" / "run.json").read_text())["command"]
    assert command.startswith("ddkit recipe run") and "budgets.dm.1.steps=3" in command


def test_a_setting_of_one_ipc_replaces_that_of_the_file(tmp_path: Path) -> None:
    """YAML reads the key ``1`` as a number; an override's key is text."""
    overrides = {**TINY, "methods": ["dc"], "budgets": {"dc": {"1": {"steps": 2}, "objective": {"real_batch": 8}}}}
    recipes.load("quickstart").run(overrides, tmp_path / "out")
    assert DistilledDataset.load(tmp_path / "out" / "dc-1").metadata["steps"] == 2


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "setting": ({"method": ["dm"]}, "did you mean 'methods'"),
    "method": ({"methods": ["dmm"]}, "did you mean 'dm'"),
    "no list": ({"methods": "dm"}, "methods='dm'"),
    "no methods": ({"methods": []}, "methods"),
    "model": ({"model": "convnett"}, "did you mean 'convnet'"),
    "ipc 0": ({"ipcs": [0]}, "ipc=0"),
    "ipc too large": ({"ipcs": [1, 5000]}, "131 images"),
    "repeats": ({"repeats": 0}, "repeats=0"),
    "data": ({"data": "digit"}, "did you mean 'digits'"),
    "training recipe": ({"recipe": {"name": "dsaa"}}, "did you mean 'dsa'"),
    "training field": ({"recipe": {"epoch": 2}}, "did you mean 'epochs'"),
    "budget": ({"budgets": {"dm": {"stepz": 2}}}, "did you mean 'steps'"),
    "budget of one ipc": ({"budgets": {"dm": {"1": 5}}}, "budgets.dm.1=5"),
    "piece": ({"budgets": {"dm": {"objective": {"real_batc": 2}}}}, "did you mean 'real_batch'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_before_anything_is_written(tmp_path: Path, mistake: str) -> None:
    overrides, words = MISTAKES[mistake]
    with pytest.raises((ConfigError, DataError), match=words):
        recipes.load("quickstart").run({**TINY, **overrides}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [Path.touch, lambda path: (path.mkdir(), (path / "mine").touch())])
def test_an_output_that_is_taken_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing was overwritten"):
        recipes.load("quickstart").run(TINY, tmp_path / "out")


def test_an_interrupted_recipe_says_that_it_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise InterruptedRunError("interrupted after step 1 of 2")

    monkeypatch.setattr("ddkit.recipes.quickstart.Distiller.fit", interrupted)
    with pytest.raises(InterruptedRunError, match="step 1 of 2; the recipe as a whole starts anew"):
        recipes.load("quickstart").run(TINY, tmp_path / "out")


def test_every_recipe_has_a_job_and_describes_itself() -> None:
    assert "quickstart" in recipes.available()
    for name in recipes.available():
        recipe = recipes.load(name)
        assert recipe.name == recipe.source == name
        assert recipe.title and recipe.expected and recipe.settings


def test_an_unknown_recipe_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'quickstart'"):
        recipes.load("quickstar")


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: [1", "cannot read recipe"),
        ("[]", "needs the fields"),
        ("settings: 3", "needs the fields"),
        ("recipe: quick\nsettings: {}", "did you mean 'quickstart'"),
        (None, "No such file"),
    ],
)
def test_a_bad_recipe_file_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "own.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        recipes.load(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_lacks_settings_names_them(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("recipe: quickstart\nsettings: {data: digits}")
    with pytest.raises(ConfigError, match=r"lacks the setting budgets, .*ddkit recipe show quickstart"):
        recipes.load(path).run({}, tmp_path / "out")


def test_copying_twice_overwrites_nothing(tmp_path: Path) -> None:
    path = recipes.copy("quickstart", tmp_path / "new")
    path.write_text("mine")
    with pytest.raises(ConfigError, match="nothing was overwritten"):
        recipes.copy("quickstart", tmp_path / "new")
    assert path.read_text() == "mine"
