"""Recipe ``private``: distil under differential privacy, audit it, and set it beside classifiers trained by DP-SGD."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pydantic import Field

from ddkit.base.executor import executor
from ddkit.base.files import write_text
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.privacy import Statement
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.engine.distiller import Distiller
from ddkit.errors import ConfigError, unknown_name
from ddkit.evaluation.kernel import evaluate_kernel
from ddkit.evaluation.statistics import summary
from ddkit.integrations.private.audit import AuditRow, audit_mechanism, audit_membership, require_audit
from ddkit.integrations.private.baselines import PrivateClassifier, dp_sgd_linear, dp_sgd_network
from ddkit.integrations.private.data import public_counts
from ddkit.integrations.private.distiller import PrivateDistiller
from ddkit.integrations.private.independent import Queries, independent_epsilon
from ddkit.integrations.private.merf import dp_merf
from ddkit.integrations.private.methods import METHODS
from ddkit.models.spec import ModelSpec
from ddkit.recipes.job import Frozen, Job, checked, of_data_set
from ddkit.recipes.page import Page, difference
from ddkit.training.accuracy import accuracies
from ddkit.training.named import recipe as recipe_called
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

BASELINES = ("dm", "dp-sgd-linear", "dp-sgd-cnn", "dp-merf")
CLASSIFIERS = ("dp-sgd-linear", "dp-sgd-cnn")
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

Epsilon = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class EvaluationSettings(Frozen):
    """How networks are trained on a released set."""

    protocol: Literal["plain", "dsa"]
    model: str
    networks: int = Field(ge=1)
    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)


class LinearSettings(Frozen):
    """DP-SGD on random features."""

    steps: int = Field(ge=1)
    filters: int = Field(ge=1)
    lr: float = Field(gt=0)
    batch: int = Field(ge=1)


class NetworkSettings(Frozen):
    """DP-SGD on a network, by Opacus."""

    model: str
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    lr: float = Field(gt=0)


class GeneratorSettings(Frozen):
    """DP-MERF."""

    per_class: int = Field(ge=1)
    steps: int = Field(ge=1)


class AuditSettings(Frozen):
    """Canaries and membership inference."""

    trials: int = Field(ge=0)
    epsilon: Epsilon
    runs: int = Field(ge=0)
    membership_epsilon: Epsilon


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    seeds: int = Field(ge=1)
    epsilons: list[Epsilon] = Field(min_length=1)
    delta: float = Field(gt=0, lt=1)
    accountant: Literal["prv", "rdp"]
    ipc: int = Field(ge=1)
    methods: list[str] = Field(min_length=1)
    baselines: list[str]
    networks: int = Field(ge=1)
    label_counts: list[int] | Literal["private"] | None
    model: str
    steps: dict[str, int]
    evaluation: EvaluationSettings
    linear: LinearSettings
    cnn: NetworkSettings
    merf: GeneratorSettings
    audit: AuditSettings
    executor: Literal["local", "ray"]


def run(job: Job) -> dict[str, Any]:
    """Measure every method and baseline, audit; write ``table.json``, ``table.csv``, ``private.png`` and the page."""
    settings = checked(Settings, of_data_set(job.values))
    train, test = load_pair(settings.data, root=settings.data_root)
    rows = rows_of(settings, train)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    chosen = {"audit-canary": settings.audit.trials, "audit-membership": settings.audit.runs}
    audits = [name for name, count in chosen.items() if count]
    cells = job.cells(len(rows) * len(seeds) + len(audits))
    job.say(f"{train.name}: {len(train)} training images, {len(rows)} rows of {settings.seeds} seeds")
    outcomes: list[tuple[Cell, list[Outcome]]] = []
    with executor(settings.executor) as pool:
        for cell in rows:
            work = functools.partial(measure, cell, settings.model_dump(), train, test, job.out / "sets")
            outcomes.append((cell, cells.map(Outcome, work, {cell.file_name(seed): seed for seed in seeds}, pool)))
    attack = functools.partial(audit_of, settings, train)
    audit = [row.as_dict() for few in cells.map(list[AuditRow], attack, {one: one for one in audits}) for row in few]
    table = [row_of(cell, found, bar_of(outcomes, cell.epsilon), train.name) for cell, found in outcomes]
    facts = {"training images": len(train), "classes": train.num_classes, "delta": settings.delta}
    page = Page(job, f"Differentially private distillation of {train.name}", facts)
    page.add("Accuracy on the test set", table)
    page.draw("Accuracy at each epsilon", draw(job.out, outcomes, settings.seed), "private.png")
    page.add("What it costs", [row for row in (cost_of(cell, found) for cell, found in outcomes) if row])
    if audit:
        page.add("Audit", audit)
    return page.finish(table, settings.model_dump(mode="json"), audit=audit)


def rows_of(settings: Settings, train: RealData) -> list[Cell]:
    """Check names, models, sizes and delta before anything is computed; return the rows in the order of the table."""
    require_audit(settings.audit.trials, settings.audit.runs)
    for name in settings.methods:
        if name not in METHODS:
            raise unknown_name("private method", name, METHODS)
    for name in settings.baselines:
        if name not in BASELINES:
            raise unknown_name("baseline", name, BASELINES)
    for name in settings.steps:
        if name not in (*METHODS, "dm"):
            raise unknown_name("method with steps", name, (*METHODS, "dm"))
    if settings.delta >= 1 / len(train):
        raise ConfigError(
            f"delta={settings.delta:g} is not below 1/N={1 / len(train):.3g} for {len(train)} training images, so it "
            f"promises nothing: lower it, for instance to {min(1e-5, 0.1 / len(train)):.3g}"
        )
    if settings.label_counts != "private":
        public_counts(len(train), train.num_classes, settings.label_counts)
    for model in (settings.model, settings.evaluation.model, settings.cnn.model):
        ModelSpec.parse(model).build(train.shape, train.num_classes, 0)
    epsilons = sorted(dict.fromkeys(settings.epsilons))
    private = [name for name in dict.fromkeys((*settings.methods, *settings.baselines)) if name != "dm"]
    cells = [Cell(name, epsilon) for epsilon in epsilons for name in private]
    return [*cells, Cell("dm", None)] if "dm" in settings.baselines else cells


def audit_of(settings: Settings, train: RealData, name: str) -> list[AuditRow]:
    """Audit the first method by canaries, beside three mistakes in it, or by membership inference."""
    method, chosen = settings.methods[0], settings.audit
    if name == "audit-canary":
        return audit_mechanism(method, chosen.epsilon, settings.delta, chosen.trials, settings.seed)
    options: dict[str, Any] = {"steps": min(150, settings.steps.get(method, 150)), "model": settings.model}
    return audit_membership(
        method,
        train,
        chosen.membership_epsilon,
        settings.delta,
        runs=chosen.runs,
        ipc=settings.ipc,
        seed=settings.seed,
        private={**options, "accountant": settings.accountant},
    )


@dataclass(frozen=True)
class Cell:
    """A row of the table.

    Args:
        name: method or baseline.
        epsilon: claimed; None without privacy.
    """

    name: str
    epsilon: float | None

    def file_name(self, seed: int) -> str:
        """Return what the cell and the set of a seed are called."""
        epsilon = "none" if self.epsilon is None else f"{self.epsilon:.12g}"
        return f"{self.name}-{epsilon}-{seed}"

    @property
    def distils(self) -> bool:
        """Whether it makes a small set with ddkit."""
        return self.name == "dm" or self.name in METHODS

    @property
    def classifies(self) -> bool:
        """Whether it is a classifier that was trained privately, and releases no set."""
        return self.name in CLASSIFIERS


@dataclass(frozen=True)
class Outcome:
    """One seed of a row.

    Args:
        accuracy: on the test set, in [0, 1], the mean over networks.
        seconds: to make the set or the classifier, accounting included; a process counts the same queries only once.
        epsilon: by Opacus's accountant.
        independent: epsilon without Opacus.
        replaced: epsilon where a record is replaced, at most.
        sigma: noise multiplier.
    """

    accuracy: float
    seconds: float
    epsilon: float | None = None
    independent: float | None = None
    replaced: float | None = None
    sigma: float | None = None


def measure(
    cell: Cell, settings: Mapping[str, Any], train: RealData, test: RealData, folder: Path, seed: int
) -> Outcome:
    """Make a set, or a classifier, and test it; ``seed`` is that of everything public."""
    started = time.monotonic()
    if cell.classifies:
        classifier = classifier_of(cell, settings, train, test, seed)
        rate = rate_of(cell, settings, train)
        independent, _ = independent_epsilon([Queries(classifier.sigma, rate, classifier.steps)], classifier.delta)
        seconds = time.monotonic() - started
        return Outcome(classifier.accuracy, seconds, classifier.epsilon, independent, sigma=classifier.sigma)
    distilled = set_of(cell, settings, train, folder, seed)
    seconds = time.monotonic() - started
    accuracy = accuracy_of(settings, distilled, test, seed)
    card = distilled.metadata.get("privacy", {})
    keys = {"epsilon": "epsilon", "independent": "independent_epsilon", "replaced": "replace_one_epsilon"}
    figures = {name: card.get(key) for name, key in keys.items()}
    return Outcome(accuracy, seconds, sigma=card.get("noise_multiplier"), **figures)


def classifier_of(
    cell: Cell, settings: Mapping[str, Any], train: RealData, test: RealData, seed: int
) -> PrivateClassifier:
    """Train a classifier by DP-SGD."""
    assert cell.epsilon is not None
    common = {"accountant": settings["accountant"], "seed": seed}
    if cell.name == "dp-sgd-linear":
        return dp_sgd_linear(train, test, cell.epsilon, settings["delta"], **settings["linear"], **common)
    return dp_sgd_network(train, test, cell.epsilon, settings["delta"], **settings["cnn"], **common)


def rate_of(cell: Cell, settings: Mapping[str, Any], train: RealData) -> float:
    """Return the sampling rate that the classifier uses."""
    if cell.name == "dp-sgd-linear":
        return min(settings["linear"]["batch"], len(train) // 2) / len(train)
    size = min(settings["cnn"]["batch"], -(-len(train) // 4))
    return 1 / -(-len(train) // size)


def set_of(cell: Cell, settings: Mapping[str, Any], train: RealData, folder: Path, seed: int) -> DistilledDataset:
    """Make the set of a row and seed, and keep it; one that a killed run has left is not looked at, but made anew."""
    out = folder / cell.file_name(seed)
    shutil.rmtree(out, ignore_errors=True)
    if cell.name == "dp-merf":
        assert cell.epsilon is not None
        common = {"accountant": settings["accountant"], "seed": seed}
        made = dp_merf(train, cell.epsilon, settings["delta"], **settings["merf"], **common)
        made.save(out)
        for name, text in Statement(made.metadata["privacy"]).files().items():
            write_text(out / name, text)
        return made
    steps = settings["steps"].get(cell.name)
    if cell.name == "dm":
        more = {} if steps is None else {"steps": steps}
        made = Distiller("dm", settings["ipc"], seed=seed, model=settings["model"], compile=False, **more).fit(train)
        made.save(out)
        return made
    one_shot = METHODS[cell.name].batch is None
    options: dict[str, Any] = {"label_counts": settings["label_counts"]} if one_shot else {}
    if cell.name != "dp-kip":
        options["model"] = settings["model"]
    distiller = PrivateDistiller(
        cell.epsilon,
        settings["delta"],
        method=cell.name,
        ipc=settings["ipc"],
        steps=steps,
        networks=settings["networks"],
        accountant=settings["accountant"],
        seed=seed,
        **options,
    )
    return distiller.fit(train, out=out)


def equally_long(recipe: TrainingRecipe, usual: int, images: int) -> TrainingRecipe:
    """Return the recipe with as many steps on ``images`` as it has on the ``usual`` number of them."""
    return recipe.replace(epochs=max(1, round(recipe.epochs * recipe.steps(usual) / recipe.steps(images))))


def accuracy_of(settings: Mapping[str, Any], distilled: DistilledDataset, test: RealData, seed: int) -> float:
    """Return the mean accuracy of networks trained on a set; of its own kernel for kernel regression."""
    judged = test.with_preprocessing(distilled.preprocessing)
    if distilled.metadata.get("kernel") is not None:
        return float(evaluate_kernel(distilled, judged, repeats=1).rows[0].mean)
    how = settings["evaluation"]
    changes = {"epochs": how["epochs"], "lr": how["lr"]}
    if how["protocol"] == "dsa":
        recipe = recipe_called("dsa", test.name, **changes)
    else:
        recipe = TrainingRecipe(name="private", schedule="cosine", **changes)
    images, labels = distilled.tensors()
    recipe = equally_long(recipe, settings["ipc"] * distilled.num_classes, len(images))
    seeds = [1000 * seed + number for number in range(how["networks"])]
    spec, count = ModelSpec.parse(how["model"]), distilled.num_classes
    scores = accuracies(train_networks(images, labels, spec, recipe, seeds, num_classes=count), judged)
    return sum(scores) / len(scores)


Outcomes = Sequence[tuple[Cell, list[Outcome]]]


def percents(found: Sequence[Outcome]) -> list[float]:
    """Return the accuracies of the seeds."""
    return [100 * one.accuracy for one in found]


def bar_of(outcomes: Outcomes, epsilon: float | None) -> list[float] | None:
    """Return the accuracies of the best private classifier at an epsilon: the bar that decides."""
    scores = [percents(found) for cell, found in outcomes if cell.classifies and cell.epsilon == epsilon]
    return max(scores, key=lambda values: float(np.mean(values))) if scores else None


def row_of(cell: Cell, found: Sequence[Outcome], bar: list[float] | None, data: str) -> dict[str, Any]:
    """Return a row, with the difference to the best private classifier and what was published."""
    scores = percents(found)
    figures = summary(scores)
    return {
        "method": cell.name,
        "epsilon": "none" if cell.epsilon is None else f"{cell.epsilon:g}",
        "releases": "classifier" if cell.classifies else "set",
        "accuracy %": f"{figures.mean:.1f} ± {figures.std:.1f}",
        "seeds": figures.count,
        "minus best DP-SGD (95 %)": None if bar in (None, scores) else difference(scores, bar, scale=1),
        "published %": PUBLISHED.get(data, {}).get(cell.name, {}).get(cell.epsilon or 0.0),
        "seconds": round(float(np.mean([one.seconds for one in found])), 1),
    }


def cost_of(cell: Cell, found: Sequence[Outcome]) -> dict[str, Any] | None:
    """Return what a row costs in privacy; None for one without."""
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


def draw(out: Path, outcomes: Outcomes, seed: int) -> Figure:
    """Draw accuracies by epsilon, and the first image of every class of the first method."""
    epsilons = sorted({cell.epsilon for cell, _ in outcomes if cell.epsilon is not None})
    names = list(dict.fromkeys(cell.name for cell, _ in outcomes if cell.epsilon is not None))
    figure = Figure(figsize=(9, 3 + 0.9 * len(epsilons)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + len(epsilons), 1, height_ratios=[4, *[1] * len(epsilons)])
    axes = figure.add_subplot(grid[0])
    width = 0.8 / len(names)
    found = {(cell.name, cell.epsilon): percents(values) for cell, values in outcomes}
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
        strip.imshow(strip_of(out / "sets" / Cell(shown, epsilon).file_name(seed)), cmap="gray", vmin=0, vmax=1)
        strip.set_title(f"{shown}, epsilon {epsilon:g}", fontsize=8)
        strip.set_axis_off()
    return figure


def strip_of(folder: Path) -> np.ndarray:
    """Return the first image of every class side by side, (H, K W) or (H, K W, 3)."""
    released = DistilledDataset.load(folder)
    order = [int((released.hard_labels() == label).nonzero()[0]) for label in range(released.num_classes)]
    images = released.viewable()[order]
    joined = images.permute(2, 0, 3, 1).reshape(images.shape[2], -1, images.shape[1])
    return np.asarray(joined[..., 0] if images.shape[1] != 3 else joined)
