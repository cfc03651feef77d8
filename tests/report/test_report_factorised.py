"""What the page and the comparison say about a set whose images are decoded from something smaller."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddkit import Distiller
from ddkit.evaluation import assess, recipe_of, write_evaluation
from ddkit.evaluation.report import comparison_table, write_report
from ddkit.testing import small_overrides, toy_data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of one budgeted image per class that decodes to four, on data called mnist."""
    data = toy_data(shape=(1, 16, 16))
    data.name = "mnist"
    out = tmp_path_factory.mktemp("factorised") / "idc"
    Distiller("idc", 1, **small_overrides("idc", data, 1)).fit(data, out=out)
    return out


def test_images_per_class_are_those_of_the_budget(run: Path) -> None:
    (row,) = comparison_table([run])
    assert (row["method"], row["data"], row["ipc"]) == ("idc", "mnist", 1)


def test_page_tells_decoded_images_from_the_budget(run: Path, tmp_path: Path) -> None:
    text = re.sub(r"<[^>]*>|\s", " ", write_report([run], tmp_path / "report.html").read_text(encoding="utf-8"))
    words = " ".join(text.split())
    assert "12 training images, 4 per class" in words
    assert "Decoded images 12 in a budget of 3 images" in words
    assert "12 from a budget of 3" in words


def test_page_tells_the_decoders_from_the_rest(tmp_path: Path) -> None:
    data = toy_data()
    Distiller("kfs", 2, **small_overrides("kfs", data)).fit(data, out=tmp_path / "kfs")
    text = write_report([tmp_path / "kfs"], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "134 of these numbers, shared by all images" in re.sub(r"<[^>]*>", "", text)


def test_page_tells_hallucinators_experts_and_averages(tmp_path: Path) -> None:
    data = toy_data()
    Distiller("haba", 2, ema=0.3, **small_overrides("haba", data)).fit(data, out=tmp_path / "haba")
    page = re.sub(r"<[^>]*>", " ", write_report([tmp_path / "haba"], tmp_path / "r.html").read_text(encoding="utf-8"))
    words = " ".join(page.split())
    assert "184 of these numbers, shared by all images" in words
    assert "Experts 2, epochs 0 to 2, learning rate 0.05, batches of 4; digest" in words
    assert "The distilled set is the moving average over the steps with decay 0.3" in words


def test_page_tells_with_what_baselines_are_trained_otherwise(tmp_path: Path) -> None:
    data, test = toy_data(), toy_data(seed=5, split="test")
    out = tmp_path / "mtt"
    made = Distiller("mtt", 2, **small_overrides("mtt", data)).fit(data, out=out)
    recipe = recipe_of(made).replace(epochs=1)
    options = {"train": data, "baselines": ("random",), "architectures": ("convnet:width=4,depth=2",), "repeats": 1}
    write_evaluation(out, assess(made, test, recipe=recipe, **options))
    page = write_report([out], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "random with lr 0.01" in " ".join(re.sub(r"<[^>]*>", " ", page).split())
