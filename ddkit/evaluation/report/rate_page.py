"""How does ``ddkit curve`` show what it measured: the figure, what follows from it, and all points, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ddkit.evaluation.rate import Curve, Point
from ddkit.evaluation.report.document import Section, write_document
from ddkit.evaluation.report.facts import display_name
from ddkit.evaluation.report.formats import interval, percent
from ddkit.evaluation.report.rate import picture, sentence
from ddkit.evaluation.statistics import summary


def write_page(path: Path, curve: Curve, command: str) -> Path:
    """Write the figure with its sentences and tables as one self-contained page."""
    said = list(map(sentence, curve.leads()))
    if curve.whole is not None:
        said.append(f"The whole set reaches {percent(summary(curve.whole).mean)} %.")
    caption = (
        f"Networks: {display_name(curve.model)}, recipe {curve.recipe}. The line of a kind is what one can have for at "
        f"most so many bytes: the best of its points so far (filled), as the test set says for all alike; between "
        f"two points it may reach more than was measured. Bars are 95 % intervals."
    )
    members = [point for points in curve.kinds().values() for point in points]
    sections = [
        Section("What bytes buy", "\n\n".join(said), picture=picture(curve), caption=caption),
        Section("Points", table=[_row(point, curve, any(one.form for one in members)) for point in members]),
    ]
    return write_document(path, f"{display_name(curve.data)}: accuracy against bytes", sections, command)


def _row(point: Point, curve: Curve, forms: bool) -> dict[str, Any]:
    ends = point.interval95 or (None, None)
    return {
        "Set": display_name(point.kind),
        "Run": point.run,
        "Codec": point.codec or "as it is",
        **({"Form": point.form} if forms else {}),
        "Bytes per class": f"{point.payload / curve.classes:,.1f}",
        "Images": point.images,
        "Accuracy, %": percent(point.mean),
        "95 % interval": interval(*ends),
        "Networks": sum(map(len, point.accuracies)),
    }
