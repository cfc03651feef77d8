"""Which points has a curve of accuracy against bytes? Sets, also coded, and baselines in as many bytes."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ddkit.base.container import canonical_json
from ddkit.base.version import __version__
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.data.storage import digest
from ddkit.errors import ConfigError, DataError, unknown_name
from ddkit.evaluation.baselines import baseline_sets
from ddkit.evaluation.choice import own_model, recipe_for_others, whole_recipe
from ddkit.evaluation.compatibility import check_compatible
from ddkit.evaluation.evaluate import evaluate, evaluate_real
from ddkit.evaluation.finished import Finished
from ddkit.evaluation.form_search import TooFewBytesError
from ddkit.evaluation.rate import Curve, Point
from ddkit.models.spec import ModelSpec
from ddkit.training.experts.identity import describe_preprocessing
from ddkit.training.recipe import TrainingRecipe

#: Baselines whose size follows from that of the set beside which they stand, and the whole real set.
BASELINES = ("random-bytes", "random-coded", "herding-coded", "random-best", "whole")
#: Those that are measured unless others are named.
DEFAULT = ("random-bytes", "random-coded", "herding-coded", "random-best")
#: Sets per random baseline.
DRAWS = 3


@dataclass(frozen=True)
class Source:
    """A distilled set of a curve.

    Args:
        run: its name.
        distilled: the set.
        recipe: how networks are trained on it.
        codec: by which it was coded for the curve; None as it is.
    """

    run: str
    distilled: DistilledDataset
    recipe: TrainingRecipe
    codec: str | None = None

    @property
    def described(self) -> str:
        """Its name and data in words."""
        one = self.distilled
        name, size = one.card.source.name or "unknown data", "x".join(map(str, one.shape))
        return f"'{self.run}' ({name}, {one.num_classes} classes of {size} images)"


def known_baselines(kinds: Sequence[str]) -> list[str]:
    """Return kinds of baselines, none of them twice; :data:`DEFAULT` where there are none.

    Raises:
        UnknownNameError: one that no curve has.
    """
    for kind in kinds:
        if kind not in BASELINES:
            raise unknown_name("baseline", kind, BASELINES)
    return list(dict.fromkeys(kinds or DEFAULT))


def all_coded(sources: Sequence[Source], codecs: Sequence[str]) -> list[Source]:
    """Return every set as it is and by every codec.

    Raises:
        ConfigError: a codec that cannot hold a set, or fewer than two points.
        UnknownNameError: no such codec.
    """
    if len(sources) * (1 + len(codecs)) < 2:
        raise ConfigError("one set is one point, and a curve needs two: add --codec uniform, or further runs")
    return [
        one if codec is None else replace(one, codec=codec, distilled=one.distilled.coded(codec))
        for one in sources
        for codec in (None, *codecs)
    ]


def check_same(sources: Sequence[Source]) -> None:
    """Refuse sets that have no curve in common.

    Raises:
        DataError: sets of other data, classes or image shapes.
        ConfigError: sets for which other recipes were meant.
    """
    first = sources[0]
    for one in sources[1:]:
        ours, theirs = first.distilled, one.distilled
        prints = [each.card.source.fingerprint or each.card.source.name for each in (ours, theirs)]
        if prints[0] != prints[1] or ours.class_names != theirs.class_names or ours.shape != theirs.shape:
            raise DataError(f"{one.described} is of other data than {first.described}: a curve needs sets of the same")
        if one.recipe.name != first.recipe.name:
            raise ConfigError(
                f"'{one.run}' is meant for recipe '{one.recipe.name}' and '{first.run}' for '{first.recipe.name}': "
                f"choose one with --recipe"
            )


def common_model(sources: Sequence[Source]) -> ModelSpec:
    """Return the architecture with which all sets want to be judged.

    Raises:
        ConfigError: they want different ones.
    """
    models = dict.fromkeys(ModelSpec.parse(own_model(one.distilled)) for one in sources)
    if len(models) > 1:
        names = " and ".join(model.canonical() for model in models)
        raise ConfigError(f"the sets want to be judged by {names}: choose one with --arch")
    return next(iter(models))


@dataclass(frozen=True)
class Measuring:
    """How the points of a curve are measured.

    Args:
        train: the data that were distilled.
        test: untouched test data.
        model: architecture of all networks.
        repeats: networks a point, shared out among the draws of a random baseline.
        seed: of networks and draws.
        device: where to train.
        finished: networks that a call which was stopped has left.
        report: called with a line of text before every point.
    """

    train: RealData
    test: RealData
    model: ModelSpec
    repeats: int
    seed: int
    device: torch.device
    finished: Finished
    report: Callable[[str], None] = lambda _: None

    def points(
        self, sets: Sequence[Source], kinds: Sequence[str], known: Mapping[str, Point]
    ) -> Iterator[tuple[str, Point]]:
        """Yield every point with what it depends on, hashed, sets first; those that are ``known`` are not measured.

        A baseline of which not even one image a class fits is left out, and said.

        Raises:
            DataError: data that do not fit the sets.
        """
        for one in sets:
            check_compatible(one.distilled, self.test)
        beside = [kind for kind in kinds if kind != "whole"]
        for place, one in itertools.product((None, *beside), sets):
            key = self._key(one, place)
            point = known.get(key)
            point = point and point.model_copy(update={"run": one.run, "codec": one.codec})
            if point is None:
                point = self._set(one) if place is None else self._baseline(one, place)
            if point is not None:
                yield key, point
        if "whole" in kinds:
            key = self._key(sets[0], "whole")
            yield key, known.get(key) or self._whole(sets[0])

    def _set(self, one: Source) -> Point:
        self._say(one, "training networks on")
        kind = re.sub(r"[^\w .()+-]", " ", one.distilled.card.method or "distilled")[:60]
        return self._point(one, [one.distilled], self._trained([one.distilled], one.recipe), kind, distilled=True)

    def _baseline(self, one: Source, kind: str) -> Point | None:
        others = recipe_for_others(one.distilled, one.recipe)
        search = {"model": self.model, "recipe": others, "device": self.device, "report": self.report}
        draws = min(DRAWS, self.repeats)
        try:
            members = baseline_sets(self.train, one.distilled, [kind], self.seed, draws, **search)[kind]
        except TooFewBytesError as error:
            self._say(one, f"no point of '{kind}' beside", f": {error}")
            return None
        self._say(one, f"training networks on '{kind}' beside")
        assert isinstance(members, list)
        return self._point(one, members, self._trained(members, others), kind)

    def _trained(self, members: Sequence[DistilledDataset], recipe: TrainingRecipe) -> list[tuple[float, ...]]:
        """Share the networks out among the sets; draw d is evaluated with ``seed + d``, as in ``ddkit evaluate``."""
        each, more = divmod(self.repeats, len(members))
        return [
            evaluate(
                member,
                self.test,
                [self.model],
                each + (draw < more),
                recipe,
                self.seed + draw,
                device=self.device,
                finished=self.finished,
            )
            .rows[0]
            .accuracies
            for draw, member in enumerate(members)
        ]

    def _point(
        self,
        one: Source,
        members: Sequence[DistilledDataset],
        accuracies: Sequence[tuple[float, ...]],
        kind: str,
        distilled: bool = False,
    ) -> Point:
        payloads = [member.budget.payload or 0 for member in members]
        return Point(
            kind=kind,
            distilled=distilled,
            run=one.run,
            codec=one.codec,
            form=members[0].metadata.get("form"),
            payload=sum(payloads) / len(payloads),
            images=len(members[0]),
            accuracies=tuple(accuracies),
        )

    def _whole(self, one: Source) -> Point:
        self.report("training networks on the whole real set")
        real = self.train.with_preprocessing(one.distilled.preprocessing)
        result = evaluate_real(
            real,
            self.test,
            [self.model],
            min(self.repeats, 3),
            whole_recipe(real),
            self.seed,
            device=self.device,
            finished=self.finished,
        )
        return Point(
            kind="whole",
            distilled=False,
            run=one.run,
            codec=None,
            payload=float(real.images.nbytes),
            images=len(real),
            accuracies=(result.rows[0].accuracies,),
        )

    def _say(self, one: Source, what: str, why: str = "") -> None:
        how = f", {one.codec}" if one.codec else ""
        self.report(f"{what} '{one.run}'{how} ({one.distilled.budget.payload:,} bytes){why}")

    def _key(self, one: Source, kind: str | None) -> str:
        """Return what the accuracies of a point depend on, hashed."""
        distilled = one.distilled
        test = self.test.with_preprocessing(distilled.preprocessing)
        recipe = whole_recipe(self.train) if kind == "whole" else one.recipe
        identity = {
            "set": None if kind == "whole" else [digest(distilled.images, distilled.labels), distilled.budget.payload],
            "codec": None if kind == "whole" or distilled.coding is None else distilled.coding.codec,
            "kind": kind,
            "train": self.train.fingerprint,
            "test": [test.fingerprint, describe_preprocessing(test.preprocessing, test.shape)],
            "recipe": recipe.model_dump(mode="json"),
            "model": self.model.canonical(),
            "how": [self.repeats, self.seed, self.device.type],
            "versions": [__version__, str(torch.__version__)],
        }
        return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:32]


def curve_of(points: Sequence[Point], measuring: Measuring, recipe: TrainingRecipe) -> Curve:
    """Return the curve of measured points."""
    whole = next((point.accuracies[0] for point in points if point.kind == "whole"), None)
    return Curve(
        data=measuring.test.name,
        classes=measuring.test.num_classes,
        model=measuring.model.canonical(),
        recipe=recipe.name,
        points=tuple(point for point in points if point.kind != "whole"),
        whole=whole,
    )
