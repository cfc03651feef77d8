"""What does recipe ``nas`` tell: the table, the figure of agreement and regret against cost, and how to read them?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ddkit.integrations.nas import (
    Correlation,
    Ranking,
    break_even,
    compare,
    difference,
    mean_spearman,
    noise_ceiling,
)
from ddkit.recipes.nas_figure import draw_figure
from ddkit.recipes.nas_proxies import Judged, Proxy
from ddkit.report.document import Section, write_document


def write_page(
    out: Path, truth: Ranking, proxies: Sequence[Proxy], settings: dict[str, Any], command: str, seconds: float
) -> tuple[list[dict[str, Any]], Path]:
    """Write the figure and the page; return the rows of the table and the path of the page."""
    judged = [_judged(proxy, proxies, truth) for proxy in proxies]
    table = [one.row(len(truth)) for one in judged]
    ceiling = noise_ceiling(truth)
    figure = draw_figure(out / "nas.png", judged, truth, ceiling)
    report = write_document(
        out / "report.html",
        f"Ranking {len(truth)} networks on {settings['data']}",
        [
            Section("What was done", _setting_text(truth, settings, seconds)),
            Section("Agreement with the truth", table=table),
            Section("Agreement and regret against cost", figure=figure, caption=_CAPTION),
            Section("How to read this", reading(judged, truth, ceiling)),
            Section("The truth", table=_best_rows(truth)),
        ],
        command,
    )
    return table, report


_CAPTION = (
    "Spearman's rho with the truth, 95 % interval over candidates, and regret of the selected network, against "
    "processor seconds for ranking all candidates. Hollow markers: with the making of the set. Line: early stopping on "
    "the real images. Dotted: two runs of the truth with each other."
)


def _judged(proxy: Proxy, proxies: Sequence[Proxy], truth: Ranking) -> Judged:
    """Compare a proxy with the truth, and with the selected set of its size that ranks best."""
    rivals = [one for one in proxies if one.kind == "selected" and one.ipc == proxy.ipc]
    best = max(rivals, key=lambda one: mean_spearman(one.rankings, truth).value or -1.0, default=None)
    compared = proxy.kind == "distilled" and best is not None
    return Judged(
        proxy=proxy,
        spearman=mean_spearman(proxy.rankings, truth),
        comparisons=[compare(ranking, truth) for ranking in proxy.rankings],
        against=best.name if compared and best else None,
        difference=difference(proxy.rankings, best.rankings, truth) if compared and best else None,
    )


def reading(judged: Sequence[Judged], truth: Ranking, ceiling: Correlation | None) -> str:
    """Return paragraphs that say what the figures show, where distillation loses as well."""
    paragraphs = []
    if ceiling is not None:
        paragraphs.append(
            f"Two halves of the seeds of the truth agree with rho {ceiling}: no proxy can be expected to do better. "
            f"The candidates reach {_range(truth)}."
        )
    for one in (one for one in judged if one.difference is not None):
        paragraphs.append(_against_selection(one))
        early = [other for other in judged if other.proxy.name == "early-stop" and other.proxy.ipc == one.proxy.ipc]
        paragraphs += [_against_early_stop(one, other, truth) for other in early]
    params = [one for one in judged if one.proxy.name == "params"]
    for one in params:
        beaten = [
            other.proxy.title
            for other in judged
            if other.proxy.kind != "zero-cost" and (other.spearman.value or -1) <= (one.spearman.value or -1)
        ]
        paragraphs.append(
            f"The number of weights alone reaches rho {one.spearman}"
            + (f"; {', '.join(beaten)} shows nothing beyond it." if beaten else "; every trained proxy is above it.")
        )
    paragraphs.append(
        "Agreement over all candidates and the quality of the chosen network are different things: read the regret "
        "too. Correlations over the top candidates have wide intervals, and choosing these by the truth narrows their "
        "range. Validation images scored the proxies, test images the truth only."
    )
    return "\n\n".join(paragraphs)


def _against_selection(one: Judged) -> str:
    assert one.difference is not None
    low, high = one.difference.low, one.difference.high
    if one.difference.value is None or low is None or high is None:
        verdict = "cannot be compared with"
    elif low > 0:
        verdict = "ranks better than"
    elif high < 0:
        verdict = "ranks worse than"
    else:
        verdict = "cannot be told apart from"
    return (
        f"{one.proxy.title} {verdict} {one.against} at the same number of images and steps: difference of rho "
        f"{one.difference}. Its choice loses {100 * one.regret:.1f} points against the best candidate."
    )


def _against_early_stop(one: Judged, early: Judged, truth: Ranking) -> str:
    """Say what stopping early on all real images does at equal image passes, and from where on distilling pays."""
    apart = difference(one.proxy.rankings, early.proxy.rankings, truth)
    cost, candidates = one.proxy.rankings[0].cost, len(truth)
    whole, stopped = (break_even(cost, other, candidates) for other in (truth.cost, early.proxy.rankings[0].cost))
    clear = apart.low is not None and apart.low > 0
    end = (
        "At this length the set ranks better, the cost of making it not counted."
        if clear
        else "Where the real images are at hand, early stopping is the proxy to use; the set is for where they are too "
        "large, remote or private."
    )
    return (
        f"Early stopping on all real images at as many image passes ({early.proxy.steps} steps) reaches rho "
        f"{early.spearman} against {one.spearman} of {one.proxy.title} (difference {apart}), in "
        f"{early.proxy.search_seconds:.1f} s against {one.proxy.search_seconds:.1f} s and "
        f"{one.proxy.preparation_seconds:.1f} s for making the set. In time alone, the set {_paid(whole)} against "
        f"training all candidates as the truth does, and {_paid(stopped)} against early stopping. {end}"
    )


def _paid(candidates: float | None) -> str:
    return "never pays" if candidates is None else f"pays from {math.ceil(candidates):,} candidates on"


def _setting_text(truth: Ranking, settings: dict[str, Any], seconds: float) -> str:
    lines = "; ".join(f"{name}: {value}" for name, value in settings.items())
    return (
        f"{len(truth)} candidates were trained on {truth.cost.images} real images for {settings['truth']['steps']} "
        f"steps with {settings['truth']['seeds']} seeds and scored on test images: the truth, "
        f"{truth.cost.cpu_seconds:.0f} processor seconds. Every proxy ranked the same candidates for "
        f"{settings['steps']} steps, or as its name says, scored on held-out training images."
        f"\n\nThe whole run took {seconds:.0f} s with PyTorch {torch.__version__}.\n\n{lines}"
    )


def _best_rows(truth: Ranking, count: int = 10) -> list[dict[str, Any]]:
    return [
        {
            "candidate": row["candidate"],
            "rank": row["rank"],
            "accuracy %": f"{100 * row['score']:.1f} ± {100 * row['spread']:.1f}" if row["score"] is not None else None,
            "parameters": row["parameters"],
            "status": row["status"],
        }
        for row in truth.rows()[:count]
    ]


def _range(truth: Ranking) -> str:
    scores = sorted(entry.score for entry in truth.usable if entry.score is not None)
    middle = scores[len(scores) // 2]
    return f"{100 * scores[0]:.1f} to {100 * scores[-1]:.1f} %, half of them at least {100 * middle:.1f} %"
