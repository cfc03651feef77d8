"""What ``auto`` chooses: networks and a learning rate, and the form of the images, by trying each for a while."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ddkit.base.config import DistillConfig, merge
from ddkit.base.progress import silent
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine import promise
from ddkit.engine.minutes import Deadline, Pace, in_time, with_steps
from ddkit.engine.session import Session
from ddkit.errors import ConfigError, DivergedError

_RANDOM = {"networks": {"name": "fixed", "count": 60}, "signal": {"name": "cached"}}
_TRAINED = {
    "networks": {"name": "pool", "runs": 1, "stages": 6, "steps": 1000, "batch_size": 128, "lr": 0.02},
    "signal": {"name": "cached", "views": 10},
    "objective": {"ce_weight": 30.0, "ce_network": "last"},
}
#: What is tried, by name. Means under trained networks with the cross-entropy of the synthetic images are ahead on
#: photographs, random networks on digits (300 steps at rate 10, ten a class, float32, ConvNet of width 32, held-out
#: training images: CIFAR-10 44.9 %, weight 10, against 41.4 %; digits 96.2 %, weight 10, against 98.0 %).
COMPOSITIONS: dict[str, dict[str, Any]] = {
    f"{kind} networks, rate {rate:g}": {**pieces, "optimiser": {"lr": rate}}
    for rate in (10.0, 1.0, 0.1)
    for kind, pieces in (("random", _RANDOM), ("trained", _TRAINED))
    if rate >= 1 or kind == "random"
}
#: From so many pixels a side on trained networks are tried first, which matters where there is no time for all: 122,880
#: bytes of CIFAR-10, held-out training images: 51.1 % at rate 10, random networks 44.9 %; MNIST 97.4 and 97.4 %.
TRAINED_FIRST = 16
#: What is left where the pool's answers cannot be kept, as with batch norm.
LAST_RESORT: dict[str, Any] = {"objective": {"real_batch": 64}}
#: The share of the steps that each is tried for, and of the minutes in which one set is judged.
PILOT, JUDGING = 0.25, 0.05
#: Shares of the bytes that the start takes: matching adds detail that costs bytes, and where none are left the images
#: are pulled back to their start (CIFAR-10, 12,288 bytes, dct at half resolution, trained networks, 5,000 held-out
#: training images: 37.7 % from a start of 82 images a class, which takes 99 % of the bytes, 45.2 % from 60). The first
#: is tried with every composition and form, the others with the best.
FILLS = (0.7, 1.0, 0.5)
#: Share of the minutes after which nothing more is tried, and the most steps that fill what is left.
CHOOSING, MOST_STEPS = 0.45, 2000

Say = Callable[[str], None]
#: Returns the configuration of a composition in the n-th best form of real images, at a share of the bytes.
Configured = Callable[[int, Mapping[str, Any], float], DistillConfig]


def choose(
    configured: Configured,
    forms: int,
    real: RealData,
    seed: int,
    objects: Mapping[str, Any],
    say: Say,
    deadline: Deadline | None = None,
) -> DistillConfig:
    """Return the configuration whose set is worth most after a share of its steps; the first one of equals.

    Every composition is tried in the best form of real images, then the best composition in the next best forms: in
    which form real images are worth most is not quite in which they are learned best. Then the best of these is tried
    from starts that leave more or fewer of the bytes to matching.

    Args:
        configured: gives a configuration for ``real``.
        forms: how many forms there are.
        real: training images, of which some are held out.
        seed: of what is held out.
        objects: pieces given as objects.
        say: told what is being tried.
        deadline: for choosing, the run and the promise. Half of the time at most goes into choosing, and the run gets
            as many steps as fit the rest.

    Raises:
        ConfigError: no composition can be run.
    """
    rest, images = promise.held_out(real, seed)
    trial = _Trial(rest, objects, say, deadline)
    configs: dict[str, DistillConfig] = {}
    sets: dict[str, DistilledDataset] = {}
    for name, pieces in _in_order(real):
        if trial.late:
            break
        with suppress(ConfigError, DivergedError):
            config = configured(0, _in_time_for(pieces, deadline), FILLS[0])
            if config not in configs.values():  # what the user gave may make them equal
                sets[name], configs[name] = trial.of(name, config), config
    if not sets:
        last = configured(0, LAST_RESORT, FILLS[0])
        return last if deadline is None else in_time(last, real, objects, deadline, say)
    first = configs[next(iter(sets))]
    share = 1.0
    if deadline is not None:
        share = promise.share_in(JUDGING * 60 * deadline.minutes, 1, images, first)
    best = next(iter(sets))
    if len(sets) > 1:
        best, found = promise.better(sets, images, first, share)
        say(f"{best}: " + promise.means_in_words(found["accuracies"]))
    changes = _in_time_for(COMPOSITIONS[best], deadline)

    def best_of(leader: _Tried, others: list[tuple[int, float]]) -> _Tried:
        tried = {leader.name: leader}
        for number, fill in others:
            if trial.late:
                break
            with suppress(ConfigError, DivergedError):
                config = configured(number, changes, fill)
                if all(config != one.config for one in tried.values()):
                    name = _start(config)
                    tried[name] = _Tried(name, number, config, trial.of(name, config))
        if len(tried) == 1:
            return leader
        name, found = promise.better({name: one.made for name, one in tried.items()}, images, first, share)
        say(f"{name}: " + promise.means_in_words(found["accuracies"]))
        return tried[name]

    leader = best_of(_Tried(best, 0, configs[best], sets[best]), [(number, FILLS[0]) for number in range(1, forms)])
    leader = best_of(leader, [(leader.number, fill) for fill in FILLS[1:]])
    if deadline is None:
        return leader.config
    after = promise.seconds(deadline.minutes, images, leader.config)
    return with_steps(leader.config, trial.paces[leader.name], deadline, say, after=after, most=MOST_STEPS)


def _in_order(real: RealData) -> list[tuple[str, dict[str, Any]]]:
    """Return the compositions, those first that are most likely to be the best."""
    preferred = "pool" if min(real.shape[1:]) >= TRAINED_FIRST else "fixed"
    return sorted(COMPOSITIONS.items(), key=lambda item: item[1]["networks"]["name"] != preferred)


def _in_time_for(pieces: Mapping[str, Any], deadline: Deadline | None) -> Mapping[str, Any]:
    """Return a composition whose networks are trained for fewer steps where there is little time."""
    steps = pieces["networks"].get("steps")
    if steps is None or deadline is None:
        return pieces
    fewer = round(steps * min(1.0, max(0.1, deadline.minutes / 10)))
    return merge(pieces, {"networks": {"steps": fewer}})


def _start(config: DistillConfig) -> str:
    assert config.codec is not None
    factor = config.synthesis.options.get("factor", 1)
    codec = f"codec {config.codec.text}" + (f", factor {factor}" if factor > 1 else "")
    return f"{codec}, {config.ipc} images a class"


@dataclass(frozen=True)
class _Tried:
    """A configuration in the form ``number``, and its set after a share of the steps."""

    name: str
    number: int
    config: DistillConfig
    made: DistilledDataset


@dataclass
class _Trial:
    """Runs the first steps of configurations, which share what their networks have in common."""

    rest: RealData
    objects: Mapping[str, Any]
    say: Say
    deadline: Deadline | None = None
    sessions: dict[str, Session] = field(default_factory=dict)
    #: How long the run of a configuration will take, by name.
    paces: dict[str, Pace] = field(default_factory=dict)
    #: Seconds until the first step where nothing was shared yet.
    before: dict[str, float] = field(default_factory=dict)
    #: Whether steps take so long that there is no time to try a second configuration.
    slow: bool = False

    @property
    def late(self) -> bool:
        """Whether no time is left to try another one; the first one is always tried."""
        return self.deadline is not None and bool(self.paces) and (self.slow or self.deadline.left(CHOOSING) < 0)

    def of(self, name: str, config: DistillConfig) -> DistilledDataset:
        """Return the set of a configuration after a share of its steps.

        Where the first one has no time for as many, a few tell its pace, and the rest of the time is the run's.

        Raises:
            ConfigError: it cannot be run.
            DivergedError: it diverged.
        """
        steps, smallest = max(1, round(PILOT * config.steps)), int(self.rest.class_counts.min())
        changes: dict[str, Any] = {"bytes": None, "ipc": min(config.ipc, smallest)}
        whole = DistillConfig.create(merge(config.as_dict(), changes))
        precision = Session(whole, self.rest, self.objects).network.precision  # that of the run, compiled for both
        changes = {"steps": steps, "precision": precision.name, "compile": precision.compile}
        session = Session(DistillConfig.create(merge(whole.as_dict(), changes)), self.rest, self.objects)
        self.say(f"trying {name} for {steps} steps")
        began = time.monotonic()
        session.prepare(silent)
        alike = f"{session.config.networks} {session.config.signal}"
        if alike in self.sessions:
            session.share(self.sessions[alike])
        session.start()
        if session.coding is not None and config.bytes is not None:
            session.coding.available = max(config.bytes, session.coding.payload())  # others fit than of all images
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the run itself says it
            session.step(1)
            first = time.monotonic()
            for number in range(2, steps + 1):
                session.step(number)
                if self.deadline is not None:
                    ahead = (steps - number) * (time.monotonic() - first) / (number - 1)
                    self.slow = self.slow or (
                        not self.paces and number > 2 and 2 * ahead > self.deadline.left(CHOOSING)
                    )
                    if self.slow or self.deadline.left(CHOOSING) < 0:
                        break
        step = (time.monotonic() - first) / max(1, number - 1) if steps > 1 else first - began
        self.sessions[alike] = session
        self.before.setdefault(alike, max(0.0, first - began - step))
        self.paces[name] = Pace(self.before[alike], step)
        return session.materialise({})
