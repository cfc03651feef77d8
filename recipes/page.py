"""How does a recipe tell what it found: tables and figures under fixed text, as a page, JSON and CSV?"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddkit.base.files import write_atomically, write_text
from ddkit.evaluation.report.document import Section, write_document
from ddkit.evaluation.statistics import paired_difference
from ddkit.recipes.job import Job

Rows = Sequence[Mapping[str, Any]]


class Page:
    """The results of a recipe, put together from top to bottom.

    Under each heading or figure stands the text that the recipe's YAML file has for it under ``page``, a paragraph a
    line.

    Args:
        job: the run.
        title: of the page.
        facts: what was done, in numbers.
    """

    def __init__(self, job: Job, title: str, facts: Mapping[str, Any]) -> None:
        self._job, self._title, self._sections = job, title, list[Section]()
        rows = [*facts.items(), ("seconds", round(self._seconds)), ("PyTorch", torch.__version__)]
        self.add("What was done", [{"what": what, "value": value} for what, value in rows])

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._job.started, 1)

    def add(self, heading: str, table: Rows = ()) -> None:
        """Add a section; without text and table there is none."""
        text = self._job.texts.get(heading, "").replace("\n", "\n\n")
        if text or table:
            self._sections.append(Section(heading, text, table))

    def draw(self, heading: str, figure: Figure, name: str) -> None:
        """Add a section with a figure, whose caption is the text, and keep it as ``name`` in the output folder."""
        path = self._job.out / name
        write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=130))
        self._sections.append(Section(heading, figure=path, caption=self._job.texts.get(heading, "").strip()))

    def finish(self, table: Rows, settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """Write ``report.html``, ``table.csv`` and ``table.json``, which has ``more`` as well; return its content."""
        self.add("How to read this")
        self.add("Settings", _flat(settings))
        report = write_document(self._job.out / "report.html", self._title, self._sections, self._job.command)
        write_text(self._job.out / "table.csv", csv_text(table))
        outcome = {"table": table, **more, "report": str(report), "seconds": self._seconds}
        write_text(self._job.out / "table.json", json.dumps(outcome, indent=2) + "\n")
        return outcome


def csv_text(rows: Rows) -> str:
    """Return rows with the same keys as CSV with a head; None is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(settings: Mapping[str, Any], group: str = "") -> list[dict[str, str]]:
    """Return one row per setting, those of a group by their full name, as ``--set`` takes it."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            rows += _flat(value, f"{group}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append({"setting": f"{group}{name}", "value": "none" if value is None else text})
    return rows


def panels(count: int, width: float = 5.2, height: float = 4.2, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return an empty figure of panels beside each other."""
    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False, **options)[0])


def difference(a: Sequence[float], b: Sequence[float], ends: str = " [{:+.1f}, {:+.1f}]", scale: float = 100.0) -> str:
    """Return the mean of the paired differences a - b with its 95 % interval, which one pair does not have.

    Args:
        a: values, fractions unless ``scale`` says otherwise.
        b: as many.
        ends: how the ends of the interval and half its width are written.
        scale: from the values to points.
    """
    found = paired_difference(a, b).differences
    text = f"{scale * found.mean:+.1f}"
    if found.interval95 is None or found.half_width95 is None:
        return text
    return text + ends.format(*(scale * end for end in (*found.interval95, found.half_width95)))
