"""What does a run's report page show: one self-contained HTML file without scripts or external resources."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.privacy import folder_for_figures, refuse_inside_release
from ddkit.errors import ConfigError
from ddkit.evaluation.report import facts, formats, rate
from ddkit.evaluation.report.accuracy import AccuracyRow, accuracy_rows
from ddkit.evaluation.report.compare import comparison_table
from ddkit.evaluation.report.curves import curve, scalar_keys
from ddkit.evaluation.report.images import automatic_scale, data_uri, images_by_class, png, resize
from ddkit.evaluation.report.runs import RunContent, read_run

_PER_CLASS = 10
_MOST_IMAGES = 600
_LARGEST_TILE = 128


def write_report(run: Path | str | Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Write the report of one run, or of several with a comparison on top, as one HTML file.

    The page needs nothing but itself: pictures are embedded, there is no script and a content security policy
    forbids every request. It follows the reader's light or dark preference and prints on paper. Parts that a
    run does not have yet are replaced by a sentence naming the command that adds them. The same runs give the
    same bytes.

    Args:
        run: a run folder (or an artifact file), or several.
        out: file to write, or an existing folder in which ``report.html`` is written. None writes
            ``report.html`` into the run's folder, with several runs into the folder that holds the first. A page
            with accuracies goes beside a private release instead, as they are exact figures about records.

    Returns:
        Path of the written file.

    Raises:
        ConfigError: an empty list of runs, or accuracies that would be written into a private release.
        DataError: a path is not a run, or one of its files cannot be read.
        ArtifactError: the artifact is damaged.
        CheckpointError: the report cannot be written.
    """
    paths = [run] if isinstance(run, str | Path) else list(run)
    if not paths:
        raise ConfigError("no run to report: give at least one run folder")
    runs = [read_run(path) for path in paths]
    chosen = out is not None
    out = Path(out) if out is not None else runs[0].path if len(runs) == 1 else runs[0].path.parent
    if not chosen or out.is_dir():
        out = out / "report.html"
    if any(run.results or run.rate for run in runs):
        if chosen:
            refuse_inside_release(out)
        out = folder_for_figures(out.parent) / out.name
    return write_text(out, render(runs))


def render(runs: Sequence[RunContent]) -> str:
    """Return the HTML page of the given runs."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    for name in ("percent", "points", "interval", "count", "size", "duration", "number"):
        environment.filters[name] = getattr(formats, name)
    environment.filters["display"] = facts.display_name
    template, style = read_resource("report.html.j2"), style_sheet()
    pages = [_page(run, f"run-{number}") for number, run in enumerate(runs, 1)]
    comparison = comparison_table(runs) if len(runs) > 1 else []
    private = any(run.privacy is not None for run in runs)
    title = pages[0]["title"] if len(runs) == 1 else f"Comparison of {len(runs)} runs"
    anchors = {str(run.path): page["anchor"] for run, page in zip(runs, pages, strict=True)}
    names = {str(run.path): run.path.resolve().name for run in runs}
    return environment.from_string(template).render(
        title=title, style=style, pages=pages, comparison=comparison, anchors=anchors, names=names, private=private
    )


def read_resource(name: str) -> str:
    """Return a text file of this package."""
    return resources.files("ddkit.evaluation.report").joinpath(name).read_text(encoding="utf-8")


def style_sheet() -> Markup:
    """Return the style of every page."""
    return Markup(read_resource("style.css").rstrip("\n"))


def _page(run: RunContent, anchor: str) -> dict[str, Any]:
    """Collect what the template prints about one run."""
    rows = accuracy_rows(run)
    folder = shlex.quote(str(run.path))
    command = str(run.info.get("command") or f"ddkit distill --out {folder}")
    return {
        "anchor": anchor,
        "title": f"{facts.display_name(run.method)} on {facts.display_name(run.data)}",
        "subtitle": facts.subtitle(run),
        "state": facts.state_notice(run),
        "figures": facts.key_figures(run, rows),
        "gallery": _gallery(run.distilled) if run.distilled is not None else None,
        "accuracy": _accuracy(run, rows) if rows else None,
        "evaluate_command": f"ddkit evaluate {folder} --arch convnet --repeats 5",
        "resume_command": command if "--resume" in command else f"{command} --resume",
        "show_command": f"ddkit show {folder}",
        "curve": _curve(run),
        "rate": _rate(run),
        "identity": facts.identity(run),
        "cost": facts.cost(run),
        "privacy": run.privacy.facts() if run.privacy is not None else [],
        "commands": facts.commands(run),
        "checksum": run.checksum,
        "configuration": json.dumps(run.find("config", default=run.config), indent=2, ensure_ascii=False),
        "notes": facts.notes(run),
    }


def _gallery(distilled: DistilledDataset) -> dict[str, Any]:
    """Return the tiles of every class as data URIs with the size at which they are shown.

    Small images stay at their own resolution, the page enlarges them by a whole factor without smoothing.
    """
    labels = distilled.started_as()
    classes_present = len(labels.unique())
    shown = max(1, min(_PER_CLASS, _MOST_IMAGES // classes_present))
    height, width = distilled.shape[1:]
    scale = automatic_scale(width)
    tile = (round(width * scale), round(height * scale))
    stored = (width, height) if width <= _LARGEST_TILE else tile
    names_and_images = images_by_class(distilled.viewable(), labels, distilled.class_names, shown)
    totals = [int((labels == label).sum()) for label in labels.unique()]
    classes = [
        {
            "name": name,
            "total": total,
            "tiles": [data_uri(png(resize(image, stored)), "image/png") for image in group],
        }
        for total, (name, group) in zip(totals, names_and_images, strict=True)
    ]
    most = max(totals)
    return {
        "classes": classes,
        "tile": tile,
        "pixelated": scale >= 1,
        "in_rows": classes_present < min(5, most),
        "partial": most > shown,
        "shown": shown,
    }


def _curve(run: RunContent) -> dict[str, str] | None:
    """Draw losses and accuracies for a light and a dark page; None when neither was logged."""
    logged = scalar_keys(run.metrics)
    keys = [key for key in logged if "loss" in key.lower()][:2] + [key for key in logged if "accuracy" in key.lower()][
        :2
    ]
    if not keys:
        return None
    values = [entry[keys[0]] for entry in run.metrics if formats.known(entry.get(keys[0]))]
    names = " and ".join(key.replace("_", " ") for key in keys)
    return {
        "light": data_uri(curve(run.metrics, keys, format="svg"), "image/svg+xml"),
        "dark": data_uri(curve(run.metrics, keys, format="svg", dark=True), "image/svg+xml"),
        "alt": f"Curve of {names} over {formats.count(run.metrics[-1]['step'])} outer steps; "
        f"{keys[0].replace('_', ' ')} goes from {formats.number(values[0])} to {formats.number(values[-1])}.",
    }


def _rate(run: RunContent) -> dict[str, Any] | None:
    """Return accuracy against bytes, and what follows from it; None where it was not measured."""
    if run.rate is None:
        return None
    return {"picture": rate.picture(run.rate), "sentences": [rate.sentence(lead) for lead in run.rate.leads()]}


def _accuracy(run: RunContent, rows: list[AccuracyRow]) -> dict[str, Any]:
    """Group the accuracy rows by architecture and place each on a common axis."""
    low, high = _axis(rows)
    lines: list[dict[str, Any]] = [
        {
            "row": row,
            "images": run.distilled.budget.images if run.distilled is not None and row.distilled else row.images,
            "bytes": run.distilled.budget.payload if run.distilled is not None and row.distilled else row.bytes,
            "dot": _position(row.mean, low, high),
            "left": _position(row.low if row.low is not None else row.mean, low, high),
            "right": _position(row.high if row.high is not None else row.mean, low, high),
            "published": _position(row.published.accuracy, low, high) if row.published else None,
        }
        for row in rows
    ]
    architectures = dict.fromkeys(row.architecture for row in rows)
    sources = {row.published.source: None for row in rows if row.published is not None and row.published.source}
    return {
        "groups": [(name, [line for line in lines if line["row"].architecture == name]) for name in architectures],
        "axis": (low, high),
        "has_published": any(row.published is not None for row in rows),
        "sources": [re.sub(r"^\w+://", "", source) for source in sources],
        "single": all(row.repeats < 2 for row in rows),
        "protocol": facts.protocol(run),
    }


def _axis(rows: Sequence[AccuracyRow]) -> tuple[float, float]:
    """Return the ends of an axis in whole tenths that hold every mean, interval and published figure."""
    values = [
        value
        for row in rows
        for value in (row.mean, row.low, row.high, row.published.accuracy if row.published else None)
        if value is not None
    ]
    low = max(0.0, math.floor(min(values) * 10 - 1e-9) / 10)
    high = min(1.0, math.ceil(max(values) * 10 + 1e-9) / 10)
    return low, max(high, low + 0.1)


def _position(value: float, low: float, high: float) -> float:
    """Return where ``value`` lies between ``low`` and ``high``, in percent of the axis."""
    return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)
