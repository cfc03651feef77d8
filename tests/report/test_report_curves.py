"""Do curves show what was logged?"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import matplotlib
import numpy as np
import pytest
from PIL import Image

from ddkit.errors import ConfigError
from ddkit.evaluation.report import curve
from ddkit.evaluation.report.curves import _running_mean, scalar_keys

METRICS: list[dict[str, Any]] = [{"step": step, "seconds": step / 5, "loss": 9.0 - step} for step in range(8)]


def line_path(svg: bytes) -> str:
    """Return the path of the curve: the only one drawn in the accent colour and not filled."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="fill: none; stroke: #0f766e', svg.decode())
    assert len(paths) == 1
    return str(paths[0])


def test_png_is_transparent_and_shows_the_curve() -> None:
    picture = np.asarray(Image.open(io.BytesIO(curve(METRICS))))
    accent = np.all(picture == (15, 118, 110, 255), axis=-1)
    assert picture[0, 0, 3] == 0
    assert accent.sum() > 500


def test_svg_names_every_key_and_has_one_panel_each() -> None:
    metrics = [{**entry, "test_accuracy": 0.1 * entry["step"]} for entry in METRICS]
    texts = [
        node.text
        for node in ElementTree.fromstring(curve(metrics, ("loss", "test_accuracy"), format="svg")).iter()
        if node.tag.endswith("text")
    ]
    assert "loss" in texts
    assert "test accuracy" in texts
    assert texts.count("outer step") == 1


def test_line_falls_on_the_page_when_the_loss_falls() -> None:
    points = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", line_path(curve(METRICS, format="svg"))), dtype=float)
    assert len(points) == len(METRICS)
    assert np.all(np.diff(points[:, 0]) > 0)
    assert np.allclose(np.diff(points[:, 1]), np.diff(points[:, 1])[0], atol=1e-3)
    assert points[-1, 1] > points[0, 1]


def test_value_that_is_not_finite_leaves_a_gap() -> None:
    metrics = [dict(entry) for entry in METRICS]
    metrics[4]["loss"] = float("nan")
    assert line_path(curve(metrics, format="svg")).count("M") == 2
    assert line_path(curve(METRICS, format="svg")).count("M") == 1


def test_wide_ranges_get_a_logarithmic_axis() -> None:
    decades = [{"step": step, "loss": 10.0**-step} for step in range(5)]
    points = np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", line_path(curve(decades, format="svg"))), dtype=float)
    assert np.allclose(np.diff(points[:, 1]), np.diff(points[:, 1])[0], atol=1e-3)


def test_running_mean_averages_the_values_that_are_there() -> None:
    values = np.array([1.0, 2.0, np.nan, 4.0, 8.0])
    expected = np.array([1.5, 1.5, np.nan, 6.0, 6.0])
    np.testing.assert_allclose(_running_mean(values, 3), expected)


@pytest.mark.parametrize("format", ["png", "svg"])
def test_equal_input_gives_equal_bytes(format: Any) -> None:
    assert curve(METRICS, format=format) == curve(METRICS, format=format)


def test_drawing_leaves_matplotlib_settings_alone() -> None:
    before = dict(matplotlib.rcParams)
    curve(METRICS)
    assert dict(matplotlib.rcParams) == before


def test_unknown_key_is_refused_with_the_logged_ones() -> None:
    with pytest.raises(ConfigError, match="no finite value of 'los' was logged: choose among loss"):
        curve(METRICS, ("los",))


@pytest.mark.parametrize(("keys", "format"), [((), "png"), (("loss",), "pdf")])
def test_impossible_requests_are_refused(keys: tuple[str, ...], format: Any) -> None:
    with pytest.raises(ConfigError):
        curve(METRICS, keys, format=format)


def test_keys_without_a_finite_number_are_not_offered() -> None:
    metrics = [{"step": 0, "seconds": 0.1, "note": "x", "loss": float("inf"), "accuracy": 0.5, "flag": True}]
    assert scalar_keys(metrics) == ["accuracy"]
