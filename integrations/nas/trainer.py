"""Which trainings does a ranking consist of, and what do their outcomes add up to?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ddkit.base.executor import Executor
from ddkit.base.streams import derive_seed
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, RunError
from ddkit.evaluation.evaluate import network_seeds
from ddkit.integrations.nas.entries import Cost, Entry
from ddkit.integrations.nas.inspection import Inspection
from ddkit.integrations.nas.proxy import Proxy
from ddkit.integrations.nas.ranking import Ranking
from ddkit.integrations.nas.settings import RankerSettings
from ddkit.integrations.nas.training import Outcome, Task, Work, run_tasks
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe

#: Factors on the learning rate among which ``recipe="per-candidate"`` chooses; the first one wins a tie.
RATE_FACTORS = (1.0, 0.1, 10.0)


@dataclass(frozen=True)
class Preparation:
    """What it took to make the set, to be counted with the search.

    Args:
        seconds: of the processor.
        image_passes: images seen.
    """

    seconds: float = 0.0
    image_passes: int = 0


@dataclass(frozen=True)
class Trainer:
    """Trains candidates of one ranking: the set, the rungs, and where the work runs.

    Args:
        ranker: the settings.
        work: what all trainings share.
        ladder: the recipe of every rung, shortest first, with the number of images it sees (None for all).
        executor: where trainings run; None for here.
        tuning: outcomes of the choice of learning rates, by candidate.
    """

    ranker: RankerSettings
    work: Work
    ladder: tuple[tuple[TrainingRecipe, int | None], ...]
    executor: Executor | None
    tuning: dict[str, list[Outcome]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        ranker: RankerSettings,
        data: DistilledDataset | RealData,
        scored_on: RealData,
        executor: Executor | None,
        cache: Path | str | None,
    ) -> Trainer:
        """Check the data and lay out the rungs."""
        recipe = ranker.recipe if isinstance(ranker.recipe, TrainingRecipe) else None
        proxy = Proxy.of(data, scored_on, recipe)
        work = Work(proxy, ranker.device, ranker.threads, None if cache is None else Path(cache).absolute())
        return cls(ranker, work, _ladder(ranker, proxy), executor)

    @property
    def proxy(self) -> Proxy:
        """The set that candidates are trained on."""
        return self.work.proxy

    def tuned_rates(
        self, specs: Mapping[str, ModelSpec], inspections: Mapping[str, Inspection], names: Sequence[str]
    ) -> dict[str, float]:
        """Return the factor on the learning rate of every candidate: 1, or the best one on the shortest rung."""
        if self.ranker.recipe != "per-candidate":
            return dict.fromkeys(names, 1.0)
        recipe, images = self.ladder[0]
        tasks = [
            Task(
                name,
                specs[name],
                inspections[name].digest,
                derive_seed(self.ranker.seed, "learning rate", name),
                recipe.replace(lr=recipe.lr * factor),
                images,
            )
            for name in names
            for factor in RATE_FACTORS
        ]
        outcomes = run_tasks(self.work, tasks, self.executor)
        width, chosen = len(RATE_FACTORS), {}
        for number, name in enumerate(names):
            own = self.tuning[name] = outcomes[number * width : (number + 1) * width]
            scores = [self._score(one) if one.status == "ok" else -math.inf for one in own]
            chosen[name] = RATE_FACTORS[int(np.argmax(scores))]
        return chosen

    def train(
        self,
        specs: Mapping[str, ModelSpec],
        inspections: Mapping[str, Inspection],
        names: Sequence[str],
        rung: int,
        length: tuple[TrainingRecipe, int | None],
        rates: Mapping[str, float],
    ) -> dict[str, Entry]:
        """Train every named candidate with every seed for the length of one rung."""
        recipe, images = length
        tasks = [
            Task(name, specs[name], inspections[name].digest, seed, recipe.replace(lr=recipe.lr * rates[name]), images)
            for name in names
            for seed in network_seeds(self.ranker.seed, specs[name], self.ranker.seeds)
        ]
        outcomes = run_tasks(self.work, tasks, self.executor)
        width = self.ranker.seeds
        return {
            name: self._entry(name, inspections[name], rung, recipe, rates[name], outcomes[n * width : (n + 1) * width])
            for n, name in enumerate(names)
        }

    def with_tuning_cost(self, entry: Entry) -> Entry:
        """Add what choosing the learning rate cost."""
        return entry.after(_cost_of(entry.name, self.tuning[entry.name])) if entry.name in self.tuning else entry

    def _score(self, outcome: Outcome) -> float:
        return outcome.accuracy if self.ranker.score == "accuracy" else -outcome.loss

    def _entry(
        self,
        name: str,
        seen: Inspection,
        rung: int,
        recipe: TrainingRecipe,
        rate: float,
        outcomes: Sequence[Outcome],
    ) -> Entry:
        """Sum up the outcomes of one candidate; one that failed once has no scores."""
        broken = [outcome for outcome in outcomes if outcome.status == "failed"]
        diverged = [outcome for outcome in outcomes if outcome.status == "diverged"]
        status = "failed" if broken else "diverged" if diverged else "ok"
        return dataclasses.replace(
            _cost_of(name, outcomes),
            status=status,
            scores=() if broken else tuple(self._score(outcome) for outcome in outcomes),
            rung=rung,
            epochs=recipe.total_epochs,
            parameters=seen.parameters,
            learning_rate=recipe.lr * rate,
            flags=seen.flags,
            message=next((outcome.message for outcome in [*broken, *diverged]), ""),
        )


def _cost_of(name: str, outcomes: Sequence[Outcome]) -> Entry:
    return Entry(
        name=name,
        status="ok",
        seconds=sum(outcome.seconds for outcome in outcomes),
        cpu_seconds=sum(outcome.cpu_seconds for outcome in outcomes),
        image_passes=sum(outcome.image_passes for outcome in outcomes),
    )


def best_names(entries: Sequence[Entry], count: int) -> list[str]:
    """Return the names of the ``count`` best of candidates with scores, in their own order; the first wins a tie."""
    order = np.argsort([-(entry.score or 0.0) for entry in entries], kind="stable")[:count]
    return [entries[index].name for index in sorted(order.tolist())]


def _ladder(ranker: RankerSettings, proxy: Proxy) -> tuple[tuple[TrainingRecipe, int | None], ...]:
    """Return the recipe and the number of images of every rung."""
    recipe, rungs = proxy.recipe, ranker.rungs if ranker.budget == "halving" else 1
    if recipe.schedule == "given":
        if rungs > 1 or ranker.epochs is not None or ranker.steps is not None or ranker.recipe == "per-candidate":
            raise ConfigError(
                "the set brings its own training steps (schedule 'given'), which cannot be shortened or tuned: give "
                "the ranker a recipe, such as ddkit.evaluation.common_recipe(distilled)"
            )
        return ((recipe, None),)
    if ranker.steps is not None:
        lengths = [max(1, ranker.steps // ranker.eta**down) for down in reversed(range(rungs))]
        return tuple(of_steps(recipe, len(proxy.images), steps) for steps in dict.fromkeys(lengths))
    full = ranker.epochs or recipe.epochs
    lengths = [max(1, full // ranker.eta**down) for down in reversed(range(rungs))]
    return tuple((recipe.replace(epochs=epochs), None) for epochs in dict.fromkeys(lengths))


def of_steps(recipe: TrainingRecipe, images: int, steps: int) -> tuple[TrainingRecipe, int | None]:
    """Return a recipe of ``steps`` steps on ``images`` images, and how many of them it sees (None for all).

    Less than an epoch is one epoch over as many random images as its steps take; more is the nearest number of epochs.
    The schedule ``halve`` keeps its form from three epochs on and is constant below.
    """
    count = recipe.shown(images)
    each = math.ceil(count / min(recipe.batch_size, count))
    epochs = max(1, round(steps / each))
    part = steps * recipe.batch_size if steps < each and recipe.views == 1 else None
    if recipe.schedule != "halve":
        return recipe.replace(epochs=epochs), part
    if epochs < 3:
        return recipe.replace(schedule="constant", epochs=epochs), part
    return recipe.replace(epochs=epochs - 1), part


def finished(
    ranker: RankerSettings, proxy: Proxy, entries: Sequence[Entry], preparation: Preparation, notes: Sequence[str]
) -> Ranking:
    """Put entries together to a ranking, with a note when its scores do not tell candidates apart.

    Raises:
        RunError: no candidate has a score.
    """
    usable = [entry for entry in entries if entry.usable]
    if not usable:
        raise RunError(f"none of {len(entries)} candidates could be trained; the first one: {entries[0].message}")
    notes, separates = list(notes), _separates(ranker, proxy, usable)
    if not separates:
        notes.append("the proxy does not separate the candidates: all scores are equal or at chance level")
    recipe = proxy.recipe.model_dump(mode="json")
    settings = {**dataclasses.asdict(dataclasses.replace(ranker, recipe=None)), "recipe": recipe}
    settings["per_candidate_rate"] = ranker.recipe == "per-candidate"
    cost = Cost(
        seconds=sum(entry.seconds for entry in entries),
        cpu_seconds=sum(entry.cpu_seconds for entry in entries),
        image_passes=sum(entry.image_passes for entry in entries),
        preparation_seconds=preparation.seconds,
        preparation_passes=preparation.image_passes,
        images=len(proxy.images),
        bytes=proxy.bytes,
    )
    return Ranking(tuple(entries), cost, ranker.score, separates, tuple(notes), settings)


def _separates(ranker: RankerSettings, proxy: Proxy, usable: Sequence[Entry]) -> bool:
    """Say whether scores differ and the best accuracy lies above chance by more than two standard errors."""
    scores = [entry.score for entry in usable if entry.score is not None]
    if len(scores) > 1 and max(scores) == min(scores):
        return False
    if ranker.score == "loss":
        return max(scores) > -math.log(proxy.num_classes)
    chance = 1 / proxy.num_classes
    error = math.sqrt(chance * (1 - chance) / (len(proxy.validation) * ranker.seeds))
    return max(scores) > chance + 2 * error
