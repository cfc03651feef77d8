"""How did the logged scalars develop: curves over outer steps as PNG or SVG, drawn without a display."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from ddkit.errors import ConfigError
from ddkit.evaluation.report.formats import known

LIGHT = {"accent": "#0f766e", "ink": "#1b1f24", "muted": "#5d6570", "rule": "#e3e5e8"}
DARK = {"accent": "#5cc4b8", "ink": "#e8eaed", "muted": "#a0a7b1", "rule": "#2c3137"}
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": [
        "Segoe UI",
        "Inter",
        "Noto Sans",
        "Liberation Sans",
        "Helvetica Neue",
        "Arial",
        "DejaVu Sans",
    ],
    "font.size": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "ddkit",
    "axes.unicode_minus": True,
}
_SMOOTH_FROM = 100
_MOST_POINTS = 2000


def curve(
    metrics: Sequence[Mapping[str, Any]],
    keys: Sequence[str] = ("loss",),
    *,
    format: Literal["png", "svg"] = "png",
    dark: bool = False,
) -> bytes:
    """Draw scalars over steps, one panel a key, on a transparent ground.

    A key with at least 100 values is drawn faintly with its running mean (over a fiftieth of the values) on
    top. The axis is logarithmic when all values are positive and span more than a factor of 100. Values that
    are not finite leave a gap.

    Args:
        metrics: one dictionary a logged step with ``step`` and scalars; a key may be absent from some.
        keys: the scalars to draw, top to bottom.
        format: ``png`` (200 dots an inch) or ``svg``.
        dark: colours for a dark page.

    Returns:
        The encoded picture; equal input gives equal bytes.

    Raises:
        ConfigError: no key given, a key without a finite value, or an unknown format.
    """
    if format not in ("png", "svg"):
        raise ConfigError(f"unknown picture format '{format}': png or svg is needed")
    if not keys:
        raise ConfigError("no key to draw: give at least one, for example 'loss'")
    series = {key: _series(metrics, key) for key in keys}
    colours = DARK if dark else LIGHT
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.4, 0.5 + 2.3 * len(keys)), layout=ConstrainedLayoutEngine(h_pad=0.1))
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(keys), 1, sharex=True, squeeze=False)[:, 0]
        for panel, (key, (steps, values)) in zip(panels, series.items(), strict=True):
            _draw(panel, key, steps, values, colours)
        panels[-1].set_xlabel("outer step", color=colours["muted"], loc="right")
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if format == "svg" else {"Software": None}
        figure.savefig(buffer, format=format, dpi=200, transparent=True, metadata=metadata)
    return buffer.getvalue()


def scalar_keys(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys with a finite number, in order of appearance, without ``step`` and ``seconds``."""
    keys = dict.fromkeys(key for entry in metrics for key, value in entry.items() if known(value))
    return [key for key in keys if key not in ("step", "seconds")]


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return steps and values of one key; values that are no finite numbers become NaN."""
    if key not in scalar_keys(metrics):
        available = ", ".join(scalar_keys(metrics)) or "none"
        raise ConfigError(f"no finite value of '{key}' was logged: choose among {available}")
    entries = [entry for entry in metrics if key in entry and known(entry.get("step"))]
    values = [float(entry[key]) if known(entry[key]) else math.nan for entry in entries]
    return np.array([float(entry["step"]) for entry in entries]), np.array(values)


def _running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the centred mean over ``window`` values, over fewer at the ends and where values are missing."""
    present = np.isfinite(values)
    ones = np.ones(window)
    sums = np.convolve(np.where(present, values, 0.0), ones, mode="same")
    counts = np.convolve(present.astype(float), ones, mode="same")
    return np.where(present, sums / np.maximum(counts, 1.0), np.nan)


def _draw(
    panel: Axes, key: str, steps: NDArray[np.float64], values: NDArray[np.float64], colours: Mapping[str, str]
) -> None:
    stride = -(-len(steps) // _MOST_POINTS)
    if len(values) >= _SMOOTH_FROM:
        smooth = _running_mean(values, 2 * (len(values) // 100) + 1)
        panel.plot(steps[::stride], values[::stride], color=colours["accent"], alpha=0.28, linewidth=0.8)
        panel.plot(steps[::stride], smooth[::stride], color=colours["accent"], linewidth=1.8)
    else:
        marker = "o" if len(values) <= 30 else None
        panel.plot(steps, values, color=colours["accent"], linewidth=1.8, marker=marker, markersize=4)
    finite = values[np.isfinite(values)]
    if finite.min() > 0 and finite.max() > 100 * finite.min():
        panel.set_yscale("log")
    else:
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    panel.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10], integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    panel.set_title(key.replace("_", " "), loc="left", color=colours["ink"], fontsize=10, pad=8)
    panel.grid(axis="y", color=colours["rule"], linewidth=0.8)
    panel.set_axisbelow(True)
    panel.margins(x=0.01)
    for side in ("top", "left", "right"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(colours["rule"])
    panel.tick_params(axis="both", which="both", length=0, labelcolor=colours["muted"], pad=6)
