"""What the page and the comparison say about a set whose images are decoded from something smaller."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddkit import Distiller
from ddkit.report import comparison_table, write_report
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
