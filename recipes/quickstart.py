"""Recipe ``quickstart``: distil, evaluate beside real images, write the table and the report."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from ddkit import methods
from ddkit.base.config import DistillConfig, merge
from ddkit.base.documents import read_json_object
from ddkit.base.files import write_text
from ddkit.base.precision import resolve_precision
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.engine.callbacks import ImageGrids
from ddkit.engine.distiller import Distiller
from ddkit.engine.run import RunFolder
from ddkit.engine.selection import CoresetSession
from ddkit.engine.session import Session
from ddkit.evaluation.assess import merge_draws, write_evaluation
from ddkit.evaluation.baselines import baseline_sets
from ddkit.evaluation.choice import whole_recipe
from ddkit.evaluation.evaluate import evaluate, evaluate_real
from ddkit.evaluation.published import published
from ddkit.evaluation.report.html import write_report
from ddkit.evaluation.results import EvaluationResult
from ddkit.models.spec import ModelSpec
from ddkit.recipes.job import Frozen, Job, checked, of_size
from ddkit.training.named import recipe
from ddkit.training.recipe import TrainingRecipe

#: Real images in as many bytes as a distilled set takes.
AT_EQUAL_BYTES = ("random-bytes", "random-coded", "random-best")
#: Images shown to a network that is trained on real images at equal bytes, as many as on small whole data.
MOST_PASSES = 80_000
#: Above so many images one network is trained on one draw.
MANY = 500


class Search(Frozen):
    """How the form of the real images of ``random-best`` is chosen, on training images that are held out."""

    forms: list[str] = Field(min_length=1)
    passes: int = Field(ge=1)


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    seed: int = Field(ge=0)
    model: str
    methods: list[str] = Field(min_length=1)
    ipcs: list[int] = Field(min_length=1)
    repeats: int = Field(ge=1)
    draws: int = Field(ge=1)
    recipe: dict[str, Any]
    whole_epochs: int | None = Field(ge=1)
    search: Search
    budgets: dict[str, dict[str, Any]]


def run(job: Job) -> dict[str, Any]:
    """Run every method at every number of images per class; write ``table.json`` and ``report.html``."""
    settings = checked(Settings, job.values)
    train, test = load_pair(settings.data, root=settings.data_root)
    options = dict(settings.recipe)
    how = recipe(str(options.pop("name", "dsa")), train.name, **options)
    this = Comparison(job, settings, train, test, how)
    plans = this.plans()
    equal: dict[str, tuple[Plan, str]] = {}  # beside the first that distils at each number of images
    for plan in plans:
        for kind in AT_EQUAL_BYTES if plan.distils else ():
            equal.setdefault(f"{kind}-{plan.ipc}", (plan, kind))
    cells = job.cells(1 + len(plans) + len(equal))
    job.say(f"{train.name}: {len(train)} training and {len(test)} test images; whole data first")
    whole = cells.of(EvaluationResult, "whole", this.whole)
    found = cells.map(EvaluationResult, this.distil_and_evaluate, {plan.name: plan for plan in plans})
    same_bytes = cells.map(EvaluationResult, this.equal_bytes, equal)
    equal_bytes = [(kind, one.ipc, result) for (one, kind), result in zip(equal.values(), same_bytes, strict=True)]
    for plan, own in zip(plans, found, strict=True):
        beside = [(p.method, one) for p, one in zip(plans, found, strict=True) if p.ipc == plan.ipc and p != plan]
        beside += [(kind, result) for kind, ipc, result in equal_bytes if ipc == plan.ipc]
        write_evaluation(plan.out, [(plan.method, own), *beside, ("whole", whole)], job.command)
    table = [this.row(plan.method, plan.ipc, one, plan.seconds) for plan, one in zip(plans, found, strict=True)]
    table += [this.row(kind, ipc, result) for kind, ipc, result in equal_bytes]
    table.append(this.row("whole", None, whole))
    order = sorted(plans, key=lambda plan: not plan.distils)
    report = write_report([plan.out for plan in order], job.out / "report.html")
    outcome = {"table": table, "report": str(report), "seconds": round(time.monotonic() - job.started, 1)}
    write_text(job.out / "table.json", json.dumps(outcome, indent=2) + "\n")
    return outcome


@dataclass(frozen=True)
class Plan:
    """One method at one number of images per class, with its run folder."""

    method: str
    ipc: int
    config: DistillConfig
    out: Path

    @property
    def name(self) -> str:
        """Name of its cell."""
        return self.out.name

    @property
    def distils(self) -> bool:
        """Whether images are learned and not picked."""
        return not methods.get(self.method).is_coreset

    @property
    def seconds(self) -> float:
        """Seconds of the finished run."""
        return float(read_json_object(RunFolder(self.out).summary)["seconds"])


@dataclass(frozen=True)
class Comparison:
    """Sets of images that are all judged in one way: networks of one architecture, trained by ``how``."""

    job: Job
    settings: Settings
    train: RealData
    test: RealData
    how: TrainingRecipe

    def plans(self) -> list[Plan]:
        """Configure every run and put its pieces together once, so that a bad setting is refused before the first."""
        plans = []
        for ipc in dict.fromkeys(self.settings.ipcs):
            for method in dict.fromkeys(self.settings.methods):
                common = {"model": self.settings.model, "recipe": {"name": "dsa", **self.settings.recipe}}
                overrides = merge(common, of_size(self.settings.budgets, method, ipc))
                config = methods.get(method).configure(self.train, ipc, self.settings.seed, overrides)
                CoresetSession(config, self.train) if config.selection else Session(config, self.train)
                plans.append(Plan(method, ipc, config, self.job.out / f"{method}-{ipc}"))
        return plans

    def _evaluate(
        self, sets: list[DistilledDataset], repeats: int = 1, how: TrainingRecipe | None = None
    ) -> list[EvaluationResult]:
        """Train networks on sets, those of each set with another seed."""
        model, seed, how = self.settings.model, self.settings.seed, how or self.how
        return [evaluate(one, self.test, (model,), repeats, how, seed + draw) for draw, one in enumerate(sets)]

    def distil_and_evaluate(self, plan: Plan) -> EvaluationResult:
        """Make a set, or go on making it, and train networks on it; on several draws of random images, one each."""
        distiller = Distiller(plan.config, callbacks=[ImageGrids()])
        spec, command = self.settings.data, self.job.command
        distilled = distiller.fit(self.train, out=plan.out, resume=True, data_spec=spec, command=command)
        if plan.method != "random":
            return self._evaluate([distilled], self.settings.repeats)[0]
        seeds = range(self.settings.seed + 1, self.settings.seed + self.settings.draws)
        further = [Distiller("random", plan.ipc, seed=seed).fit(self.train) for seed in seeds]
        return merge_draws(self._evaluate([distilled, *further]))

    def equal_bytes(self, control: tuple[Plan, str]) -> EvaluationResult:
        """Evaluate random real images, in a form, that fit the bytes of a distilled set.

        Where they are many, one network sees them, :data:`MOST_PASSES` in all. Those in their best form are one draw.
        """
        plan, kind = control
        distilled, settings = DistilledDataset.load(plan.out), self.settings
        search = {"model": settings.model, "recipe": self.how, **settings.search.model_dump()}
        draws = 1 if kind == "random-best" else settings.draws
        sets = baseline_sets(self.train, distilled, (kind,), settings.seed, draws, **search)[kind]
        assert isinstance(sets, list)
        epochs = max(1, min(self.how.epochs, MOST_PASSES // len(sets[0])))
        many = len(sets[0]) > MANY
        networks = 1 if many or draws > 1 else settings.repeats
        return merge_draws(self._evaluate(sets[:1] if many else sets, networks, self.how.replace(epochs=epochs)))

    def whole(self) -> EvaluationResult:
        """Train one network on all real images, compiled where the set is large enough to repay it."""
        how, model, seed = whole_recipe(self.train), self.settings.model, self.settings.seed
        if self.settings.whole_epochs is not None:
            how = how.replace(epochs=self.settings.whole_epochs)
        cost = ModelSpec.parse(model).cost(self.train.shape, self.train.num_classes)
        passes = 3.0 * len(self.train) * how.total_epochs
        speed = resolve_precision("auto", "auto", passes=passes, cost=cost, device=torch.device("cpu"))
        options: dict[str, Any] = {"precision": speed.name, "compile": speed.compile}
        return evaluate_real(self.train, self.test, (model,), 1, how, seed, **options)

    def row(self, method: str, ipc: int | None, result: EvaluationResult, seconds: float = 0.0) -> dict[str, Any]:
        """Return a row of the table."""
        row = result.rows[0]
        figure = published(method, self.train.name, ipc)
        return {
            "set": method,
            "ipc": ipc,
            "images": result.train_images,
            "bytes": result.budget.get("payload"),
            "accuracy %": f"{100 * row.mean:.1f} ± {100 * row.std:.1f}",
            "networks": len(row.accuracies),
            "published % (ConvNet, full schedule)": f"{figure.accuracy:.1f}" if figure else None,
            "distil s": round(seconds, 1),
            "evaluate s": round(row.seconds, 1),
        }
