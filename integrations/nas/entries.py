"""What is known of the candidates of a ranking: their scores, what these cost, and what went wrong?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddkit.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """One candidate of a ranking.

    Args:
        name: of the candidate.
        status: ``ok``, ``diverged`` (chance level stands for its scores), ``failed``, ``not applicable``, or
            ``stopped at rung r`` of successive halving.
        scores: one per seed, larger is better: accuracies as fractions, negative losses, or a zero-cost measure.
        rung: of successive halving, 0 for the shortest training; scores of different rungs are never compared.
        epochs: that the scores were reached after.
        seconds: wall-clock of all its trainings.
        cpu_seconds: of the processor.
        image_passes: training images seen, each forward and backward.
        parameters: number of weights.
        learning_rate: that it was trained with; None when nothing was trained.
        flags: known causes of misranking.
        message: why it failed.
    """

    name: str
    status: str
    scores: tuple[float, ...] = ()
    rung: int = 0
    epochs: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    image_passes: int = 0
    parameters: int = 0
    learning_rate: float | None = None
    flags: tuple[str, ...] = ()
    message: str = ""

    @property
    def usable(self) -> bool:
        """Whether it has scores."""
        return len(self.scores) > 0

    @property
    def score(self) -> float | None:
        """Mean score over the seeds; None without scores."""
        return float(np.mean(self.scores)) if self.usable else None

    @property
    def spread(self) -> float | None:
        """Population standard deviation of the scores over the seeds; None without scores."""
        return float(np.std(self.scores)) if self.usable else None

    def after(self, before: Entry | None) -> Entry:
        """Return this entry with the cost of what was done ``before`` added."""
        if before is None:
            return self
        return dataclasses.replace(
            self,
            seconds=before.seconds + self.seconds,
            cpu_seconds=before.cpu_seconds + self.cpu_seconds,
            image_passes=before.image_passes + self.image_passes,
        )


@dataclass(frozen=True)
class Cost:
    """What a ranking cost.

    Args:
        seconds: wall-clock of all trainings, summed over candidates and seeds.
        cpu_seconds: of the processor.
        image_passes: training images seen, each forward and backward.
        preparation_seconds: of distilling or selecting the set, on the same clock as ``cpu_seconds`` where the
            caller measured it so.
        preparation_passes: images seen by the distillation.
        images: stored in the set.
        bytes: that the set takes.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    image_passes: int = 0
    preparation_seconds: float = 0.0
    preparation_passes: int = 0
    images: int = 0
    bytes: int = 0

    @property
    def total_seconds(self) -> float:
        """Processor seconds of the trainings and of the preparation."""
        return self.cpu_seconds + self.preparation_seconds

    @property
    def total_passes(self) -> int:
        """Images seen by the trainings and by the preparation."""
        return self.image_passes + self.preparation_passes


@dataclass(frozen=True)
class Scores:
    """Candidates with their scores.

    Args:
        entries: one per candidate, in the order of the search space.
        cost: of all of them.
        score: what the scores are: ``accuracy``, ``loss`` (negated), or a zero-cost measure.
        separates: whether the scores tell candidates apart: not all equal, not all at chance level.
        notes: warnings that were given.
        settings: what reproduces the ranking, JSON-able.
    """

    entries: tuple[Entry, ...]
    cost: Cost = dataclasses.field(default_factory=Cost)
    score: str = "accuracy"
    separates: bool = True
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if len(set(names)) != len(names):
            raise ConfigError("a ranking names a candidate twice: give every candidate once")
        for entry in self.entries:
            if not np.isfinite(entry.scores).all():
                raise ConfigError(
                    f"candidate '{entry.name}' has the scores {list(entry.scores)}: give finite numbers, or none at all"
                )
        if len({len(entry.scores) for entry in self.usable}) > 1:
            raise ConfigError("candidates of a ranking have different numbers of scores: score all with the same seeds")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, name: str) -> Entry:
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    @property
    def usable(self) -> list[Entry]:
        """Candidates with scores, in the order of the space."""
        return [entry for entry in self.entries if entry.usable]

    @property
    def failed(self) -> list[Entry]:
        """Candidates without scores: failed, or the measure does not apply to them."""
        return [entry for entry in self.entries if not entry.usable]

    def values(self, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return rungs (n,) and scores (n, S) of candidates by name."""
        entries = [self[name] for name in names]
        return np.array([entry.rung for entry in entries], dtype=np.int64), score_matrix(entries)


def score_matrix(entries: Sequence[Entry]) -> NDArray[np.float64]:
    """Return the scores of entries that all have as many, (n, S)."""
    seeds = len(entries[0].scores) if entries else 1
    return np.array([entry.scores for entry in entries], dtype=np.float64).reshape(len(entries), seeds)
