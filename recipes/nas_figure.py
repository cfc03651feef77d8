"""How do agreement with the truth and regret of recipe ``nas`` depend on cost, as a picture?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ddkit.base.files import write_atomically
from ddkit.integrations.nas.correlation import Correlation
from ddkit.integrations.nas.ranking import Ranking
from ddkit.recipes.nas_proxies import Judged

_COLOURS = {"distilled": "#0f766e", "selected": "#b7791f", "real": "#3b5b92", "zero-cost": "#7b8089"}
_MARKERS = "osD^vP*Xph<>"


def draw_figure(path: Path, judged: Sequence[Judged], truth: Ranking, ceiling: Correlation | None) -> Path:
    """Write a PNG of two panels over processor seconds: Spearman's rho with its interval, and regret.

    Args:
        path: of the file.
        judged: the proxies.
        truth: its cost is the vertical line.
        ceiling: agreement of the truth with itself, the dotted line.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    markers = {one.proxy.title: marker for one, marker in zip(_by_kind(judged), _cycle(judged), strict=True)}
    early = [one for one in judged if one.proxy.name == "early-stop" and one.spearman.value is not None]
    for axes, value in ((left, lambda one: one.spearman.value), (right, lambda one: 100 * one.regret)):
        seconds = [one.proxy.total_seconds for one in early]
        axes.plot(seconds, [value(one) for one in early], color=_COLOURS["real"], lw=1)
        for one in judged:
            if value(one) is not None:
                _mark(axes, one, value(one), markers[one.proxy.title], axes is left)
        axes.axvline(truth.cost.cpu_seconds, color="#c0c4c9", lw=1)
        axes.set_xscale("log")
        axes.set_xlabel("processor seconds for all candidates")
        axes.spines[["top", "right"]].set_visible(False)
    if ceiling is not None and ceiling.value is not None:
        left.axhline(ceiling.value, color="#5d6570", ls=":", lw=1)
    left.set_ylabel("Spearman's rho with the truth")
    right.set_yscale("symlog", linthresh=1)
    right.set_ylim(-0.2, 2 * max(0.5, *(100 * one.regret for one in judged)))
    right.yaxis.set_major_formatter(FuncFormatter(lambda points, _: f"{points:g}"))
    right.set_ylabel("regret of the choice, points")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right upper", fontsize=8, frameon=False)
    return write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=150))


def _by_kind(judged: Sequence[Judged]) -> list[Judged]:
    return [one for kind in _COLOURS for one in judged if one.proxy.kind == kind]


def _cycle(judged: Sequence[Judged]) -> list[str]:
    """Return a marker for each proxy, in the order of kinds: those of one colour differ."""
    counts = [sum(one.proxy.kind == kind for one in judged) for kind in _COLOURS]
    return [_MARKERS[number % len(_MARKERS)] for count in counts for number in range(count)]


def _mark(axes: Any, one: Judged, value: float, marker: str, with_interval: bool) -> None:
    """Draw a proxy, and hollow where its set had to be made."""
    proxy, colour = one.proxy, _COLOURS[one.proxy.kind]
    style = {"color": colour, "ms": 7 if (proxy.ipc or 0) > 1 else 5, "ls": "none"}
    seconds = max(proxy.search_seconds, 1e-3)
    axes.plot([seconds], [value], marker=marker, label=proxy.title, **style)
    if proxy.preparation_seconds > 0.05:
        axes.plot([proxy.total_seconds], [value], marker=marker, mfc="none", **style)
    if with_interval and one.spearman.low is not None and one.spearman.high is not None:
        axes.plot([seconds, seconds], [one.spearman.low, one.spearman.high], color=colour, lw=1, alpha=0.5)
