"""Does a recipe's page stand alone, escape what it is given and refuse what it cannot show?"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from ddkit.errors import CheckpointError, ConfigError
from ddkit.evaluation.report.document import Section, write_document
from ddkit.evaluation.report.images import png


def test_page_holds_text_table_figure_and_command(tmp_path: Path) -> None:
    figure = tmp_path / "plot.png"
    figure.write_bytes(png(Image.new("L", (4, 4))))
    rows = [{"policy": "dm", "accuracy": "91.0 ± 0.2", "gap": None}, {"policy": "none", "accuracy": 19.5, "gap": 0.25}]
    path = write_document(
        tmp_path / "page.html",
        "Replay",
        [Section("What was done", "First.\n\nSecond.", rows, figure, "accuracy against bytes")],
        "ddkit recipe run continual",
    )
    page = path.read_text()
    for text in (
        "<p>First.</p>",
        "<p>Second.</p>",
        "91.0 ± 0.2",
        "19.5",
        "–",
        "ddkit recipe run continual",
    ):
        assert text in page
    assert 'alt="accuracy against bytes"' in page and "data:image/png;base64," in page
    assert page.count('<td class="text">') == 2  # only names are words


def test_page_asks_for_nothing(tmp_path: Path) -> None:
    page = write_document(tmp_path / "p.html", "T", [Section("S", "text")], "cmd").read_text()
    assert "<script" not in page and not re.findall(r"(?:src|href)=\"(?!data:)", page)


def test_page_escapes_what_it_is_given(tmp_path: Path) -> None:
    rows = [{"<b>": "<i>x</i>"}]
    page = write_document(tmp_path / "p.html", "<t>", [Section("<h>", "<p>", rows)], "<c>").read_text()
    for tag in ("<b>", "<i>", "<t>", "<h>", "<c>"):
        assert tag not in page


def test_rows_must_agree(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="differ"):
        write_document(tmp_path / "p.html", "T", [Section("S", table=[{"a": 1}, {"b": 2}])], "c")
    assert not (tmp_path / "p.html").exists()


def test_figure_must_be_a_picture_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not one of"):
        write_document(tmp_path / "p.html", "T", [Section("S", figure=tmp_path / "x.pdf")], "c")
    with pytest.raises(CheckpointError, match="cannot read"):
        write_document(tmp_path / "p.html", "T", [Section("S", figure=tmp_path / "x.png")], "c")


def test_a_page_needs_sections(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one"):
        write_document(tmp_path / "p.html", "T", [], "c")
