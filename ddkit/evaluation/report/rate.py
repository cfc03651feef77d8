"""How much accuracy do bytes buy: points of all kinds over bytes per class, as a picture and in sentences."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from ddkit.evaluation.rate import Curve, Lead, Point, running_maximum
from ddkit.evaluation.report.curves import DARK, LIGHT, STYLE
from ddkit.evaluation.report.facts import display_name
from ddkit.evaluation.report.formats import points, size
from ddkit.evaluation.report.images import data_uri
from ddkit.evaluation.statistics import summary

#: Colours on a light and a dark page of distilled kinds, and of what stands beside them.
_OURS = (("#0f766e", "#5cc4b8"), ("#1d4ed8", "#8ab4f8"), ("#4d7c0f", "#a3d977"))
_OTHERS = (("#b45309", "#f0a955"), ("#7c3aed", "#c4a7fa"), ("#be123c", "#f58ba1"), ("#5d6570", "#a0a7b1"))
_MARKERS = "osD^vP*X"
#: Width and height in inches: of a page, and of a phone.
_WIDE, _NARROW = (11.4, 5.0), (4.3, 4.6)


def picture(curve: Curve) -> Markup:
    """Return the figure for light and dark pages, wide and narrow ones, as one HTML element."""
    drawn = {
        (dark, narrow): data_uri(draw(curve, dark=dark, narrow=narrow), "image/svg+xml")
        for dark in (False, True)
        for narrow in (False, True)
    }
    phone, night = "(max-width: 640px)", "(prefers-color-scheme: dark)"
    return Markup(
        '<picture><source media="screen and {phone} and {night}" srcset="{dark_narrow}">'
        '<source media="screen and {night}" srcset="{dark}">'
        '<source media="{phone}" srcset="{narrow}"><img src="{light}" alt="{alt}"></picture>'
    ).format(
        phone=phone,
        night=night,
        dark_narrow=drawn[True, True],
        dark=drawn[True, False],
        narrow=drawn[False, True],
        light=drawn[False, False],
        alt=" ".join(["Test accuracy over bytes per class.", *map(sentence, curve.leads())]),
    )


def draw(curve: Curve, *, dark: bool = False, narrow: bool = False) -> bytes:
    """Draw all points with their intervals, and of every kind what one can have for at most so many bytes, as SVG.

    Filled points lie on the running maximum of their kind. The axis of bytes is logarithmic.
    """
    colours = DARK if dark else LIGHT
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_NARROW if narrow else _WIDE, layout=ConstrainedLayoutEngine(h_pad=0.1))
        FigureCanvasAgg(figure)
        panel = figure.subplots()
        panel.set_xscale("log", base=2)
        kinds = curve.kinds()
        for kind, (colour, marker) in _looks(kinds, dark).items():
            _draw_kind(panel, curve, kind, kinds[kind], colour, marker)
        if curve.whole is not None:
            whole = 100 * summary(curve.whole).mean
            panel.axhline(
                whole, color=colours["ink"], linewidth=1.0, linestyle=(0, (4, 3)), label="whole set", zorder=1
            )
        _dress(panel, curve, colours, 4 if narrow else 9)
        figure.legend(
            loc="outside upper left",
            ncols=2 if narrow else 6,
            frameon=False,
            labelcolor=colours["ink"],
            handlelength=1.6,
            columnspacing=1.6,
        )
        buffer = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return buffer.getvalue()


def _looks(kinds: Mapping[str, Sequence[Point]], dark: bool) -> dict[str, tuple[str, str]]:
    """Return colour and marker of every kind."""
    ours = [kind for kind, members in kinds.items() if members[0].distilled]
    found = {}
    for number, kind in enumerate(kinds):
        palette, place = (_OURS, ours.index(kind)) if kind in ours else (_OTHERS, number - len(ours))
        found[kind] = (palette[place % len(palette)][dark], _MARKERS[number % len(_MARKERS)])
    return found


def _draw_kind(panel: Axes, curve: Curve, kind: str, members: Sequence[Point], colour: str, marker: str) -> None:
    pairs = curve.pairs(members)
    steps = running_maximum(pairs)
    last = max(at for at, _ in pairs)
    panel.plot(
        [*(at for at, _ in steps), last],
        [*(100 * accuracy for _, accuracy in steps), 100 * steps[-1][1]],
        drawstyle="steps-post",
        color=colour,
        linewidth=1.8,
        marker=marker,
        markevery=list(range(len(steps))),
        markersize=5,
        label=display_name(kind),
        zorder=3,
    )
    for (at, accuracy), point in zip(pairs, members, strict=True):
        ends = point.interval95
        if ends is not None:
            panel.vlines(at, 100 * ends[0], 100 * ends[1], color=colour, alpha=0.45, linewidth=1.4, zorder=2)
        if (at, accuracy) not in steps:
            style = {"markerfacecolor": "none", "markersize": 5, "zorder": 3}
            panel.plot([at], [100 * accuracy], marker=marker, color=colour, **style)  # type: ignore[arg-type]


def _dress(panel: Axes, curve: Curve, colours: Mapping[str, str], most: int) -> None:
    """Label the axes: powers of two, as many as fit."""
    sizes = [at for at, _ in curve.pairs(curve.points)]
    low, high = math.log2(min(sizes)), math.log2(max(sizes))
    margin = max(0.3, 0.03 * (high - low))
    first, last = math.ceil(low - margin), math.floor(high + margin)
    stride = max(1, math.ceil((last - first) / most))
    panel.set_xlim(2 ** (low - margin), 2 ** (high + margin))
    panel.xaxis.set_major_locator(FixedLocator([2.0**power for power in range(first, last + 1, stride)]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _binary(value)))
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    panel.set_xlabel("bytes per class, logarithmic", color=colours["muted"], loc="right")
    panel.set_title("test accuracy, %", loc="left", color=colours["ink"], fontsize=10, pad=8)
    panel.grid(axis="y", color=colours["rule"], linewidth=0.8)
    panel.set_axisbelow(True)
    for side in ("top", "left", "right"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(colours["rule"])
    panel.tick_params(axis="both", which="both", length=0, labelcolor=colours["muted"], pad=6)


def _binary(value: float) -> str:
    """Write a power of two bytes: ``512``, ``2 Ki``."""
    for unit in ("", " Ki", " Mi"):
        if value < 1024:
            return f"{value:g}{unit}"
        value /= 1024
    return f"{value:g} Gi"


def sentence(lead: Lead) -> str:
    """Say how a distilled kind compares with a baseline."""
    said = [f"{display_name(lead.kind)} against {display_name(lead.baseline)}:"]
    if lead.bytes is None:
        said.append("measured at no bytes in common;")
    else:
        where = f"between {size(lead.bytes[0])} and {size(lead.bytes[1])} per class"
        said.append(f"{points(lead.gap)} points on average {where};")
    if lead.ratio is None:
        said.append("no accuracy in common")
    else:
        said.append(f"{lead.ratio:.2g} times the bytes at equal accuracy")
    if lead.crossovers:
        said.append(f"(the lead changes at {', '.join(map(size, lead.crossovers))})")
    return f"{' '.join(said)}."
