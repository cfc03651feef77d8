"""Is the report page complete, correct, self-contained and accessible?"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import CheckpointError, ConfigError
from ddkit.evaluation.report import write_report
from ddkit.training import recipe
from tests.report.conftest import MakeRun, architecture_row, result

VOID = {"meta", "link", "img", "source", "br"}


class Page(HTMLParser):
    """A parsed page; raises when elements are not properly nested."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def test_page_loads_nothing_from_anywhere(make_run: MakeRun, evaluation: dict[str, Any]) -> None:
    page = Page(write_report(make_run(evaluation=evaluation)))
    addresses = [
        value
        for _, attributes in page.elements
        for key, value in attributes.items()
        if key in ("src", "srcset", "href", "data", "poster", "action") and value is not None
    ]
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not page.all("script")
    assert "://" not in page.source
    assert not re.search(r"url\(|@import", page.source)
    policy = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_page_states_figures_origin_cost_and_how_to_reproduce(make_run: MakeRun, evaluation: dict[str, Any]) -> None:
    run = make_run(evaluation=evaluation)
    text = Page(write_report(run)).text
    assert "DM on MNIST" in text
    assert "30 training images, 10 per class, in place of 60,000." in text
    assert "97.5 %" in text and "97.5 ± 0.5 97.1 – 97.9" in text
    assert "97.5 ± 0.1 ±0.0" in text  # published figure and difference
    assert "Method DM, distribution matching" in text
    assert "Zhao and Bilen, WACV 2023, arxiv.org/abs/2110.04181" in text
    assert "7.68 kB" in text and "3.84 MB" in text and "500×" in text
    assert "2 steps per second" in text and "812 MB" in text and "Test CPU, cpu, 2 threads" in text
    assert "ddkit distill --method dm --data mnist --out 'runs/<dm>'" in text
    assert "ddkit evaluate runs/dm --repeats 2" in text
    assert hashlib.sha256((run / "distilled.safetensors").read_bytes()).hexdigest() in text
    assert "The distilled set is that of the last step." in text
    assert "Training recipe: dsa (epochs 1000, lr 0.01)." in text
    assert "not evaluated" not in text.lower()


@pytest.mark.parametrize(
    ("name", "stated"),
    [
        ("dsa", "schedule halve, loss auto, cutmix 0"),
        ("idc", "schedule steps, milestones 0.6667 and 0.8333, gamma 0.2, loss auto, cutmix 0.5"),
    ],
)
def test_page_states_the_parts_of_the_recipe_that_were_used(
    make_run: MakeRun, evaluation: dict[str, Any], name: str, stated: str
) -> None:
    for entry in evaluation["results"]:
        entry["result"]["recipe"] = recipe(name, "digits").model_dump(mode="json")
    text = Page(write_report(make_run(evaluation=evaluation))).text
    assert f"Training recipe: {name} (epochs 1000, lr 0.01, " in text
    assert f"{stated})." in text


def test_own_set_comes_before_the_baselines(make_run: MakeRun, evaluation: dict[str, Any]) -> None:
    source = Page(write_report(make_run(evaluation=evaluation))).source
    assert re.findall(r'<th scope="row">([^<]+)</th>', source) == ["DM", "random 1", "random 2", "whole"]


def test_pictures_are_the_distilled_images_pixel_by_pixel(make_run: MakeRun) -> None:
    run = make_run(ipc=12)
    page = Page(write_report(run))
    distilled = DistilledDataset.load(run)
    expected = (distilled.viewable()[:, 0] * 255).round().byte().numpy().reshape(3, 12, 8, 8)[:, :10].reshape(30, 8, 8)
    tiles = [image for image in page.all("img") if "distilled image" in (image["alt"] or "")]
    assert len(tiles) == 30
    for tile, pixels in zip(tiles, expected, strict=True):
        content = base64.b64decode((tile["src"] or "").removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), pixels)
    assert "The first 10 images of each class." in page.text


def test_pictures_and_tables_are_accessible(make_run: MakeRun, evaluation: dict[str, Any]) -> None:
    page = Page(write_report(make_run(evaluation=evaluation)))
    assert all(image.get("alt") for image in page.all("img"))
    assert page.all("img")[0]["alt"] == "class 0, distilled image 1 of 10"
    curve_alt = page.all("img")[-1]["alt"]
    assert curve_alt == "Curve of loss over 100 outer steps; loss goes from 5 to 3."
    assert all(header.get("scope") for header in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    named = [attributes["aria-labelledby"] for _, attributes in page.elements if "aria-labelledby" in attributes]
    assert set(named) <= set(identifiers)


def relative_luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_enough_contrast_in_both_themes(make_run: MakeRun) -> None:
    source = Page(write_report(make_run())).source
    themes = [
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})[;\s]", block))
        for block in re.findall(r":root \{(.*?)\}", source, re.S)
    ]
    assert len(themes) == 2
    for theme in themes:
        for ground in ("paper", "raised"):
            for ink in ("ink", "muted", "accent"):
                light, dark = sorted((relative_luminance(theme[ground]), relative_luminance(theme[ink])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, ink)


def test_missing_pieces_are_replaced_by_the_command_that_adds_them(make_run: MakeRun) -> None:
    run = make_run("open run", artifact=False, info={})
    text = Page(write_report(run)).text
    assert "This run is not finished. 100 outer steps are logged." in text
    assert f"Continue it with ddkit distill --out '{run}' --resume" in text
    assert f"ddkit evaluate '{run}' --arch convnet --repeats 5" in text
    assert f"ddkit show '{run}'" in text
    assert "DM on MNIST" in text


def test_run_that_stopped_early_says_why(make_run: MakeRun) -> None:
    text = Page(write_report(make_run(info={"state": "stopped early: time is up", "steps": 40}))).text
    assert "Stopped early: time is up." in text
    assert "--resume" not in text


def test_method_that_is_not_installed_still_has_a_report(make_run: MakeRun) -> None:
    run = make_run(method="elsewhere", metadata={"paper": "https://example.org/1"})
    text = Page(write_report(run)).text
    assert "elsewhere on MNIST" in text
    assert "Paper example.org/1" in text


def test_text_of_others_is_escaped(make_run: MakeRun, evaluation: dict[str, Any]) -> None:
    hostile = "<script>alert(1)</script>"
    evaluation["results"][0]["label"] = hostile
    run = make_run(class_names=[hostile, '" onload="x', "c"], metadata={"notes": [hostile]}, evaluation=evaluation)
    page = Page(write_report(run))
    assert not page.all("script")
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert page.text.count(hostile) == 3  # class, note, label


def test_notes_of_the_evaluation_are_not_repeated(make_run: MakeRun, evaluation: dict[str, Any]) -> None:
    for entry in evaluation["results"]:
        entry["result"]["note"] = "accuracy of the last epoch"
    evaluation["results"][2]["result"]["note"] = "few images"
    text = Page(write_report(make_run(evaluation=evaluation))).text
    assert "Evaluation of random, whole: accuracy of the last epoch" in text
    assert "Evaluation of DM: few images" in text


def test_single_network_shows_no_spread(make_run: MakeRun) -> None:
    text = Page(write_report(make_run(evaluation={"results": [result("dm", architecture_row("convnet", [0.9]))]}))).text
    assert "One network each, so there is no spread and no interval" in text
    assert "95 % interval of the mean" not in text


def test_coreset_of_stored_images_without_a_log_has_a_report(make_run: MakeRun) -> None:
    run = make_run(method="herding", uint8=True, metrics="\n", metadata={"steps": 0})
    text = Page(write_report(run)).text
    assert "herding on MNIST" in text
    assert "1.92 kB" in text
    assert "No loss was logged." in text


def test_several_runs_share_one_page_with_a_comparison(
    make_run: MakeRun, evaluation: dict[str, Any], tmp_path: Path
) -> None:
    runs = [make_run("first", evaluation=evaluation), make_run("second", ipc=1)]
    path = write_report(runs)
    assert path == tmp_path / "report.html"
    page = Page(path)
    assert "Comparison of 2 runs" in page.text
    assert "not evaluated yet" in page.text
    targets = {anchor["href"] for anchor in page.all("a")}
    assert targets == {"#run-1", "#run-2"}
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert {"run-1", "run-2"} <= set(identifiers)
    assert len(identifiers) == len(set(identifiers))


def test_report_goes_where_it_is_asked_to(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    assert write_report(run) == run / "report.html"
    assert write_report(str(run), tmp_path) == tmp_path / "report.html"
    assert write_report(run, tmp_path / "new" / "page.html") == tmp_path / "new" / "page.html"


def test_equal_runs_give_equal_bytes(make_run: MakeRun, evaluation: dict[str, Any], tmp_path: Path) -> None:
    run = make_run(evaluation=evaluation)
    first, second = write_report(run, tmp_path / "a.html"), write_report(run, tmp_path / "b.html")
    assert first.read_bytes() == second.read_bytes()


def test_no_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one run"):
        write_report([])


def test_failed_write_leaves_the_old_page(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    (run / "report.html").write_text("old")

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match="No space left"):
        write_report(run)
    assert (run / "report.html").read_bytes() == b"old"
