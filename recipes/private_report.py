"""What does recipe ``private`` tell: table, figure, audit, and how to read them honestly?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.evaluation.report.document import Section, write_document
from ddkit.evaluation.statistics import paired_difference, summary
from ddkit.recipes.private_cells import Cell, Outcome, set_folder

#: Test accuracies in percent at delta 1e-5, from the table of Dockhorn et al. 2023 (DPDM, arXiv 2210.09929), by dataset
#: and epsilon. Networks and set sizes differ from those here.
PUBLISHED: dict[str, dict[str, dict[float, float]]] = {
    "mnist": {
        "dp-sgd-cnn": {1: 88.2, 10: 96.4},
        "dp-sgd-linear": {1: 89.1, 10: 91.6},
        "dp-merf": {10: 82.1},
    },
    "fashionmnist": {
        "dp-sgd-cnn": {1: 70.5, 10: 77.1},
        "dp-sgd-linear": {1: 79.6, 10: 83.3},
        "dp-merf": {10: 75.4},
    },
}
#: Other published private generators of the same table.
BESIDE = {
    "mnist": "PEARL 78.2 and 78.8 at epsilon 1 and 10, DP-Sinkhorn 83.2, G-PATE 80.9, DataLens 80.7, GS-WGAN 80 at "
    "epsilon 10, DPDM (a diffusion model) 95.3 and 98.1",
    "fashionmnist": "PEARL 68.3 and 64.9 at epsilon 1 and 10, DP-Sinkhorn 71.1, DataLens 70.6, G-PATE 69.3, GS-WGAN 65 "
    "at epsilon 10, DPDM (a diffusion model) 79.4 and 86.2",
}

Rows = Sequence[tuple[Cell, list[Outcome]]]


def write_page(
    out: Path,
    outcomes: Rows,
    audit: Sequence[Mapping[str, Any]],
    train: RealData,
    settings: Mapping[str, Any],
    command: str,
    seconds: float,
) -> tuple[list[dict[str, Any]], Path]:
    """Write figure and page; return the table and the path of the page.

    Args:
        out: folder.
        outcomes: rows with their seeds.
        audit: rows of the audit; may be empty.
        train: the records, for names and sizes.
        settings: of the recipe.
        command: what the user typed.
        seconds: of the whole run.
    """
    table = [_row(cell, found, _bar(outcomes, cell.epsilon), train.name) for cell, found in outcomes]
    costs = [row for row in (_cost(cell, found) for cell, found in outcomes) if row]
    figure = _figure(out, outcomes, settings["seed"])
    sections = [
        Section(
            "What was done",
            f"{train.name}: {len(train)} training images in {train.num_classes} classes, {settings['ipc']} images per "
            f"class and set, {settings['seeds']} seeds, delta {settings['delta']:g}, accountant "
            f"{settings['accountant']}. All of it took {seconds:.0f} seconds.",
        ),
        Section("Accuracy on the test set", table=table),
        Section("", figure=figure, caption="Accuracy at each epsilon, and one released image of every class."),
        Section("How to read this", _reading(outcomes, train.name)),
        Section(
            "What it costs",
            "Epsilon of Opacus's accountant beside a computation without Opacus: the analytic Gaussian mechanism for "
            "one release, numerically integrated Rényi divergences for sampled queries (an upper bound, looser than "
            "the PRV accountant's by some per cent).",
            table=costs,
        ),
    ]
    if audit:
        sections.append(Section("Audit", _audit_text(audit), table=list(audit)))
    sections.append(Section("Settings", table=_settings_table(settings)))
    title = f"Differentially private distillation of {train.name}"
    return table, write_document(out / "report.html", title, sections, command)


def _settings_table(settings: Mapping[str, Any], group: str = "") -> list[dict[str, str]]:
    """Return one row per setting, those of a group by their full name, as ``--set`` takes it."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += _settings_table(value, f"{group}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append({"setting": group + name, "value": "none" if value is None else text})
    return rows


def _percent(found: Sequence[Outcome]) -> list[float]:
    return [100 * one.accuracy for one in found]


def _bar(outcomes: Rows, epsilon: float | None) -> list[float] | None:
    """Return the accuracies of the best private classifier at an epsilon: the bar that decides."""
    scores = [_percent(found) for cell, found in outcomes if cell.classifies and cell.epsilon == epsilon]
    return max(scores, key=lambda values: float(np.mean(values))) if scores else None


def _row(cell: Cell, found: Sequence[Outcome], bar: list[float] | None, data: str) -> dict[str, Any]:
    scores = _percent(found)
    figures = summary(scores)
    kind = "classifier" if cell.classifies else "set"
    return {
        "method": cell.name,
        "epsilon": "none" if cell.epsilon is None else f"{cell.epsilon:g}",
        "releases": kind,
        "accuracy %": f"{figures.mean:.1f} ± {figures.std:.1f}",
        "seeds": figures.count,
        "minus best DP-SGD (95 %)": _difference(scores, bar),
        "published %": PUBLISHED.get(data, {}).get(cell.name, {}).get(cell.epsilon or 0.0),
        "seconds": round(float(np.mean([one.seconds for one in found])), 1),
    }


def _difference(scores: list[float], bar: list[float] | None) -> str | None:
    if bar is None or scores == bar:
        return None
    difference = paired_difference(scores, bar).differences
    interval = difference.interval95
    spread = "" if interval is None else f" [{interval[0]:+.1f}, {interval[1]:+.1f}]"
    return f"{difference.mean:+.1f}{spread}"


def _cost(cell: Cell, found: Sequence[Outcome]) -> dict[str, Any] | None:
    one = found[0]
    if one.epsilon is None:
        return None
    return {
        "method": cell.name,
        "claimed": f"{cell.epsilon:g}",
        "noise multiplier": None if one.sigma is None else round(one.sigma, 4),
        "epsilon, Opacus": round(one.epsilon, 4),
        "epsilon, independent": None if one.independent is None else round(one.independent, 4),
        "replacing a record, at most": None if one.replaced is None else round(one.replaced, 2),
    }


def _reading(outcomes: Rows, data: str) -> str:
    """Say what the figures say."""
    parts = []
    for epsilon in sorted({cell.epsilon for cell, _ in outcomes if cell.epsilon is not None}):
        made = [(cell.name, _percent(found)) for cell, found in outcomes if cell.distils and cell.epsilon == epsilon]
        bar = _bar(outcomes, epsilon)
        if not made:
            continue
        name, scores = max(made, key=lambda pair: float(np.mean(pair[1])))
        text = f"At epsilon {epsilon:g} the best distilled set is that of {name}: {np.mean(scores):.1f} %."
        if bar is not None:
            gap = float(np.mean(scores) - np.mean(bar))
            text += (
                f" A classifier trained by DP-SGD on the records reaches {np.mean(bar):.1f} % at the same cost, so the "
                + (
                    f"set wins by {gap:.1f} points."
                    if gap > 0
                    else f"bar is not beaten ({gap:+.1f} points): this is a private set that any model can be trained "
                    f"on without further cost, not the most accurate private classifier."
                )
            )
        other = [_percent(found) for cell, found in outcomes if (cell.name, cell.epsilon) == ("dp-merf", epsilon)]
        if other:
            ahead = "more: " if np.mean(other[0]) > np.mean(scores) else ""
            text += f" The generator of DP-MERF, with its larger set, reaches {ahead}{np.mean(other[0]):.1f} %."
        parts.append(text)
    free = [_percent(found) for cell, found in outcomes if cell.epsilon is None]
    if free:
        parts.append(
            f"Without privacy the same objective (DM from real images, shortened schedule) reaches "
            f"{np.mean(free[0]):.1f} %: what lies between it and the private rows is the price of noise, of starting "
            f"from noise and of clipping together."
        )
    if data in BESIDE:
        parts.append(f"Published private generators ({data}, test accuracy in %): {BESIDE[data]}.")
    parts.append(
        "Every figure is that of the last step; nothing was selected on test data. The guarantee is about adding or "
        "removing one record, and assumes the public quantities that every set's report lists. A method without noise "
        "has no such guarantee, whatever its images look like."
    )
    return "\n\n".join(parts)


def _audit_text(audit: Sequence[Mapping[str, Any]]) -> str:
    refuted = [row for row in audit if row["verdict"] == "CLAIM REFUTED"]
    missed = [row for row in audit if row["verdict"] == "MISSED"]
    text = (
        "Lower bounds on epsilon at 95 % confidence. A bound below the claim tests the program and proves nothing "
        "about safety; broken mechanisms and the method without privacy are there to show that the attacks can see."
    )
    if refuted:
        text += f"\n\n{len(refuted)} claims are REFUTED: do not use these sets."
    if missed:
        text += (
            f"\n\n{len(missed)} of the subjects that are not private were missed at this number of trials; raise "
            f"audit.trials or audit.runs."
        )
    return text


def _figure(out: Path, outcomes: Rows, seed: int) -> Path:
    """Draw accuracies by epsilon, and the first image of every class of the first method."""
    epsilons = sorted({cell.epsilon for cell, _ in outcomes if cell.epsilon is not None})
    names = list(dict.fromkeys(cell.name for cell, _ in outcomes if cell.epsilon is not None))
    figure = Figure(figsize=(9, 3 + 0.9 * len(epsilons)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + len(epsilons), 1, height_ratios=[4, *[1] * len(epsilons)])
    axes = figure.add_subplot(grid[0])
    width = 0.8 / len(names)
    found = {(cell.name, cell.epsilon): _percent(values) for cell, values in outcomes}
    for number, name in enumerate(names):
        means = [float(np.mean(found[name, epsilon])) for epsilon in epsilons]
        spread = [float(np.std(found[name, epsilon])) for epsilon in epsilons]
        places = np.arange(len(epsilons)) + width * (number - (len(names) - 1) / 2)
        axes.bar(places, means, width, yerr=spread, label=name, capsize=2)
    if ("dm", None) in found:
        axes.axhline(float(np.mean(found["dm", None])), color="black", linestyle="--", label="dm, no privacy")
    axes.set_xticks(range(len(epsilons)), [f"epsilon {epsilon:g}" for epsilon in epsilons])
    axes.set_ylabel("test accuracy %")
    axes.legend(fontsize=8, ncols=3, loc="lower right")
    shown = next(cell.name for cell, _ in outcomes if cell.distils)
    for row, epsilon in enumerate(epsilons, 1):
        strip = figure.add_subplot(grid[row])
        strip.imshow(_strip(set_folder(out / "sets", Cell(shown, epsilon), seed)), cmap="gray", vmin=0, vmax=1)
        strip.set_title(f"{shown}, epsilon {epsilon:g}", fontsize=8)
        strip.set_axis_off()
    path = out / "private.png"
    figure.savefig(path, dpi=110)
    return path


def _strip(folder: Path) -> np.ndarray:
    """Return the first image of every class side by side, (H, K W) or (H, K W, 3)."""
    released = DistilledDataset.load(folder)
    order = [int((released.hard_labels() == label).nonzero()[0]) for label in range(released.num_classes)]
    images = released.viewable()[order]
    joined = images.permute(2, 0, 3, 1).reshape(images.shape[2], -1, images.shape[1])
    return np.asarray(joined[..., 0] if images.shape[1] != 3 else joined)
