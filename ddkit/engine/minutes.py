"""How long a run takes, and how many steps fit a number of minutes: some are taken and timed."""

from __future__ import annotations

import math
import time
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

#: Share of the time, and steps, after which enough steps have been timed.
_SHARE, _STEPS = 0.05, 20
#: Seconds of steps that are enough for a forecast.
_ENOUGH = 5.0
#: Share of the time that is kept for what was timed too short.
_SPARE = 0.04


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
    return Forecast(config, pace_of(session, _ENOUGH), around, peak_memory_bytes(str(session.device)))


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
        ConfigError: not one step fits, or networks that have to be trained for hours beforehand.
    """
    _require_steps_to_time(config, objects)
    config = DistillConfig.create(merge(config.as_dict(), {"compile": deadline.compile(config.compile)}))
    timed = Session(DistillConfig.create(merge(config.as_dict(), {"bytes": None})), real, objects)
    precision = timed.network.precision  # that of the published steps would not be that of the steps that fit
    config = DistillConfig.create(merge(config.as_dict(), {"precision": precision.name, "compile": precision.compile}))
    pace = pace_of(timed, _SHARE * 60 * deadline.minutes)
    return with_steps(config, pace, deadline, say, after=after)


def _require_steps_to_time(config: DistillConfig, objects: Mapping[str, Any]) -> None:
    if config.selection is not None:
        raise ConfigError(f"'{config.method}' picks real images: there are no outer steps to time")
    if config.networks.name == "experts" and not config.networks.options.get("buffer"):
        raise ConfigError(
            f"steps are timed before the run, and '{config.method}' trains expert networks before its steps: train "
            f"them first by `ddkit experts`, and pass them by networks.buffer"
        )
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
