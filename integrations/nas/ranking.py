"""What is a ranking: scores, ranks and costs of candidates, with what went wrong, as JSON and CSV."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from ddkit.base.documents import parse_json
from ddkit.base.files import write_text
from ddkit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ddkit.integrations.nas.comparison import Comparison

FORMAT = "ddkit.nas-ranking"


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
class Ranking:
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

    @property
    def ranks(self) -> dict[str, float]:
        """Rank of every usable candidate: 1 is the best, ties get the average of their ranks."""
        usable = self.usable
        values = -order_values([entry.rung for entry in usable], _scores(usable).mean(axis=1))
        return dict(zip((entry.name for entry in usable), stats.rankdata(values).tolist(), strict=True))

    @property
    def selected(self) -> tuple[str, ...]:
        """The candidates that share the best rank.

        Raises:
            ConfigError: no candidate has a score.
        """
        ranks = self.ranks
        if not ranks:
            raise ConfigError("no candidate of the ranking has a score: see the messages of its entries")
        best = min(ranks.values())
        return tuple(name for name, rank in ranks.items() if rank == best)

    @property
    def best(self) -> str:
        """The best candidate; the first one of the space where several tie (:attr:`selected`)."""
        return self.selected[0]

    def values(self, names: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return rungs (n,) and scores (n, S) of candidates by name."""
        entries = [self[name] for name in names]
        return np.array([entry.rung for entry in entries], dtype=np.int64), _scores(entries)

    def compare(self, truth: Ranking | Mapping[str, float], **options: Any) -> Comparison:
        """Compare with the ground truth, see :func:`ddkit.integrations.nas.compare`."""
        from ddkit.integrations.nas.comparison import compare

        return compare(self, truth, **options)

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per candidate, best first, then those without scores: for a table or a file."""
        ranks = self.ranks
        ordered = sorted(self.entries, key=lambda entry: ranks.get(entry.name, float("inf")))
        return [_row(entry, ranks.get(entry.name)) for entry in ordered]

    def to_csv(self) -> str:
        """Return :meth:`rows` as CSV text with a head."""
        rows, text = self.rows(), io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_json(self) -> str:
        """Return the whole ranking as JSON text, from which :meth:`from_json` builds an equal one."""
        content = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Ranking:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: text of another form.
        """
        try:
            content = parse_json(text)
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            entries = tuple(
                Entry(**{**entry, "scores": tuple(entry["scores"]), "flags": tuple(entry["flags"])})
                for entry in content.pop("entries")
            )
            if not all(isinstance(one.name, str) and all(map(_is_score, one.scores)) for one in entries):
                raise ValueError("another kind of scores")
            return cls(entries, Cost(**content.pop("cost")), notes=tuple(content.pop("notes")), **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataError(
                f"this is not a ranking ({type(error).__name__}): give the JSON that a ranking saved"
            ) from None

    def save(self, folder: Path | str, name: str = "ranking") -> Path:
        """Write ``name.json`` and ``name.csv`` into ``folder``, atomically; return the path of the first.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        write_text(Path(folder) / f"{name}.csv", self.to_csv())
        return write_text(Path(folder) / f"{name}.json", self.to_json())


def order_values(rungs: Any, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers that rise with the rung first and with the score within it, ties kept.

    Args:
        rungs: (n,).
        scores: (..., n).

    Returns:
        (..., n); the scores themselves where all have reached the same rung.
    """
    rungs = np.asarray(rungs)
    if not len(rungs) or (rungs == rungs[0]).all():
        return scores
    within = np.zeros_like(scores)
    for rung in np.unique(rungs):
        members = rungs == rung
        within[..., members] = stats.rankdata(scores[..., members], axis=-1)
    return rungs * (len(rungs) + 1.0) + within


def _is_score(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= sys.float_info.max


def _scores(entries: Sequence[Entry]) -> NDArray[np.float64]:
    """Return scores (n, S)."""
    seeds = len(entries[0].scores) if entries else 1
    return np.array([entry.scores for entry in entries], dtype=np.float64).reshape(len(entries), seeds)


def _row(entry: Entry, rank: float | None) -> dict[str, Any]:
    return {
        "candidate": entry.name,
        "rank": rank,
        "score": entry.score,
        "spread": entry.spread,
        "seeds": len(entry.scores),
        "status": entry.status,
        "rung": entry.rung,
        "epochs": entry.epochs,
        "parameters": entry.parameters,
        "learning_rate": entry.learning_rate,
        "seconds": round(entry.seconds, 3),
        "cpu_seconds": round(entry.cpu_seconds, 3),
        "image_passes": entry.image_passes,
        "flags": "; ".join(entry.flags),
        "message": entry.message,
    }
