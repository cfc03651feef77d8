"""From a number of bytes to a configuration: codec, resolution or formation factor, images per class and rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ddkit import methods
from ddkit.base.config import DistillConfig, merge, piece_from_text
from ddkit.data.real import RealData
from ddkit.engine import choosing, promise
from ddkit.engine.minutes import Deadline, in_time
from ddkit.engine.session import Session
from ddkit.errors import ConfigError
from ddkit.methods.base import Method
from ddkit.models.spec import ModelSpec
from ddkit.synthesis.base import registry as syntheses
from ddkit.training.judge import Judge
from ddkit.training.named import OWN_RECIPES
from ddkit.training.named import recipe as named_recipe

#: The method that chooses for itself, the preset it stands for, and the preset's settings that it replaces. The rate
#: falls, so that it matters less where it starts: digits, four a class at one bit, 300 steps, four networks on held-out
#: training images: 91.1 % from rate 0.1 and 91.6 % from rate 1, 89.4 % at the start.
AUTO, PRESET = "auto", "dm"
COMPOSITION: dict[str, Any] = {"steps": 300, "optimiser": {"schedule": "cosine"}}
#: Synthetic images that a run of ``auto`` shows to networks at most: larger sets, from which matching has less to gain,
#: get fewer steps.
MOST_SHOWN = 1_000_000
#: Share of the minutes in which networks are trained on real images in their forms, and the fewest images for that; and
#: that in which starts are compared.
SEARCHING, FEWEST_PASSES, STARTS = 0.15, 2000, 0.1
#: So many real images a class are taken at random, without a comparison with herded ones.
MANY = 500
#: As many of them are tried with learned images.
NEXT_BEST = 3

Say = Callable[[str], None]


def preset(name: str) -> Method:
    """Return the preset that a method, or ``auto``, stands for; an unknown name raises an error that lists them."""
    return methods.get(PRESET if name == AUTO else name)


def configure(
    name: str,
    real: RealData,
    ipc: int | None,
    limit: int | None,
    seed: int,
    overrides: Mapping[str, Any],
    objects: Mapping[str, Any] | None = None,
    say: Say = lambda _: None,
    minutes: float | None = None,
) -> DistillConfig:
    """Return the configuration of a method for images per class, or for a number of bytes, and of minutes.

    Args:
        name: of a method, or ``auto``.
        real: the training data; what :func:`ddkit.engine.promise.held_out` keeps of them is not looked at.
        ipc: images per class; None for the most that fit the bytes.
        limit: most bytes; None for no limit but under ``auto``, which takes those of ``ipc`` real images at 8 bits.
        seed: of the run.
        overrides: laid over the settings of the method.
        objects: pieces given as objects.
        say: told what is being done.
        minutes: for all of it, from now; None for the steps of the method.
    """
    deadline = None if minutes is None else Deadline(minutes)
    objects = objects or {}
    if "fill" in overrides and ipc is not None and (limit is not None or name != AUTO):
        raise ConfigError("fill is the share of --bytes from which a start gets its images, and --ipc says how many")
    if deadline is not None and "steps" in overrides:
        raise ConfigError("--minutes and --steps exclude each other: leave one of them out")
    if limit is None and name != AUTO:
        assert ipc is not None
        config = _method(name, deadline, say).configure(real, ipc, seed, overrides, objects)
        return config if deadline is None else in_time(config, real, objects, deadline, say)
    if limit is None:
        assert ipc is not None
        limit, ipc = raw_bytes(real, ipc), None
    part, held_out = promise.held_out(real, seed)
    config = plan(name, part, ipc, seed, {**overrides, "bytes": limit}, objects, say, deadline)
    if deadline is None or name == AUTO:
        return config
    return in_time(config, part, objects, deadline, say, after=promise.seconds(minutes, held_out, config))


def _method(name: str, deadline: Deadline | None, say: Say) -> Method:
    method = preset(name)
    if deadline is None or name == AUTO:
        return method
    if method.short is not None:
        say(f"{name} takes its settings for runs of minutes, not the published ones")
    return method.in_minutes()


def raw_bytes(real: RealData, ipc: int) -> int:
    """Return what ``ipc`` real images a class take at 8 bits a value: the budget of ``auto`` where none is given."""
    channels, height, width = real.shape
    return channels * height * width * int(real.class_counts.clamp(max=ipc).sum())


def plan(
    name: str,
    real: RealData,
    ipc: int | None,
    seed: int,
    overrides: Mapping[str, Any],
    objects: Mapping[str, Any],
    say: Say = lambda _: None,
    deadline: Deadline | None = None,
) -> DistillConfig:
    """Return the configuration of a run whose coded start takes as many of its ``bytes`` as it can.

    The codec, unless it is given, is that in which random real images of this size are worth most, see
    :func:`~ddkit.evaluation.form_search.best_form`; with a synthesis that cuts its images into formations, the factor
    takes the place of the codec's resolution. Images that would start at random real ones start at herded ones where
    these are worth more: of few they are, of many the random ones.

    ``auto`` takes what :func:`ddkit.engine.choosing.choose` finds. Large sets get fewer steps.

    Args:
        name: of a method, or ``auto``.
        real: training images, of which some are held out for each choice.
        ipc: images per class; None for the most that fit.
        seed: of the run.
        overrides: with ``bytes`` among them.
        objects: pieces given as objects.
        say: told what is being done.
        deadline: until when ``auto`` may choose, run and compare.

    Raises:
        ConfigError: not one image a class fits, or a method that picks real images.
    """
    method = _method(name, deadline, say)
    if method.is_coreset:
        raise ConfigError(
            f"'{name}' picks real images, which --bytes does not limit: give --ipc alone, or another method"
        )
    overrides, given = dict(overrides), dict(overrides)
    if name == AUTO:
        overrides = merge(COMPOSITION, overrides)
    first = method.configure(real, ipc or 1, seed, overrides, objects)
    synthesis = type(objects["synthesis"]) if "synthesis" in objects else syntheses.get(first.synthesis.name)
    codings: list[dict[str, Any]] = [{}]
    if first.codec is None:
        codings = _codings(first, real, say, deadline) if synthesis.image_like else [{"codec": "float16"}]
    if deadline is not None:
        deadline.require(0.0, "the choice of a codec")
    if "init" not in overrides and first.init == "real" and "herded" in synthesis.inits:
        coded = merge(merge(overrides, codings[0]), {} if ipc else {"fill": 1.0})
        config = method.configure(real, ipc or 1, seed, coded, objects)
        overrides["init"] = _better_init(config, real, objects, say, deadline)
    if name != AUTO:
        overrides = merge(merge({} if ipc else {"fill": 1.0}, overrides), codings[0])
        return method.configure(real, _images(method, real, ipc, seed, overrides, objects), seed, overrides, objects)
    counts: dict[tuple[int, float], int] = {}

    def configured(number: int, pieces: Mapping[str, Any], fill: float) -> DistillConfig:
        fill = given.get("fill", fill)
        coded = merge(merge({} if ipc else {"fill": fill}, overrides), codings[number])
        if (number, fill) not in counts:
            counts[number, fill] = _images(method, real, ipc, seed, coded, objects)
        laid = merge(merge(coded, pieces), given)
        if deadline is not None:
            laid["compile"] = deadline.compile(laid.get("compile", "auto"))
        if "steps" not in given:
            laid["steps"] = min(laid["steps"], max(1, MOST_SHOWN // (counts[number, fill] * real.num_classes)))
        return method.configure(real, counts[number, fill], seed, laid, objects)

    return choosing.choose(configured, len(codings), real, seed, objects, say, deadline)


def _better_init(
    config: DistillConfig, real: RealData, objects: Mapping[str, Any], say: Say, deadline: Deadline | None
) -> str:
    """Return which real images are worth more, of as many as fit: ``herded`` or random ones (``real``).

    Herded images are near the means of their classes, which pays where there are few of them (CIFAR-10, test images,
    cosine transforms at half resolution or less: 73 a class 36.3 %, random ones 32.5 %) and not where there are many
    (520 a class 45.1 %, 384 random ones 47.6 %): of :data:`MANY` it need not be tried, nor herded, which takes time.
    """
    rest, images = promise.held_out(real, config.seed)
    inits = {"random": "real", "herded": "herded"}
    starts: dict[str, Session] = {}
    for name, init in inits.items():
        start = fullest_start(DistillConfig.create(merge(config.as_dict(), {"init": init})), rest, objects)
        if start is None or (name == "random" and start.config.ipc > MANY):
            return "real"  # where none fits, whoever counts the images says it
        starts[name], config = start, start.config
    sets = {name: starts[name].materialise({}) for name in ("herded", "random")}  # herded ones where they are equal
    share = 1.0
    if deadline is not None:
        share = promise.share_in(STARTS * 60 * deadline.minutes, len(sets), images, config)
    best, found = promise.better(sets, images, config, share)
    say(f"real images, {config.ipc} a class: {promise.means_in_words(found['accuracies'])}")
    return inits[best]


def _codings(first: DistillConfig, real: RealData, say: Say, deadline: Deadline | None) -> list[dict[str, Any]]:
    """Return codecs, and formation factors where the synthesis has one, as overrides, best first.

    The best one of a finer resolution is among them, as learned images have more use for it than real ones.
    """
    from ddkit.evaluation.coded_reals import coded_forms
    from ddkit.evaluation.form_search import MOST_PASSES, TooFewBytesError, best_form

    assert first.bytes is not None
    passes = None
    if deadline is not None:
        a_pass = Judge(ModelSpec.parse(first.model), real, 1, first.device).seconds
        passes = max(FEWEST_PASSES, min(MOST_PASSES, round(SEARCHING * 60 * deadline.minutes / a_pass)))
    how = first.recipe.name if first.recipe.name not in OWN_RECIPES else "dsa"
    try:
        found = best_form(
            real,
            first.bytes - real.preprocessing.nbytes,
            coded_forms(),
            model=first.model,
            recipe=named_recipe(how, real.name),
            seed=first.seed,
            passes=passes,
            device=first.device,
            report=say,
        )
    except TooFewBytesError as error:
        raise ConfigError(f"{error.reason}: give more bytes") from None
    best = found[0]
    say(f"codec {best.form}: {best.images_per_class} real images a class, {100 * best.accuracy:.1f} % held out")
    pieces = [piece_from_text(one.form) for one in found]
    finer = [piece for piece in pieces if _resolution(piece) < _resolution(pieces[0])]
    chosen = pieces[:NEXT_BEST] + [piece for piece in finer[:1] if piece not in pieces[:NEXT_BEST]]
    if "factor" not in first.synthesis.options:
        return [{"codec": piece} for piece in chosen]
    return [
        {
            "codec": {name: value for name, value in piece.items() if name != "resolution"},
            "synthesis": {"factor": _resolution(piece)},
        }
        for piece in chosen
    ]


def _resolution(piece: Mapping[str, Any]) -> int:
    return int(piece.get("resolution", 1))


def _images(
    method: Method,
    real: RealData,
    ipc: int | None,
    seed: int,
    overrides: Mapping[str, Any],
    objects: Mapping[str, Any],
) -> int:
    """Return how many images a class start within the bytes: ``ipc``, or where that is None the most in their ``fill``.

    Raises:
        ConfigError: so many, or even one, do not fit.
    """

    def configured(count: int) -> DistillConfig:
        return method.configure(real, count, seed, {**overrides, "bytes": None}, objects)

    available = int(overrides["bytes"])
    count = 0 if ipc is not None else _most(configured, real, int(overrides["fill"] * available), objects)
    if not count:
        needed = _payload(_started(configured(ipc or 1), real, objects))
        count = (ipc or 1) * (needed <= available)
    if not count:
        takes = f"{'one image' if ipc is None else f'--ipc {ipc}'} of each of {real.num_classes} classes"
        raise ConfigError(
            f"--bytes {available} does not hold {takes}, which takes {needed:,} in the codec of this run: "
            f"give more bytes"
        )
    return count


def _started(config: DistillConfig, real: RealData, objects: Mapping[str, Any]) -> Session:
    session = Session(config, real, objects)
    session.start()
    return session


def _payload(session: Session) -> int:
    assert session.coding is not None
    return session.coding.payload()


def _most(
    configured: Callable[[int], DistillConfig], real: RealData, available: int, objects: Mapping[str, Any]
) -> int:
    """Return how many images a class a start within the bytes can have."""
    from ddkit.evaluation.coded_reals import most_that_fit

    def needed(count: int) -> int:
        return _payload(_started(configured(count), real, objects))

    return most_that_fit(needed, available, int(real.class_counts.min()))


def fullest_start(config: DistillConfig, real: RealData, objects: Mapping[str, Any]) -> Session | None:
    """Return a session at its start, of as many images a class as fit the bytes of a run, or as were given for it.

    Args:
        config: of the run.
        real: among which the images are picked.
        objects: pieces given as objects.

    Returns:
        None where not one image a class fits.
    """

    def configured(count: int) -> DistillConfig:
        return DistillConfig.create({**config.as_dict(), "ipc": count, "bytes": None})

    assert config.bytes is not None
    count = _most(configured, real, config.bytes, objects)
    if config.fill is None:
        count = min(count, config.ipc)
    if not count:
        return None
    return _started(DistillConfig.create({**config.as_dict(), "ipc": count}), real, objects)
