"""How long a run takes, and how many steps fit a number of minutes: some are taken and timed."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ddkit.base.config import DistillConfig, merge
from ddkit.base.precision import COMPILE_PAYS_SECONDS
from ddkit.base.progress import roughly, silent
from ddkit.data.real import RealData
from ddkit.engine.run import peak_memory_bytes
from ddkit.engine.session import Session
from ddkit.errors import ConfigError
from ddkit.networks.experts import ExpertTrajectories

#: Share of the time, and steps, after which enough steps have been timed.
_SHARE, _STEPS = 0.05, 20
#: Seconds of steps that are enough for a forecast.
_ENOUGH = 5.0
#: Share of the time that is kept for what was timed too short.
_SPARE = 0.04
#: Batches of real images on which experts are trained to find out how long that takes.
_BATCHES = 8


@dataclass(frozen=True)
class Deadline:
    """A number of minutes that run from now.

    Args:
        minutes: above 0.

    Raises:
        ConfigError: not a positive, finite number.
    """

    minutes: float
    began: float = field(default_factory=lambda: time.monotonic())

    def __post_init__(self) -> None:
        if not (math.isfinite(self.minutes) and self.minutes > 0):
            raise ConfigError(f"--minutes {self.minutes:g} must be positive and finite")

    def left(self, share: float = 1.0) -> float:
        """Return the seconds that are left of this share of the minutes."""
        return self.began + 60 * share * self.minutes - time.monotonic()

    def compile(self, wanted: bool | Literal["auto"]) -> bool | Literal["auto"]:
        """Return whether to compile: not for so short a time, unless it is wanted."""
        return False if wanted == "auto" and 60 * self.minutes <= COMPILE_PAYS_SECONDS else wanted

    def require(self, seconds: float, what: str) -> None:
        """Refuse what takes longer than is left.

        Raises:
            ConfigError: naming the minutes that would be enough.
        """
        if seconds > self.left():
            enough = math.ceil((60 * self.minutes - self.left() + seconds) / 6) / 10
            raise ConfigError(f"--minutes {self.minutes:g} does not hold {what}: give {enough:g} or more")


@dataclass(frozen=True)
class Pace:
    """How long a run takes.

    Args:
        before: seconds from its beginning to the end of the first step, but for that step itself: preparation, starting
            point, compilation.
        step: seconds of every step.
    """

    before: float
    step: float

    def steps_in(self, seconds: float) -> int:
        """Return how many steps fit; 0 for none."""
        return max(0, math.floor((seconds * (1 - _SPARE) - self.before) / self.step))

    def seconds(self, steps: int) -> float:
        """Return how long so many steps take."""
        return self.before + steps * self.step


@dataclass(frozen=True)
class Forecast:
    """What a run is expected to take, from the first steps of one like it.

    Args:
        config: of the run.
        pace: of its steps.
        around: seconds that pass before it, while it is configured, and after its last step.
        memory: peak bytes of this process, or of the accelerator, so far.
    """

    config: DistillConfig
    pace: Pace
    around: float
    memory: int

    @property
    def steps(self) -> int:
        """Of the run."""
        return self.config.steps

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.pace.seconds(self.steps) + self.around

    def __str__(self) -> str:
        what = f"{self.config.title}, {self.config.ipc} a class, {self.steps:,} steps of {self.pace.step:.2g} s"
        return f"{what}: about {roughly(self.seconds)} in all, {self.memory / 1e9:.1f} GB of memory"


def forecast(config: DistillConfig, real: RealData, objects: Mapping[str, Any], around: float) -> Forecast:
    """Take some steps of a run in memory and say what all of them will take; arguments as :class:`Forecast`.

    Raises:
        ConfigError: no outer steps, or some that cannot be timed alone.
    """
    _require_steps_to_time(config, objects)
    session = Session(config, real, objects)
    pace = _paced(session, real, objects, _ENOUGH)
    return Forecast(config, pace, around, peak_memory_bytes(str(session.device)))


def _paced(session: Session, real: RealData, objects: Mapping[str, Any], enough: float) -> Pace:
    """Return the pace of a new session on ``real``.

    Where experts are trained before the first step, two are trained on a few images: their time goes by images.
    """
    experts, config = session.networks, session.config
    if not isinstance(experts, ExpertTrajectories) or experts.buffer is not None:
        return pace_of(session, enough)
    few = max(2 * config.ipc * real.num_classes, _BATCHES * experts.settings().batch_size)
    part = real.split_off(few / len(real), session.streams("timing"))[1] if 2 * few < len(real) else real
    precision = session.network.precision
    changes: dict[str, Any] = {"precision": precision.name, "compile": precision.compile}
    if "networks" not in objects:
        changes["networks"] = {"count": min(2, experts.count)}
    small = Session(DistillConfig.create(merge(config.as_dict(), changes)), part, objects)
    at: list[float] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from a few images they may not learn
        small.prepare(lambda *_: at.append(time.monotonic()))
    epochs, first = len(at) - 1, 1 if len(at) > 2 else 0  # the first one compiles
    an_epoch = (at[-1] - at[first]) / (epochs - first)
    more = experts.count * experts.epochs * len(real) / len(part) - epochs
    pace = pace_of(small, enough)
    return Pace(at[-1] - at[0] + an_epoch * more + pace.before, pace.step)


def pace_of(session: Session, enough: float) -> Pace:
    """Prepare a session, start it and take some steps.

    Args:
        session: a new one; it has taken some steps afterwards.
        enough: seconds of steps after the first that are enough.
    """
    began = time.monotonic()
    session.prepare(silent)
    session.start()
    session.step(1)
    first = time.monotonic()
    taken = 0
    while taken < 2 or (taken < _STEPS and time.monotonic() - first < enough):
        taken += 1
        session.step(1 + taken)
    step = (time.monotonic() - first) / taken
    return Pace(max(0.0, first - began - step), step)


def in_time(
    config: DistillConfig,
    real: RealData,
    objects: Mapping[str, Any],
    deadline: Deadline,
    say: Callable[[str], None],
    *,
    after: float = 0.0,
) -> DistillConfig:
    """Return a configuration with as many steps as fit what is left of the time, at most those it has.

    Args:
        config: of the run.
        real: on which it runs.
        objects: pieces given as objects.
        deadline: for timing some steps, the run and what comes after it.
        say: told how many steps and seconds that will be.
        after: seconds that are needed after the last step.

    Raises:
        ConfigError: not one step fits, or none can be timed alone.
    """
    _require_steps_to_time(config, objects)
    config = DistillConfig.create(merge(config.as_dict(), {"compile": deadline.compile(config.compile)}))
    timed = Session(DistillConfig.create(merge(config.as_dict(), {"bytes": None})), real, objects)
    precision = timed.network.precision  # that of the published steps would not be that of the steps that fit
    config = DistillConfig.create(merge(config.as_dict(), {"precision": precision.name, "compile": precision.compile}))
    pace = _paced(timed, real, objects, _SHARE * 60 * deadline.minutes)
    return with_steps(config, pace, deadline, say, after=after)


def _require_steps_to_time(config: DistillConfig, objects: Mapping[str, Any]) -> None:
    if config.selection is not None:
        raise ConfigError(f"'{config.method}' picks real images: there are no outer steps to time")
    if "signal" in objects or config.signal.name not in ("real", "cached", "representative"):
        raise ConfigError("minutes are found by timing some steps, whose questions a signal of its own would pay for")


def with_steps(
    config: DistillConfig,
    pace: Pace,
    deadline: Deadline,
    say: Callable[[str], None],
    *,
    after: float = 0.0,
    most: int | None = None,
) -> DistillConfig:
    """Return the configuration with as many steps as fit at this pace; other arguments as :func:`in_time`.

    Args:
        config: of the run.
        pace: at which it runs.
        deadline: for the run and what comes after it.
        say: told how many steps and seconds that will be.
        after: seconds that are needed after the last step.
        most: steps, where more than those of the configuration are welcome, and one even where the time is over: what
            was found in it is worth more than an error.
    """
    if most is None:
        deadline.require(after + pace.seconds(1) / (1 - _SPARE), f"one step ({pace.seconds(1):.1f} s)")
    steps = max(1, min(most or config.steps, pace.steps_in(deadline.left() - after)))
    expected = pace.seconds(steps) + after
    say(f"{steps:,} steps of {pace.step:.2g} s: done in about {roughly(expected)}")
    return DistillConfig.create(merge(config.as_dict(), {"steps": steps}))
