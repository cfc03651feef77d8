"""What does an evaluation return, whoever judges, and which plans for one are refused?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ddkit.base.executor import Executor
from ddkit.errors import ConfigError, unknown_name
from ddkit.evaluation.statistics import Summary, summary
from ddkit.integrations.graph.judging import Training, network_seed
from ddkit.integrations.graph.models import Build


@dataclass(frozen=True)
class ModelResult:
    """Accuracies of the networks of one architecture, trained on one graph.

    Args:
        model: its name.
        selected: test accuracies (fractions) of the epoch that is best on validation nodes; None without such nodes.
        last: those of the last epoch.
        seeds: of the networks.
        seconds: processor seconds of training and judging all of them.
        edges: what it saw of the condensed edges: ``weighted``, ``unweighted`` (those above the threshold) or ``none``.
    """

    model: str
    selected: tuple[float, ...] | None
    last: tuple[float, ...]
    seeds: tuple[int, ...]
    seconds: float
    edges: str

    @property
    def accuracies(self) -> tuple[float, ...]:
        """The selected ones, or those of the last epoch where nothing could be selected."""
        return self.last if self.selected is None else self.selected

    @property
    def summary(self) -> Summary:
        """Statistics of :attr:`accuracies`."""
        return summary(self.accuracies)


@dataclass(frozen=True)
class GraphEvaluation:
    """What :func:`evaluate` found.

    Args:
        method: of the condensed graph.
        rows: one result a model.
        means: the same of the class means, the baseline that decides; None where it was not asked for.
        nodes: of the condensed graph.
        edges: of the condensed graph, both directions.
        bytes: stored bytes of it.
    """

    method: str
    rows: tuple[ModelResult, ...]
    means: tuple[ModelResult, ...] | None
    nodes: int
    edges: int
    bytes: int

    def row(self, model: str) -> ModelResult:
        """Return the result of a model."""
        for row in self.rows:
            if row.model == model:
                return row
        raise unknown_name("model of the evaluation", model, [row.model for row in self.rows])

    def table(self) -> list[dict[str, Any]]:
        """Return rows for people: of the condensed graph, then of the class means."""
        sets = [(self.method, self.rows), ("means", self.means or ())]
        return [
            {
                "set": name,
                "model": row.model,
                "selected %": None if row.selected is None else summary(row.selected).percent(),
                "last epoch %": summary(row.last).percent(),
                "networks": len(row.seeds),
                "edges seen": row.edges,
                "seconds": round(row.seconds, 1),
            }
            for name, rows in sets
            for row in rows
        ]


def checked_plan(
    models: Sequence[str | Build],
    seeds: int,
    training: Training | None,
    own: Training,
    known: Collection[str],
    builds: bool = True,
) -> Training:
    """Return the training, or ``own`` for None, once models and number of networks are checked.

    Models are names of ``known`` ones or, with ``builds``, callables that build one.

    Raises:
        ConfigError: an unknown model, no network to train, or a training of another type.
    """
    if isinstance(models, str):
        raise ConfigError(f"models='{models}' is one name: give a list, such as ['{models}']")
    for model in models:
        if model not in known if isinstance(model, str) else not (builds and callable(model)):
            raise unknown_name("model", str(model), known)
    if type(seeds) is not int or seeds < 1 or not models:
        raise ConfigError(f"seeds={seeds!r} and {len(models)} models: at least one network must be trained")
    if training is not None and not isinstance(training, Training):
        raise ConfigError(f"training is a {type(training).__name__}: pass Training(epochs=...)")
    return training or own


class Judging(Protocol):
    """What trains one network of a model from a seed and tests it."""

    def run(self, job: tuple[Any, int]) -> tuple[float | None, float, float, str]:
        """Return the test accuracy of the selected and the last epoch, seconds, and which edges the model saw."""


def results_of(
    judge: Judging, models: Sequence[str | Build], seeds: int, seed: int, workers: Executor
) -> tuple[ModelResult, ...]:
    """Train ``seeds`` networks of every model, the same initial weights for equal seeds, and return their results."""
    own = [network_seed(seed, number) for number in range(seeds)]
    outcomes = workers.map(judge.run, [(model, one) for model in models for one in own])
    rows = []
    for place, model in enumerate(models):
        part = outcomes[place * seeds : (place + 1) * seeds]
        selected = [one[0] for one in part if one[0] is not None]
        rows.append(
            ModelResult(
                model=model if isinstance(model, str) else getattr(model, "__name__", "custom"),
                selected=tuple(selected) if selected else None,
                last=tuple(one[1] for one in part),
                seeds=tuple(own),
                seconds=sum(one[2] for one in part),
                edges=part[0][3],
            )
        )
    return tuple(rows)
