"""Recipe ``nas``: rank a grid of ConvNets on tiny sets and by cheaper means, compare with the ground truth."""

from __future__ import annotations

import functools
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from pydantic import Field

from ddkit import methods
from ddkit.base.config import DistillConfig
from ddkit.base.executor import Executor, executor
from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.loading import load_pair
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.data.splits import stratified_split
from ddkit.engine.distiller import Distiller
from ddkit.engine.selection import CoresetSession
from ddkit.engine.session import Session
from ddkit.errors import ConfigError, unknown_name
from ddkit.integrations.nas.comparison import Comparison, break_even, compare, noise_ceiling
from ddkit.integrations.nas.correlation import Correlation
from ddkit.integrations.nas.differences import Difference, difference, mean_spearman
from ddkit.integrations.nas.entries import Cost
from ddkit.integrations.nas.measures import MEASURES, zero_cost
from ddkit.integrations.nas.ranker import ProxyRanker
from ddkit.integrations.nas.ranking import Ranking
from ddkit.integrations.nas.space import SearchSpace
from ddkit.integrations.nas.trainer import Preparation
from ddkit.recipes.job import Frozen, Job, checked, of_data_set, of_size
from ddkit.recipes.page import Page, panels
from ddkit.training.recipe import TrainingRecipe

#: Proxies that are neither a method of ddkit nor a zero-cost measure.
REAL = ("early-stop", "quarter")
COLOURS = {"distilled": "#0f766e", "selected": "#b7791f", "real": "#3b5b92", "zero-cost": "#7b8089"}
MARKERS = "osD^vP*Xph<>"
COSTS = ("images", "bytes", "draws", "search s", "preparation s", "image passes", "with preparation")


class TruthSettings(Frozen):
    """Length and repeats of the ground truth."""

    steps: int = Field(ge=4)
    seeds: int = Field(ge=1)


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    side: int = Field(ge=4)
    train_images: int = Field(ge=10)
    validation_images: int = Field(ge=10)
    test_images: int = Field(ge=10)
    space: Literal["small", "literature"] | dict[str, list[Any]]
    truth: TruthSettings
    training: dict[str, Any]
    proxies: list[str] = Field(min_length=1)
    ipcs: list[int] = Field(min_length=1)
    steps: int = Field(ge=1)
    early_steps: list[int]
    seeds: int = Field(ge=1)
    draws: int = Field(ge=1)
    executor: Literal["local", "ray"]
    budgets: dict[str, dict[str, Any]]


def run(job: Job) -> dict[str, Any]:
    """Rank by every proxy, compare with the truth; write ``table.json``, ``table.csv``, ``nas.png`` and the page."""
    settings = checked(Settings, of_data_set(job.values))
    search = plan(settings, job.out)
    with executor(settings.executor) as pool:
        sets = {f"set-{one.out.name}": one for one in search.sets}
        ways = {f"rank-{one.file_name}": one for one in search.ways()}
        cells = job.cells(1 + len(sets) + len(ways))
        train, shape = search.parts.train, "x".join(map(str, search.parts.train.shape))
        job.say(f"{train.name}: {len(search.space)} candidates, {len(train)} images of {shape}; the ground truth first")
        truth: Ranking = cells.of(Ranking, "truth", functools.partial(search.truth, pool))
        made = cells.map(Preparation, functools.partial(make, train), sets)
        took = {one.out.name: preparation for one, preparation in zip(search.sets, made, strict=True)}
        proxies: list[Proxy] = cells.map(Proxy, functools.partial(search.rank, took, pool), ways)
    truth.save(job.out / "rankings", "truth")
    for proxy in proxies:
        for draw, ranking in enumerate(proxy.rankings):
            ranking.save(job.out / "rankings", f"{proxy.way.file_name}-{draw}")
    return tell(job, settings, truth, proxies)


@dataclass(frozen=True)
class Way:
    """One way of ranking.

    Args:
        name: of the method or measure.
        kind: ``distilled``, ``selected``, ``real`` or ``zero-cost``.
        ipc: images per class of a tiny set; None for others.
        steps: of training per candidate.
    """

    name: str
    kind: str
    ipc: int | None
    steps: int

    @property
    def title(self) -> str:
        """What tables and the figure call it."""
        if self.kind in ("distilled", "selected"):
            return f"{self.name}, {self.ipc} per class"
        return f"{self.name}, {self.steps} steps" if self.kind == "real" else self.name

    @property
    def file_name(self) -> str:
        """Stem of its files."""
        return "-".join(str(part) for part in (self.name, self.ipc, self.steps) if part is not None)


@dataclass(frozen=True)
class Search:
    """Everything of a run that was checked before it starts."""

    settings: Settings
    parts: Parts
    space: SearchSpace
    training: TrainingRecipe
    sets: list[TinySet]
    out: Path

    def ranker(self, steps: int, seeds: int, draw: int = 0) -> ProxyRanker:
        """Return the ranker of every proxy: the same training, only its length differs."""
        return ProxyRanker(steps=steps, seeds=seeds, recipe=self.training, seed=self.settings.seed + draw)

    def truth(self, pool: Executor) -> Ranking:
        """Train all candidates on all images."""
        ranker = self.ranker(self.settings.truth.steps, self.settings.truth.seeds)
        return ranker.truth(self.space, self.parts.train, self.parts.test, executor=pool, cache=self.out / "trainings")

    def ways(self) -> list[Way]:
        """Return all proxies: tiny sets, short trainings on real images, and what untrained networks say."""
        chosen, steps = dict.fromkeys(self.settings.proxies), self.settings.steps
        pairs = dict.fromkeys((one.method, one.ipc) for one in self.sets)
        kinds = {True: "selected", False: "distilled"}
        ways = [Way(name, kinds[methods.get(name).is_coreset], ipc, steps) for name, ipc in pairs]
        if "early-stop" in chosen:
            ways += [Way("early-stop", "real", None, steps) for steps in self.early_steps()]
        if "quarter" in chosen:
            ways.append(Way("quarter", "real", None, max(1, self.settings.truth.steps // 4)))
        return ways + [Way(name, "zero-cost", None, 0) for name in chosen if name in MEASURES]

    def early_steps(self) -> list[int]:
        """Return lengths of early stopping: those of as many image passes as the tiny sets take, and further ones."""
        batch, classes = self.training.batch_size, self.parts.train.num_classes
        passes = [self.settings.steps * min(batch, ipc * classes) for ipc in self.settings.ipcs]
        return sorted({*(max(1, round(one / batch)) for one in passes), *self.settings.early_steps})

    def rank(self, preparations: dict[str, Preparation], pool: Executor, way: Way) -> Proxy:
        """Rank the candidates in one way, once a draw."""
        settings, train, data = self.settings, self.parts.train, list[Any]()
        if way.kind == "zero-cost":
            seeds = range(settings.seed, settings.seed + settings.draws)
            return Proxy(way, [zero_cost(way.name, self.space, train, seed=seed) for seed in seeds])
        sets = [one for one in self.sets if (one.method, one.ipc) == (way.name, way.ipc)]
        took = [preparations[one.out.name] for one in sets] or [Preparation()] * settings.draws
        if sets:
            data = [DistilledDataset.load(one.out) for one in sets]
        elif way.name == "quarter":
            streams = Streams(settings.seed)
            data = [train.split_off(0.25, streams(f"quarter/{draw}"))[1] for draw in range(settings.draws)]
        else:
            data = [train] * settings.draws
        rankings = []
        for draw, (one, preparation) in enumerate(zip(data, took, strict=True)):
            ranker = self.ranker(way.steps, settings.seeds, draw)
            how: dict[str, Any] = {"preparation": preparation, "executor": pool, "cache": self.out / "trainings"}
            rankings.append(ranker.rank(self.space, one, self.parts.validation, **how))
        return Proxy(way, rankings, bool(sets) and sets[0].counts_passes)


def plan(settings: Settings, out: Path) -> Search:
    """Check every name and build every piece once, before anything is trained or written."""
    known = {**dict.fromkeys(methods.available()), **dict.fromkeys(REAL), **dict.fromkeys(MEASURES)}
    for name in settings.proxies:
        if name not in known:
            raise unknown_name("proxy", name, known)
    grid = settings.space
    space = getattr(SearchSpace, grid)() if isinstance(grid, str) else SearchSpace.convnet(**grid)
    sizes = (settings.train_images, settings.validation_images, settings.test_images)
    parts = load_parts(settings.data, settings.data_root, settings.side, sizes, settings.seed)
    for spec in space.values():
        spec.build(parts.train.shape, parts.train.num_classes, 0)
    for name in settings.training:
        if name not in TrainingRecipe.model_fields:
            raise unknown_name("field of training", name, TrainingRecipe.model_fields)
    training = TrainingRecipe(**{"name": "nas", **settings.training})
    made = [name for name in dict.fromkeys(settings.proxies) if name not in (*REAL, *MEASURES)]
    sets = []
    for name, ipc, draw in product(made, dict.fromkeys(settings.ipcs), range(settings.draws)):
        overrides = of_size(settings.budgets, name, ipc)
        config = methods.get(name).configure(parts.train, ipc, settings.seed + draw, overrides)
        if draw == 0:
            CoresetSession(config, parts.train) if config.selection else Session(config, parts.train)
        sets.append(TinySet(name, ipc, draw, config, out / "sets" / f"{name}-{ipc}-{draw}"))
    return Search(settings, parts, space, training, sets, out)


@dataclass(frozen=True)
class Parts:
    """The data of a search.

    Args:
        train: what the truth trains on and what is distilled.
        validation: held out of the training data; scores candidates on every proxy.
        test: touched by the truth only.
    """

    train: RealData
    validation: RealData
    test: RealData


def load_parts(data: str, root: str | None, side: int, sizes: tuple[int, int, int], seed: int) -> Parts:
    """Load data, hold validation images out, keep at most ``sizes`` images of a part, stratified, and shrink them."""
    whole, test = load_pair(data, root=root)
    streams = Streams(seed)
    if sizes[1] >= len(whole):
        raise ConfigError(
            f"validation_images={sizes[1]}: '{whole.name}' has {len(whole)} training images; hold out fewer"
        )
    rest, held_out = stratified_split(whole.labels, sizes[1], whole.num_classes, streams("validation"))
    train = at_most(whole.subset(rest), sizes[0], streams("train"))
    train = shrunk(train, side, None)
    validation = shrunk(whole.subset(held_out, "train-held-out"), side, train.preprocessing)
    small = shrunk(at_most(test, sizes[2], streams("test")), side, train.preprocessing)
    return Parts(train, validation, small)


def at_most(data: RealData, count: int, generator: torch.Generator) -> RealData:
    """Return ``count`` images with the class proportions of the whole, or all."""
    if len(data) <= count:
        return data
    return data.subset(stratified_split(data.labels, count, data.num_classes, generator)[1])


def shrunk(data: RealData, side: int, preprocessing: Preprocessing | None) -> RealData:
    """Return the images shrunk to ``side`` pixels, standardised by their own statistics or the given ones."""
    height, width = data.shape[1:]
    images = data.images
    if max(height, width) > side:
        scale = side / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        images = F.interpolate(images.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    return RealData.from_tensors(
        images,
        data.labels,
        class_names=data.class_names,
        name=data.name,
        split=data.split,
        preprocessing=preprocessing,
        allow_missing=True,
    )


@dataclass(frozen=True)
class TinySet:
    """One set to be made, in its run folder."""

    method: str
    ipc: int
    draw: int
    config: DistillConfig
    out: Path

    @property
    def counts_passes(self) -> bool:
        """Whether the image passes of making it are known: those of distribution matching, and none at random."""
        objective = self.config.objective
        matches = objective is not None and objective.name == "distribution" and "real_batch" in objective.options
        return matches or self.method == "random"

    def image_passes(self, train: RealData) -> int:
        """Count the real and synthetic images that distribution matching shows to its networks, 0 for other methods."""
        if not self.counts_passes or self.config.objective is None:
            return 0
        batch = int(self.config.objective.options["real_batch"])
        return self.config.steps * train.num_classes * (batch + self.ipc)


def make(train: RealData, one: TinySet) -> Preparation:
    """Distil or select a set, from its beginning so that its time is whole; return what that took."""
    shutil.rmtree(one.out, ignore_errors=True)
    started = time.process_time()
    Distiller(one.config).fit(train, out=one.out)
    return Preparation(time.process_time() - started, one.image_passes(train))


@dataclass(frozen=True)
class Proxy:
    """One way of ranking, with a ranking a draw, and whether the image passes of making the sets are known."""

    way: Way
    rankings: list[Ranking]
    counts_passes: bool = False

    @property
    def search_seconds(self) -> float:
        """Mean processor seconds of ranking all candidates once."""
        return float(np.mean([ranking.cost.cpu_seconds for ranking in self.rankings]))

    @property
    def preparation_seconds(self) -> float:
        """Mean processor seconds of making one set."""
        return float(np.mean([ranking.cost.preparation_seconds for ranking in self.rankings]))

    @property
    def total_seconds(self) -> float:
        """Both."""
        return self.search_seconds + self.preparation_seconds

    @property
    def cost(self) -> Cost:
        """Mean processor seconds of the draws, as a cost."""
        return Cost(cpu_seconds=self.search_seconds, preparation_seconds=self.preparation_seconds)

    @property
    def image_passes(self) -> int:
        """Training images that one ranking showed to its candidates."""
        return self.rankings[0].cost.image_passes


@dataclass(frozen=True)
class Judged:
    """A proxy with what comparing it with the truth gave.

    Args:
        proxy: what was compared.
        spearman: mean over its draws, over all candidates.
        top: the same over the best fifth of them by the truth.
        comparisons: one per draw.
        against: the selected set of its size that ranks best, for a distilled set.
        difference: of the rho of both.
    """

    proxy: Proxy
    spearman: Correlation
    top: Correlation
    comparisons: list[Comparison]
    against: Proxy | None
    difference: Difference | None

    @property
    def regret(self) -> float:
        """Mean regret over draws, a fraction."""
        return float(np.mean([one.regret for one in self.comparisons]))

    def row(self, candidates: int) -> dict[str, Any]:
        """Return the row of the table."""
        proxy, cost = self.proxy, self.proxy.rankings[0].cost
        rhos = [one.spearman["all"].value for one in self.comparisons]
        spread = f" ± {np.std([rho for rho in rhos if rho is not None]):.3f}" if None not in rhos else ""
        known, low = proxy.way.kind not in ("distilled", "selected") or proxy.counts_passes, self.spearman.low
        return {
            "proxy": proxy.way.title,
            "images": cost.images,
            "bytes": cost.bytes,
            "Spearman": "undefined" if self.spearman.value is None else f"{self.spearman.value:.3f}{spread}",
            "95 %": None if low is None else f"{low:.2f} to {self.spearman.high:.2f}",
            "Kendall": mean_of([one.kendall["all"].value for one in self.comparisons]),
            "n": self.spearman.count,
            "Spearman, top 20 %": f"{self.top}, n {self.top.count}" if self.top.value is not None else None,
            "precision at 5": mean_of([one.precision.get(5) for one in self.comparisons]),
            "accuracy of the pick %": round(100 * float(np.mean([one.selected_value for one in self.comparisons])), 1),
            "regret %": round(100 * self.regret, 1),
            "less the best selected set": f"{self.difference} ({self.against.way.name})" if self.against else None,
            "draws": len(proxy.rankings),
            "search s": round(proxy.search_seconds, 1),
            "preparation s": round(proxy.preparation_seconds, 1),
            "image passes": round(cost.image_passes / candidates) if cost.image_passes else 0,
            "with preparation": round(cost.total_passes / candidates) if known else None,
        }


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean; None where a value is missing."""
    known = [value for value in values if value is not None]
    return round(float(np.mean(known)), 3) if len(known) == len(values) else None


def tell(job: Job, settings: Settings, truth: Ranking, proxies: Sequence[Proxy]) -> dict[str, Any]:
    """Write tables, figure and page; return the outcome."""
    judged = [judge(proxy, proxies, truth) for proxy in proxies]
    table = [one.row(len(truth)) for one in judged]
    ceiling = noise_ceiling(truth)
    scores = sorted(100 * entry.score for entry in truth.usable if entry.score is not None)
    facts = {
        "candidates": len(truth),
        "real images of the truth": truth.cost.images,
        "processor seconds of the truth": round(truth.cost.cpu_seconds, 1),
        "accuracies by the truth %": f"{scores[0]:.1f} to {scores[-1]:.1f}, median {scores[len(scores) // 2]:.1f}",
        "rho of two halves of its seeds": None if ceiling is None else str(ceiling),
    }
    page = Page(job, f"Ranking {len(truth)} networks on {settings.data}", facts)
    page.add("Agreement with the truth", [{k: v for k, v in row.items() if k not in COSTS} for row in table])
    page.add("Cost", [{"proxy": row["proxy"], **{key: row[key] for key in COSTS}} for row in table])
    page.draw("Agreement and regret against cost", draw_figure(judged, truth, ceiling), "nas.png")
    page.add("Distilled sets against their rivals", rivals_of(judged, truth))
    columns = ("candidate", "rank", "accuracy %", "parameters", "status")
    best = [{**row, "accuracy %": accuracy(row)} for row in truth.rows()[:10]]
    page.add("The best candidates by the truth", [{key: row[key] for key in columns} for row in best])
    return page.finish(table, settings.model_dump(mode="json"))


def accuracy(row: dict[str, Any]) -> str | None:
    """Return the accuracy of a candidate with its spread over seeds."""
    return None if row["score"] is None else f"{100 * row['score']:.1f} ± {100 * row['spread']:.1f}"


def rivals_of(judged: Sequence[Judged], truth: Ranking) -> list[dict[str, Any]]:
    """Return rows of each distilled set beside the best selected set, early stopping, and the truth itself.

    Early stopping stands there at equal image passes, and as the longest that takes no more time than making the set
    and ranking on it.
    """
    rows = []
    early = [one for one in judged if one.proxy.way.name == "early-stop"]
    for mine in (one for one in judged if one.proxy.way.kind == "distilled"):
        own = mine.proxy
        others = [("the best selected set", one) for one in judged if one.proxy is mine.against]
        if early:
            equal = min(early, key=lambda one: abs(one.proxy.image_passes - own.image_passes))
            in_time = [one for one in early if one.proxy.total_seconds <= own.total_seconds]
            longest = max(in_time, key=lambda one: one.proxy.way.steps, default=equal)
            others += [("at equal image passes", equal)] + [("in the same time", longest)] * (longest is not equal)
        rivals = [
            (o.proxy.way.title, why, str(difference(own.rankings, o.proxy.rankings, truth)), o.regret, o.proxy.cost)
            for why, o in others
        ]
        for title, why, less, regret, cost in (*rivals, ("the truth", "for all candidates", None, 0.0, truth.cost)):
            number = break_even(own.cost, cost, len(truth))
            rows.append(
                {
                    "set": own.way.title,
                    "rival": title,
                    "which is": why,
                    "rho less its rho": less,
                    "regret %": round(100 * mine.regret, 1),
                    "its regret %": round(100 * regret, 1),
                    "seconds": round(own.total_seconds, 1),
                    "its seconds": round(cost.total_seconds, 1),
                    "pays from candidates": "never" if number is None else f"{math.ceil(number):,}",
                }
            )
    return rows


def judge(proxy: Proxy, proxies: Sequence[Proxy], truth: Ranking) -> Judged:
    """Compare a proxy with the truth, and with the selected set of its size that ranks best."""
    rivals = [one for one in proxies if one.way.kind == "selected" and one.way.ipc == proxy.way.ipc]
    best = max(rivals, key=lambda one: mean_spearman(one.rankings, truth).value or -1.0, default=None)
    best = best if proxy.way.kind == "distilled" else None
    return Judged(
        proxy=proxy,
        spearman=mean_spearman(proxy.rankings, truth),
        top=mean_spearman(proxy.rankings, truth, top=0.2),
        comparisons=[compare(ranking, truth) for ranking in proxy.rankings],
        against=best,
        difference=difference(proxy.rankings, best.rankings, truth) if best else None,
    )


def draw_figure(judged: Sequence[Judged], truth: Ranking, ceiling: Correlation | None) -> Figure:
    """Draw Spearman's rho with its interval, and regret, over processor seconds."""
    figure, (left, right) = panels(2, 5.5, 4.6)
    markers: dict[str, str] = {}  # those of one colour differ
    for kind in COLOURS:
        of_kind = [one.proxy.way.title for one in judged if one.proxy.way.kind == kind]
        markers |= {title: MARKERS[number % len(MARKERS)] for number, title in enumerate(of_kind)}
    early = [one for one in judged if one.proxy.way.name == "early-stop" and one.spearman.value is not None]
    for axes, value in ((left, lambda one: one.spearman.value), (right, lambda one: 100 * one.regret)):
        seconds = [one.proxy.total_seconds for one in early]
        axes.plot(seconds, [value(one) for one in early], color=COLOURS["real"], lw=1)
        for one in judged:
            if value(one) is not None:
                mark(axes, one, value(one), markers[one.proxy.way.title], axes is left)
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
    return figure


def mark(axes: Any, one: Judged, value: float, marker: str, with_interval: bool) -> None:
    """Draw a proxy, and hollow where its set had to be made."""
    proxy, colour = one.proxy, COLOURS[one.proxy.way.kind]
    style = {"color": colour, "ms": 7 if (proxy.way.ipc or 0) > 1 else 5, "ls": "none"}
    seconds = max(proxy.search_seconds, 1e-3)
    axes.plot([seconds], [value], marker=marker, label=proxy.way.title, **style)
    if proxy.preparation_seconds > 0.05:
        axes.plot([proxy.total_seconds], [value], marker=marker, mfc="none", **style)
    if with_interval and one.spearman.low is not None and one.spearman.high is not None:
        axes.plot([seconds, seconds], [one.spearman.low, one.spearman.high], color=colour, lw=1, alpha=0.5)
