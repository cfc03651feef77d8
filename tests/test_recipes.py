"""Do the end-to-end recipes run, refuse bad settings before they start, and leave what was there alone?"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
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
    "search": {"passes": 1, "forms": ["uniform:bits=2"]},
    "budgets": {"dm": {"steps": 2, "objective": {"real_batch": 8}}},
}

EXTRAS = {"continual": "avalanche", "federated": "flwr", "graph": "torch_geometric", "private": "opacus"}
SMALL: dict[str, dict[str, Any]] = {
    "quickstart": {**TINY, "budgets": {"dm": {"steps": 3, "objective": {"real_batch": 8}}}},
    "graph": {
        "methods": ["kmeans", "doscond"],
        "seeds": 1,
        "sizes": {"karate": [1], "block": [0.02]},
        "transfer": {"methods": ["doscond"], "seeds": 1, "models": ["gcn", "sgc"]},
        "training": {"generated": {"epochs": 5, "hidden": 8}},
        "options": {"generated": {"doscond": {"restarts": 2}}},
        "graphs": None,
    },
    "federated": {
        "train_images": 120,
        "test_images": 60,
        "clients": 3,
        "alpha": [5.0],
        "seeds": 1,
        "model": "mlp:width=8",
        "local": {"epochs": 1, "batch_size": 64},
        "rounds": 2,
        "one_shot_epochs": 1,
        "server": {"epochs": 1},
        "central": {"epochs": 1, "batch_size": 64},
        "ipc": [1],
        "options": {"steps": 1, "objective": {"real_batch": 4}},
        "feddm": {"rounds": 1, "options": {"steps": 1}},
        "dynafed": {"warmup_rounds": 1, "ipc": 1, "options": {"steps": 1, "objective": {"student_steps": 1}}},
    },
}


def test_quickstart_distils_evaluates_and_reports(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = recipes.load("quickstart").run(TINY, tmp_path / "out", said.append, command="what was typed")
    assert [(row["set"], row["ipc"]) for row in outcome["table"]] == [
        ("random", 1),
        ("dm", 1),
        ("random-bytes", 1),
        ("random-coded", 1),
        ("random-best", 1),
        ("whole", None),
    ]
    assert [row["networks"] for row in outcome["table"]] == [2, 1, 2, 2, 1, 1]  # two draws of one network each
    assert outcome["table"][5]["images"] == 1347
    assert outcome["table"][2]["bytes"] == outcome["table"][1]["bytes"] == 10 * 64 * 4
    assert all(0 < row["bytes"] <= 10 * 64 * 4 for row in outcome["table"][3:5])
    assert Path(outcome["report"]).read_text().count("dm") > 0
    assert json.loads((tmp_path / "out" / "table.json").read_text()) == outcome
    assert DistilledDataset.load(tmp_path / "out" / "dm-1").metadata["steps"] == 2
    kept = json.loads((tmp_path / "out" / "dm-1" / "evaluation.json").read_text())
    equal = ("random-bytes", "random-coded", "random-best")
    assert [entry["label"] for entry in kept["results"]] == ["dm", "random", *equal, "whole"]
    assert kept["command"] == "what was typed"
    assert said[0] == f"running {recipes.FOLDER / 'quickstart.py'}" and len(said) == 2 + 6
    names = ("whole", "random-1", "dm-1", *(f"{kind}-1" for kind in equal))
    assert said[2:] == [f"{name}: {k} of 6 cells" for k, name in enumerate(names, 1)]


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
    assert json.loads(captured.out)["code"] == str(tmp_path / "quickstart.py")
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


@pytest.mark.parametrize(
    "stop, words",
    [
        (
            InterruptedRunError("interrupted after step 1 of 2: go on with `ddkit distill`"),
            "after step 1 of 2; the recipe",
        ),
        (KeyboardInterrupt(), "interrupted; the recipe"),
    ],
)
def test_an_interrupted_recipe_says_how_to_go_on(
    stop: BaseException, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise stop

    monkeypatch.setattr("ddkit.recipes.quickstart.Distiller.fit", interrupted)
    with pytest.raises(InterruptedRunError, match=f"{words} goes on with the same command and --resume"):
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
        ("recipe: quick\nsettings: {}", "did you mean 'quickstart'.* nor is there a '.*own.py'"),
        ("recipe: quickstart\nsettings: {}\npage: [a]", "'page' .* must map headings to texts"),
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


OWN = """
from ddkit.recipes.job import Job
from ddkit.recipes.page import Page

def run(job: Job):
    cells = job.cells(2)
    rows = cells.map(dict[str, int], lambda n: {"n": n, "twice": 2 * n}, {"one": 1, "two": 2})
    page = Page(job, "Mine", {"numbers": len(rows)})
    page.add("All", rows)
    return page.finish(rows, job.values)
"""


def own(folder: Path, code: str = OWN) -> recipes.Recipe:
    (folder / "mine.yaml").write_text("settings: {a: 1, b: {c: [2, 3]}}\npage: {All: 'First.\n\n  Second.'}\n")
    (folder / "mine.py").write_text(code)
    return recipes.load(folder / "mine.yaml")


def test_a_recipe_of_ones_own_runs_its_own_code_and_fills_a_page(tmp_path: Path) -> None:
    said: list[str] = []
    outcome = own(tmp_path).run({"b": {"c": [4]}}, tmp_path / "out", said.append)
    assert said == [f"running {tmp_path / 'mine.py'}", "one: 1 of 2 cells", "two: 2 of 2 cells"]
    assert outcome["table"] == [{"n": 1, "twice": 2}, {"n": 2, "twice": 4}]
    assert (tmp_path / "out" / "table.csv").read_text() == "n,twice\n1,2\n2,4\n"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<p>First.</p>" in page and "<p>Second.</p>" in page and ">b.c<" in page and "b={&#34;c&#34;: [4]}" in page


@pytest.mark.parametrize("name", recipes.available())
def test_a_copy_is_complete_and_its_code_loads_where_it_lies(name: str, tmp_path: Path) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    copied = recipes.load(recipes.copy(name, tmp_path))
    assert copied.code == tmp_path / f"{name}.py" and copied.settings == recipes.load(name).settings
    module = copied._module()
    assert Path(module.__file__) == copied.code and callable(module.run)
    data = {path.name for path in recipes.FOLDER.glob(f"{name}_*")}
    assert {path.name for path in tmp_path.glob("*.*")} == {f"{name}.yaml", f"{name}.py", *data}


def test_workers_of_ray_are_sent_the_code_itself(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray import cloudpickle

    module = own(tmp_path)._module()
    recipes._sent_by_value(module)
    sent = cloudpickle.dumps(module.run)
    del sys.modules[module.__name__]
    assert cloudpickle.loads(sent).__name__ == "run"


@pytest.mark.parametrize(
    "code, words", [("import", "mine.py': SyntaxError"), ("1 / 0", "ZeroDivisionError"), ("a = 1", "no function run")]
)
def test_code_that_cannot_run_is_refused(code: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        own(tmp_path, code).run({}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_is_continued_with_its_own_settings_only(tmp_path: Path) -> None:
    recipe, out = own(tmp_path), tmp_path / "out"
    first = recipe.run({}, out, resume=True)
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    with pytest.raises(ConfigError, match=r"add --resume to continue the run in it, .* nothing was overwritten"):
        recipe.run({}, out)
    with pytest.raises(ConfigError, match=r"holds a run with a=1, not 2: .* `ddkit recipe run .*mine.yaml`"):
        recipe.run({"a": 2}, out, resume=True)
    with pytest.raises(ConfigError, match="holds a run of recipe 'mine'"):
        recipes.load("quickstart").run({}, out, resume=True)
    said: list[str] = []
    (out / "cells" / "two.json").write_text("{")  # damaged: computed again
    assert recipe.run({}, out, said.append, resume=True)["table"] == first["table"]
    assert said[1:] == ["one: 1 of 2 cells, done before", "two: 2 of 2 cells"]
    assert (out / "cells" / "one.json").stat().st_mtime_ns == kept[out / "cells" / "one.json"]
    (out / "recipe.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        recipe.run({}, out, resume=True)


def test_what_is_no_run_of_a_recipe_is_not_continued(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty: choose another --out"):
        own(tmp_path).run({}, tmp_path / "out", resume=True)


#: Runs a recipe that kills itself at the end of the piece of code that is given.
KILLED = """
import json, os, signal, sys
from pathlib import Path
from ddkit import recipes
name, out, settings, where = sys.argv[1:]
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
exec(where)
recipes.load(name).run(json.loads(settings), Path(out), globals().get("say", print), command="as typed")
"""
IN_STEP = """
from ddkit.engine.session import Session
step = Session.step
Session.step = lambda self, number: die() if number == 2 else step(self, number)
"""
AFTER_CELL = "say = lambda line: die() if ' 4 of ' in line else None"
IN_WAY = """
from ddkit.recipes import federated
measure = federated.Partition.measure
federated.Partition.measure = lambda self, way, chances: die() if way.kind == "records" else measure(self, way, chances)
"""


@pytest.mark.parametrize(
    "name, where",
    [("quickstart", IN_STEP), ("graph", AFTER_CELL), ("federated", IN_WAY)],
    ids=["steps", "cells", "ways"],
)
def test_a_killed_recipe_goes_on_where_it_was(name: str, where: str, tmp_path: Path) -> None:
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    recipe, settings = recipes.load(name), SMALL[name]
    typed = [sys.executable, "-c", KILLED, name, str(tmp_path / "out"), json.dumps(settings), where]
    killed = subprocess.run(typed, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    out, whole = tmp_path / "out", tmp_path / "whole"
    kept = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert kept and not (out / "table.json").exists()
    recipe.run(settings, out, command="as typed", resume=True)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    recipe.run(settings, whole, command="as typed")
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    assert names == {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    compared = 0
    for one in names:
        if one.suffix == ".json":
            assert timeless(json.loads((out / one).read_text())) == timeless(json.loads((whole / one).read_text())), one
        elif one.suffix == ".png" or (one.suffix == ".safetensors" and name != "graph"):  # a graph holds its seconds
            assert (out / one).read_bytes() == (whole / one).read_bytes(), one
            compared += 1
    assert compared


def timeless(content: Any) -> Any:
    """Leave out what holds a time or a path."""
    if isinstance(content, dict):
        named = {key: value for key, value in content.items() if not re.search(r"second| s$|report|peak|at$", key)}
        return {key: timeless(value) for key, value in named.items()}
    return [timeless(value) for value in content] if isinstance(content, list) else content
