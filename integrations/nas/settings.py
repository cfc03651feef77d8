"""How is a candidate of a ranking trained, how often, and by what is it judged?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddkit.errors import ConfigError
from ddkit.training.recipe import TrainingRecipe


@dataclass(frozen=True)
class RankerSettings:
    """Everything besides the data that decides about the scores of a ranking.

    Args:
        epochs: of training; None for those of the recipe.
        steps: instead of epochs: training steps, to the nearest epoch where it is more than one. A fixed number of
            *epochs* gives the larger set more steps, so different sets are compared at equal steps.
        seeds: networks per candidate. At one image per class the score of a single one is mostly noise.
        budget: ``full`` trains every candidate to the end; ``halving`` is synchronous successive halving (Jamieson and
            Talwalkar 2016, arXiv 1502.07943): all candidates are trained for a short time, the best ``1 / eta`` for
            ``eta`` times as long, and so on. Every rung trains from scratch with a complete schedule, so its scores are
            those of annealed networks and no weights are kept; with ``eta=3`` that costs 29 % more than going on.
        eta: factor between the rungs of ``halving``.
        rungs: number of rungs of ``halving``; the last one has the full length.
        score: ``accuracy``, or ``loss`` (negated), which is finer where many candidates tie.
        recipe: how candidates are trained: None for the recipe that the set brings, a recipe, or ``per-candidate`` for
            the recipe of the set with the best of three learning rates for each candidate, chosen on the proxy with a
            seed of its own: one rate for networks with and without normalisation ranks learning rates.
        seed: of everything.
        device: where candidates are trained.
        threads: intra-op threads on the CPU of each training.

    Raises:
        ConfigError: a value out of range.
    """

    epochs: int | None = None
    steps: int | None = None
    seeds: int = 2
    budget: Literal["full", "halving"] = "full"
    eta: int = 3
    rungs: int = 3
    score: Literal["accuracy", "loss"] = "accuracy"
    recipe: TrainingRecipe | Literal["per-candidate"] | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise ConfigError(f"epochs={self.epochs} and steps={self.steps} exclude each other: leave one of them out")
        least = {"epochs": 1, "steps": 1, "seeds": 1, "eta": 2, "rungs": 1, "seed": 0, "threads": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is None and name in ("epochs", "steps"):
                continue
            if not isinstance(value, int) or value < minimum:
                raise ConfigError(f"{name}={value!r}: give an integer of at least {minimum}")
        for name, known in {"budget": ("full", "halving"), "score": ("accuracy", "loss")}.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}='{getattr(self, name)}': choose {' or '.join(known)}")
        if isinstance(self.recipe, str) and self.recipe != "per-candidate":
            raise ConfigError(f"recipe='{self.recipe}': give a TrainingRecipe, 'per-candidate' or None")
