"""What does recipe ``nas`` tell: the table, the figure of agreement and regret against cost, and how to read them?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ddkit.evaluation.report.document import Section, write_document
from ddkit.integrations.nas.comparison import break_even, compare, noise_ceiling
from ddkit.integrations.nas.correlation import Correlation
from ddkit.integrations.nas.differences import difference, mean_spearman
from ddkit.integrations.nas.ranking import Ranking
from ddkit.recipes.nas_figure import draw_figure
from ddkit.recipes.nas_proxies import Judged, Proxy


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
            Section("Agreement with the truth", table=[_without(row, _COSTS) for row in table]),
            Section(
                "Cost",
                _COST_TEXT,
                table=[{"proxy": row["proxy"], **{key: row[key] for key in _COSTS}} for row in table],
            ),
            Section("Agreement and regret against cost", figure=figure, caption=_CAPTION),
            Section("How to read this", reading(judged, truth, ceiling)),
            Section("The best candidates by the truth", table=_best_rows(truth)),
            Section(
                "Settings", table=[{"setting": key, "value": json.dumps(value)} for key, value in settings.items()]
            ),
        ],
        command,
    )
    return table, report


_COSTS = ("images", "bytes", "draws", "search s", "preparation s", "image passes", "with preparation")
_COST_TEXT = (
    "Storage of one set, processor seconds for ranking all candidates once and for making one set, and image passes "
    "per candidate, without and with those of making the set shared among the candidates."
)
_CAPTION = (
    "Spearman's rho with the truth, 95 % interval over candidates and draws, and regret of the selected network, "
    "against processor seconds for ranking all candidates. Hollow markers: with the making of the set. Line: early "
    "stopping on the real images. Dotted: two halves of the seeds of the truth with each other. Grey line: cost of the "
    "truth."
)


def _judged(proxy: Proxy, proxies: Sequence[Proxy], truth: Ranking) -> Judged:
    """Compare a proxy with the truth, and with the selected set of its size that ranks best."""
    rivals = [one for one in proxies if one.kind == "selected" and one.ipc == proxy.ipc]
    best = max(rivals, key=lambda one: mean_spearman(one.rankings, truth).value or -1.0, default=None)
    best = best if proxy.kind == "distilled" else None
    return Judged(
        proxy=proxy,
        spearman=mean_spearman(proxy.rankings, truth),
        top=mean_spearman(proxy.rankings, truth, top=0.2),
        comparisons=[compare(ranking, truth) for ranking in proxy.rankings],
        against=best,
        difference=difference(proxy.rankings, best.rankings, truth) if best else None,
    )


def reading(judged: Sequence[Judged], truth: Ranking, ceiling: Correlation | None) -> str:
    """Return paragraphs that say what the figures show, where distillation loses as well."""
    paragraphs = []
    if ceiling is not None:
        paragraphs.append(
            f"Two halves of the seeds of the truth agree with rho {ceiling}: a proxy at that level agrees with the "
            f"truth as another run of it would. The candidates reach {_range(truth)}."
        )
    early = [one for one in judged if one.proxy.name == "early-stop"]
    for one in (one for one in judged if one.proxy.kind == "distilled"):
        paragraphs += [_against_selection(one, judged)] if one.against else []
        paragraphs += [_against_early_stop(one, early, truth)] if early else []
    params = [one for one in judged if one.proxy.name == "params"]
    for one in params:
        beaten = [
            other.proxy.title
            for other in judged
            if other.proxy.kind != "zero-cost" and (other.spearman.value or -1) <= (one.spearman.value or -1)
        ]
        paragraphs.append(
            f"The number of weights alone reaches rho {one.spearman}"
            + (f"; no higher: {', '.join(beaten)}." if beaten else "; every trained proxy is above it.")
        )
    paragraphs.append(
        "Agreement over all candidates and the quality of the chosen network are different things: read the regret "
        "too. Correlations over the top candidates have wide intervals, and choosing these by the truth narrows their "
        "range. Validation images scored the proxies, test images the truth only."
    )
    return "\n\n".join(paragraphs)


def _against_selection(one: Judged, judged: Sequence[Judged]) -> str:
    assert one.difference is not None and one.against is not None
    rival = next(other for other in judged if other.proxy is one.against)
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
        f"{one.proxy.title} {verdict} {rival.proxy.name} at the same number of images and steps: difference of rho "
        f"{one.difference}. Its choice loses {_points(one)} against the best candidate, that of {rival.proxy.name} "
        f"{_points(rival)}."
    )


def _against_early_stop(one: Judged, early: Sequence[Judged], truth: Ranking) -> str:
    """Say what stopping early on all real images does at equal image passes and equal time, and when a set pays."""
    proxy = one.proxy
    equal = min(early, key=lambda other: abs(other.proxy.image_passes - proxy.image_passes))
    in_time = [other for other in early if other.proxy.total_seconds <= proxy.total_seconds]
    longest = max(in_time, key=lambda other: other.proxy.steps, default=equal)
    apart, apart_in_time = (difference(proxy.rankings, other.proxy.rankings, truth) for other in (equal, longest))
    whole, stopped = (break_even(proxy.cost, other, len(truth)) for other in (truth.cost, equal.proxy.cost))
    if apart_in_time.low is not None and apart_in_time.low > 0:
        end = "The set ranks better in the same time, its making counted."
    elif apart.low is not None and apart.low > 0:
        end = "The set ranks better at equal image passes, its making not counted: make it once and search often."
    else:
        end = (
            "Where the real images are at hand, early stopping is the proxy to use; the set is for where they are too "
            "large, remote or private."
        )
    time_alone = (
        f" The longest early stopping tried that takes no more time than that ({longest.proxy.steps} steps) reaches "
        f"rho {longest.spearman} (difference {apart_in_time})."
    )
    return (
        f"Early stopping on all real images at as many image passes ({equal.proxy.steps} steps) reaches rho "
        f"{equal.spearman} against {one.spearman} of {proxy.title} (difference {apart}); its choice loses "
        f"{_points(equal)}. It took {equal.proxy.search_seconds:.1f} s, the search on the set "
        f"{proxy.search_seconds:.1f} s and making the set {proxy.preparation_seconds:.1f} s."
        f"{time_alone if longest is not equal else ''} In time alone, the set {_paid(whole)} against training all "
        f"candidates as the truth does, and {_paid(stopped)} against early stopping at equal image passes. {end}"
    )


def _points(one: Judged) -> str:
    return f"{100 * one.regret:.1f} points"


def _without(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _paid(candidates: float | None) -> str:
    return "never pays" if candidates is None else f"pays from {math.ceil(candidates):,} candidates on"


def _setting_text(truth: Ranking, settings: dict[str, Any], seconds: float) -> str:
    return (
        f"{len(truth)} candidates were trained on {truth.cost.images} real images for {settings['truth']['steps']} "
        f"steps with {settings['truth']['seeds']} seeds and scored on test images: the truth, "
        f"{truth.cost.cpu_seconds:.0f} processor seconds. Every proxy ranked the same candidates for "
        f"{settings['steps']} steps, or as its name says, scored on held-out training images."
        f"\n\nThe whole run took {seconds:.0f} s with PyTorch {torch.__version__}."
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
