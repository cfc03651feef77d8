"""Accuracy against bytes: what one can have for at most so many of them, and by how much one kind of set leads."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, computed_field

from ddkit.evaluation.statistics import two_level

#: Bytes and accuracy.
Pair = tuple[float, float]
_Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Accuracies = Annotated[tuple[Annotated[tuple[_Fraction, ...], Field(min_length=1)], ...], Field(min_length=1)]


def running_maximum(points: Sequence[Pair]) -> list[Pair]:
    """Return what one can have for at most so many bytes: the points that beat all that take fewer bytes.

    >>> running_maximum([(8.0, 0.5), (2.0, 0.25), (4.0, 0.125)])
    [(2.0, 0.25), (8.0, 0.5)]
    """
    kept: list[Pair] = []
    for size, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((size, accuracy))
    return kept


def mean_gap(ours: Sequence[Pair], theirs: Sequence[Pair]) -> float | None:
    """Return by how much accuracy our running maximum leads on average over the bytes that both measured.

    .. math:: \\int (a_\\mathrm{ours} - a_\\mathrm{theirs}) \\, d \\log_2 B \\, / \\log_2 (B_\\max / B_\\min)

    None where the two have no interval of bytes in common.
    """
    edges = _common(ours, theirs)
    if len(edges) < 2:
        return None
    first, second = running_maximum(ours), running_maximum(theirs)
    area = sum(
        (_best(first, low) - _best(second, low)) * math.log2(high / low) for low, high in itertools.pairwise(edges)
    )
    return area / math.log2(edges[-1] / edges[0])


def byte_ratio(ours: Sequence[Pair], theirs: Sequence[Pair]) -> float | None:
    """Return how many bytes of ours are worth one of theirs: 2 to the mean difference of log2 B at equal accuracy.

    The mean is over the accuracies that both reach; below 1 ours need fewer bytes. None where there are none.
    """
    first, second = running_maximum(ours), running_maximum(theirs)
    low, high = max(first[0][1], second[0][1]), min(first[-1][1], second[-1][1])
    if low >= high:
        return None
    edges = sorted({low, high, *(accuracy for _, accuracy in (*first, *second) if low < accuracy < high)})
    area = sum(
        (upper - lower) * math.log2(_fewest(first, upper) / _fewest(second, upper))
        for lower, upper in itertools.pairwise(edges)
    )
    return 2 ** float(area / (high - low))


def crossovers(ours: Sequence[Pair], theirs: Sequence[Pair]) -> list[float]:
    """Return the bytes at which the lead passes from one to the other, within those that both measured."""
    first, second = running_maximum(ours), running_maximum(theirs)
    found, leading = [], 0.0
    for size in _common(ours, theirs):
        lead = _best(first, size) - _best(second, size)
        if lead * leading < 0:
            found.append(size)
        leading = lead or leading
    return found


def _common(ours: Sequence[Pair], theirs: Sequence[Pair]) -> list[float]:
    """Return the bytes at which either changes within those that both measured; none where there are none."""
    sizes = [[size for size, _ in points] for points in (ours, theirs)]
    low, high = max(map(min, sizes)), min(map(max, sizes))
    return sorted({low, high, *(size for size in itertools.chain(*sizes) if low < size < high)}) if low <= high else []


def _best(steps: Sequence[Pair], size: float) -> float:
    return steps[bisect.bisect_right(steps, size, key=lambda step: step[0]) - 1][1]


def _fewest(steps: Sequence[Pair], accuracy: float) -> float:
    return steps[bisect.bisect_left(steps, accuracy, key=lambda step: step[1])][0]


class Point(BaseModel):
    """What networks reach that were trained on a set, or on several draws of it.

    Args:
        kind: method of a distilled set, or kind of baseline.
        distilled: whether it is a distilled set.
        run: name of the run whose set it is, or beside which it stands.
        codec: of that set, as users give it; None where it is stored as it is.
        form: in which a baseline was kept, where it says so.
        payload: bytes by which sets are compared, all classes together, mean over draws.
        images: training images, all classes together.
        accuracies: for every draw one fraction a network.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str = Field(pattern=r"^[\w .()+-]{1,60}$")
    distilled: bool
    run: str
    codec: str | None
    form: str | None = None
    payload: float = Field(ge=1, le=1e15)
    images: PositiveInt
    accuracies: _Accuracies

    @computed_field  # type: ignore[prop-decorator]
    @property
    def mean(self) -> float:
        """Mean accuracy of all networks."""
        return two_level(self.accuracies).mean

    @computed_field  # type: ignore[prop-decorator]
    @property
    def interval95(self) -> tuple[float, float] | None:
        """95 % interval of the mean within [0, 1], over draws where there are three; None for one network."""
        return _clipped(self.accuracies)


def _clipped(accuracies: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    interval = two_level(accuracies).interval95
    return None if interval is None else (max(0.0, interval[0]), min(1.0, interval[1]))


@dataclass(frozen=True)
class Lead:
    """How the curve of a distilled kind compares with that of a baseline.

    Args:
        kind: the distilled kind.
        baseline: the other.
        bytes: a class, between which both were measured; None where they have none in common.
        gap: see :func:`mean_gap`.
        ratio: see :func:`byte_ratio`.
        crossovers: bytes a class, see :func:`crossovers`.
    """

    kind: str
    baseline: str
    bytes: tuple[float, float] | None
    gap: float | None
    ratio: float | None
    crossovers: tuple[float, ...]


class Curve(BaseModel):
    """Points of several kinds on one test set.

    Args:
        data: name of the data.
        classes: K.
        model: architecture of the networks.
        recipe: name of the recipe.
        points: in the order in which they were measured.
        whole: accuracies of networks trained on the whole real set; None where it was not asked for.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    data: str
    classes: int = Field(ge=1, le=10**6)
    model: str
    recipe: str
    points: tuple[Point, ...] = Field(min_length=1)
    whole: Annotated[tuple[_Fraction, ...], Field(min_length=1)] | None = None

    def kinds(self) -> dict[str, list[Point]]:
        """Return the points of every kind, distilled ones first."""
        found: dict[str, list[Point]] = {}
        for point in sorted(self.points, key=lambda point: not point.distilled):
            found.setdefault(point.kind, []).append(point)
        return found

    def pairs(self, points: Sequence[Point]) -> list[Pair]:
        """Return bytes a class and mean accuracy of every point."""
        return [(point.payload / self.classes, point.mean) for point in points]

    def leads(self) -> list[Lead]:
        """Compare every distilled kind with every baseline."""
        kinds = self.kinds()
        return [
            self._lead(kind, other)
            for kind, other in itertools.product(kinds, kinds)
            if kinds[kind][0].distilled and not kinds[other][0].distilled
        ]

    def _lead(self, kind: str, baseline: str) -> Lead:
        ours, theirs = (self.pairs(self.kinds()[name]) for name in (kind, baseline))
        edges, gap = _common(ours, theirs), mean_gap(ours, theirs)
        return Lead(
            kind,
            baseline,
            (edges[0], edges[-1]) if gap is not None else None,
            gap,
            byte_ratio(ours, theirs),
            tuple(crossovers(ours, theirs)),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return JSON-able content with all derived figures."""
        content = self.model_dump(mode="json")
        for entry, point in zip(content["points"], self.points, strict=True):
            entry["bytes_per_class"] = point.payload / self.classes
        return {**content, "leads": [asdict(lead) for lead in self.leads()]}
