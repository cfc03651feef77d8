"""The figure of accuracy against bytes, its sentences, and where they are shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ddkit.errors import DataError
from ddkit.evaluation.rate import Curve, Lead, Point
from ddkit.evaluation.rate_kept import read_kept, write_kept
from ddkit.evaluation.report import write_report
from ddkit.evaluation.report.rate import draw, picture, sentence
from ddkit.evaluation.report.rate_page import write_page

from .conftest import MakeRun


def point(kind: str, payload: float, *accuracies: float, form: str | None = None) -> Point:
    return Point(
        kind=kind,
        distilled=kind == "dm",
        run="dm-mnist",
        codec="uniform:bits=3",
        form=form,
        payload=payload,
        images=30,
        accuracies=(accuracies,),
    )


POINTS = (
    point("dm", 640, 0.8, 0.82),
    point("dm", 25_600, 0.9, 0.92),
    point("dm", 5120, 0.7, 0.72),
    point("random-bytes", 640, 0.5, 0.54),
    point("random-bytes", 23_040, 0.95, 0.97),
)
CURVE = Curve(data="mnist", classes=10, model="convnet(depth=3)", recipe="dsa", points=POINTS, whole=(0.99, 0.992))


def texts(svg: bytes) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode())


@pytest.mark.parametrize("narrow", [False, True])
def test_figure_names_kinds_axes_and_powers_of_two(narrow: bool) -> None:
    drawn = texts(draw(CURVE, narrow=narrow))
    for word in ("DM", "random-bytes", "whole set", "test accuracy, %", "bytes per class, logarithmic"):
        assert word in drawn
    ticks = [text for text in drawn if re.fullmatch(r"\d+( Ki)?", text)]
    assert {"64", "1 Ki"} <= set(ticks)
    assert draw(CURVE, narrow=narrow) == draw(CURVE, narrow=narrow)
    assert draw(CURVE, narrow=narrow, dark=True) != draw(CURVE, narrow=narrow)


@pytest.mark.parametrize("points", [POINTS[:1], POINTS[3:], (point("dm", 1, 0.0), point("dm", 1e15, 1.0))], ids=len)
def test_figure_of_few_or_far_points_is_drawn(points: tuple[Point, ...]) -> None:
    drawn = texts(draw(CURVE.model_copy(update={"points": points, "whole": None}), narrow=True))
    assert len(drawn) < 30 and "whole set" not in drawn


def test_picture_has_a_form_for_phones_and_dark_pages() -> None:
    text = str(picture(CURVE))
    assert text.count("data:image/svg+xml;base64,") == 4 and text.count("<source") == 3
    assert 'media="screen and (max-width: 640px) and (prefers-color-scheme: dark)"' in text
    alt = re.search(r'alt="([^"]*)"', text)
    assert alt is not None and alt[1].startswith("Test accuracy over bytes per class. DM against random-bytes: ")


def test_sentences_say_what_is_known() -> None:
    assert sentence(Lead("dm", "random-best", (64.0, 2048.0), 0.0761, 0.25, (512.0, 1024.0))) == (
        "DM against random-best: +7.6 points on average between 64\u00a0B and 2.05\u00a0kB per class; 0.25 times the "
        "bytes at equal accuracy (the lead changes at 512\u00a0B, 1.02\u00a0kB)."
    )
    assert sentence(Lead("dm", "random-best", None, None, None, ())) == (
        "DM against random-best: measured at no bytes in common; no accuracy in common."
    )


def test_page_holds_the_figure_the_sentences_and_every_point(tmp_path: Path) -> None:
    named = CURVE.model_copy(update={"points": (*POINTS, point("random-best", 640, 0.6, form="jpeg:quality=30"))})
    page = write_page(tmp_path / "curve.html", named, "ddkit curve runs/dm").read_text(encoding="utf-8")
    assert "MNIST: accuracy against bytes" in page and "The whole set reaches 99.1 %." in page
    assert page.count("<picture>") == 1 and "<script" not in page and "ddkit curve runs/dm" in page
    assert page.count("uniform:bits=3") == 6 and "jpeg:quality=30" in page and "2,560.0" in page
    plain = write_page(tmp_path / "plain.html", CURVE, "ddkit curve").read_text(encoding="utf-8")
    assert ">Form<" in page and ">Form<" not in plain


def test_report_shows_the_curve_of_a_run(make_run: MakeRun) -> None:
    run = make_run("dm-mnist")
    before = write_report(run).read_text(encoding="utf-8")
    assert "Accuracy against bytes" not in before
    write_kept(run, {"a": POINTS[0]})
    assert write_report(run).read_text(encoding="utf-8") == before  # a curve that is not complete is not shown
    write_kept(run, {"b": POINTS[1]}, CURVE, "ddkit curve")
    after = write_report(run).read_text(encoding="utf-8")
    assert "Accuracy against bytes" in after and sentence(CURVE.leads()[0]) in after
    assert read_kept(run).points == {"a": POINTS[0], "b": POINTS[1]} and read_kept(run).curve == CURVE
    write_kept(run, {"c": POINTS[2]})
    assert read_kept(run).curve == CURVE and read_kept(run).command == "ddkit curve"


@pytest.mark.parametrize("text", ["", "[]", '{"points": 1}', '{"curve": {"points": []}}', "\xff"])
def test_damaged_curve_is_named(text: str, make_run: MakeRun) -> None:
    run = make_run("dm-mnist")
    (run / "curve.json").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=r"curve\.json' is damaged: delete it and run `ddkit curve` again"):
        write_report(run)
