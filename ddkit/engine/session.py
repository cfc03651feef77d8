"""The pieces of one distillation, put together from a configuration and ready to step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ddkit import augment
from ddkit import networks as network_sources
from ddkit import objectives as objective_pieces
from ddkit import synthesis as synthesis_pieces
from ddkit.base.config import DistillConfig
from ddkit.base.device import resolve_device
from ddkit.base.precision import Precision, resolve_precision
from ddkit.base.progress import Report
from ddkit.base.registry import Registry
from ddkit.base.stages import Stages
from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine.average import Average, warn_of_a_slow_average
from ddkit.engine.coding import StraightThrough
from ddkit.engine.optimisers import build_optimisers, clip_gradients
from ddkit.engine.plausible import Plausible
from ddkit.errors import ConfigError, DataError, DivergedError
from ddkit.models.spec import ModelSpec
from ddkit.networks.network import Network
from ddkit.networks.signal import Signal
from ddkit.networks.signal import registry as signals
from ddkit.networks.sources import NetworkSource
from ddkit.objectives import constraints
from ddkit.objectives.base import Context, Objective
from ddkit.objectives.constraints.base import Constraint
from ddkit.synthesis.base import Synthesizer
from ddkit.training.named import recipe as named_recipe

#: Real images on which the augmentation is checked before a run.
_CHECKED_IMAGES = 256
#: Fields of a recipe that say how and in which order learned steps are taken; they are no learned numbers.
_NOT_LEARNED = ("schedule", "milestones", "runs", "classes", "start", "head")


class Session:
    """Builds every piece and runs outer steps.

    Args:
        config: full configuration.
        real: training data.
        objects: pieces given as objects instead of names (``synthesis``, ``objective``, ``networks``, ``signal``,
            ``constraint``).
        folder: where pieces may keep large intermediate files; None for a run in memory.

    Raises:
        ConfigError: an unknown piece or option, or a combination that makes no sense.
        DataError: data that do not fit.
    """

    def __init__(
        self,
        config: DistillConfig,
        real: RealData,
        objects: Mapping[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        objects = objects or {}
        _check_no_class_is_empty(real)
        self.config, self.stages = config, Stages(folder / "preparation.safetensors" if folder is not None else None)
        self.streams = Streams(config.seed)
        self.device = resolve_device(config.device)
        real = real.whitened(config.zca) if config.zca else real
        self.real = real.to(self.device) if self.device.type != "cpu" else real
        self.objective: Objective = self._piece("objective", objective_pieces.registry, objects)
        self.networks: NetworkSource = self._piece("networks", network_sources.registry, objects)
        self.signal: Signal = self._piece("signal", signals, objects)
        self.constraint: Constraint | None = self._piece("constraint", constraints.registry, objects)
        self.augmentation = augment.create(config.augmentation, **config.augmentation_options)
        self.signal.check(config, self.real)
        self.synthesizer = self._synthesizer(objects).to(self.device)
        self.network = Network(
            ModelSpec.parse(config.model),
            real.shape,
            real.num_classes,
            device=self.device,
            precision=self._precision(),
        )
        for introduce in self._introductions(folder):
            introduce()
        self.groups = {**self.synthesizer.parameter_groups(), **self.objective.parameter_groups()}
        self.optimisers = build_optimisers(self.groups, config.optimiser, self.objective.group_defaults)
        self.rates = {name: config.optimiser.of(name).rate for name in self.groups}
        self.plausible = Plausible(self.real, config.steps, config.optimiser.lr)
        self.average = Average(self.synthesizer, config.ema) if config.ema else None
        self.coding = self._coding()
        warn_of_a_slow_average(config)

    def _introductions(self, folder: Path | None) -> list[Callable[[], None]]:
        """Return the order in which the pieces get to know each other.

        Each piece finds complete what comes before it, refuses what makes no sense with the reason, and computes
        nothing that takes long: that is for :meth:`prepare` and :meth:`start`. The signal has refused settings that go
        around it before, when nothing had read the data yet.
        """
        config, setting = self.config, self._context(folder)
        return [
            partial(self.synthesizer.check, self.real, config.init),
            self._check_augmentation,
            partial(self.signal.setup, self.real, self.streams, self.augmentation, self.objective.real_batch),
            partial(self.networks.setup, setting),
            partial(self.signal.connect, self.networks),
            partial(self.objective.setup, setting, self.synthesizer),
            *([partial(self.constraint.setup, setting, self.synthesizer)] if self.constraint is not None else []),
        ]

    def _context(self, folder: Path | None) -> Context:
        config = self.config
        return Context(
            self.real.num_classes,
            self.signal,
            self.network,
            self.augmentation,
            self.streams,
            config.steps,
            config.init,
            config.precision,
            config.compile,
            folder,
            networks=self.networks,
        )

    def _check_augmentation(self) -> None:
        self.augmentation.check(
            self.real.batch(torch.arange(min(len(self.real), _CHECKED_IMAGES))),
            class_names=self.real.class_names,
            whitened=self.real.preprocessing.zca_matrix is not None,
        )

    def prepare(self, report: Report) -> None:
        """Do what takes long before the first step, on a resumed run as well (expert trajectories to train).

        Args:
            report: told how far it is; :meth:`start` tells it, too.
        """
        self.synthesizer.report, self.synthesizer.stages = report, self.stages
        self.networks.prepare(report)

    def share(self, other: Session) -> None:
        """Take over the networks of another session on the same data, and what its signal has computed about them.

        Args:
            other: with the same model, networks and signal.
        """
        self.networks.load_state_dict(other.networks.state_dict())
        self.signal.share(other.signal)

    def start(self) -> None:
        """Set the starting point of a new run; a resumed one takes it from its checkpoint instead.

        Some starting points take a while (a generator to train, images to invert).
        """
        self.synthesizer.initialise(self.real, self.config.init, self.streams("initialisation"))
        if self.average is not None:
            self.average.restart(self.synthesizer)
        if self.coding is not None:
            self.coding.begin()

    def _piece(self, kind: str, registry: Registry[Any], objects: Mapping[str, Any]) -> Any:
        """Return the piece that was given as an object, else the one that the configuration names, if it names one."""
        piece = getattr(self.config, kind)
        if objects.get(kind) is not None:
            return objects[kind]
        if piece is None and kind == "objective":
            raise ConfigError("objective is missing: choose one of " + ", ".join(registry))
        return None if piece is None else registry.create(piece.name, piece.options)

    def _synthesizer(self, objects: Mapping[str, Any]) -> Synthesizer:
        config, real = self.config, self.real
        synthesizer = objects.get("synthesis")
        if synthesizer is None:
            synthesizer = synthesis_pieces.registry.create(
                config.synthesis.name,
                config.synthesis.options,
                num_classes=real.num_classes,
                ipc=config.ipc,
                shape=real.shape,
            )
        elif (synthesizer.num_classes, synthesizer.shape) != (real.num_classes, real.shape):
            raise ConfigError(
                f"the synthesizer makes {synthesizer.num_classes} classes of {synthesizer.shape} images, the data have "
                f"{real.num_classes} classes of {real.shape} images"
            )
        elif synthesizer.ipc != config.ipc:
            raise ConfigError(
                f"the synthesizer holds {synthesizer.ipc} images per class, but ipc={config.ipc}: make both the same"
            )
        return synthesizer

    def _coding(self) -> StraightThrough | None:
        config = self.config
        if config.codec is None:
            if config.bytes is not None:
                raise ConfigError(
                    f"bytes={config.bytes} limits a coded set: give a codec as well, such as codec=uniform"
                )
            return None
        return StraightThrough(
            self.synthesizer, config.codec, config.steps, config.bytes, self.real.preprocessing.nbytes
        )

    def _precision(self) -> Precision:
        config = self.config
        self.objective.most_real = self.signal.images_per_step(self.real, self.networks, config.steps)
        passes = self.objective.passes_per_step(self.synthesizer) * self.networks.at_once
        passes += 3.0 * self.networks.passes_per_step(self.synthesizer) + self.signal.upkeep(self.real, self.networks)
        if self.constraint is not None:
            passes += self.constraint.passes_per_step(self.synthesizer)
        passes *= config.steps
        cost = ModelSpec.parse(config.model).cost(self.real.shape, self.real.num_classes)
        precision = resolve_precision(config.precision, config.compile, passes=passes, cost=cost, device=self.device)
        #: Seconds that the steps will take, as their passes count.
        self.expected_seconds = precision.seconds(passes * cost.eager_seconds(self.device))
        return precision

    def step(self, number: int) -> dict[str, float]:
        """Run outer step ``number`` (from 1): gradients, update, upkeep of the networks.

        Returns:
            the scalars of the objective.

        Raises:
            DivergedError: a scalar, a gradient or a learned value is not finite, or images have left every plausible
                range.
        """
        for name, optimiser in self.optimisers.items():
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = self.rates[name](number, self.config.steps)
        with self._as_stored():
            scalars = self.objective.backward(self.synthesizer)
            self._check_objective(scalars)
            if self.constraint is not None:
                scalars = {**scalars, **self.constraint.backward(self.synthesizer)}
        for name, value in scalars.items():
            if not math.isfinite(value):
                raise self._diverged(number, f"{name} is {value}")
        learnt = [(name, parameter) for name, group in self.groups.items() for parameter in group]
        for name, parameter in learnt:
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                raise self._diverged(number, f"the gradient of '{name}' is not finite")
        if self.config.optimiser.clip is not None:
            clip_gradients([parameter for _, parameter in learnt], self.config.optimiser.clip)
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.synthesizer.after_step()
        if self.coding is not None:
            self.coding.after_step(number)
        for name, parameter in learnt:
            if not bool(torch.isfinite(parameter.detach()).all()):
                raise self._diverged(number, f"'{name}' is not finite after the update")
        with self._as_stored():
            self.objective.after_step(self.synthesizer)
            if self.constraint is not None:
                self.constraint.after_step(self.synthesizer)
            self.plausible.check(self.synthesizer, number)
            self.networks.after_step(self.synthesizer, last=number == self.config.steps)
        if self.average is not None:
            self.average.update(self.synthesizer)
        return scalars

    def _as_stored(self) -> AbstractContextManager[None]:
        """Let the synthesizer hold what a file would decode to."""
        return nullcontext() if self.coding is None else self.coding.applied()

    def _check_objective(self, scalars: Mapping[str, float]) -> None:
        """Refuse an objective that does not say its loss, or by which nothing would be learned.

        Raises:
            ConfigError: naming what is missing.
        """
        name = type(self.objective).__name__
        if "loss" not in scalars:
            raise ConfigError(f"objective {name} returned no 'loss' but {sorted(scalars)}: let backward() return it")
        if not any(parameter.grad is not None for group in self.groups.values() for parameter in group):
            raise ConfigError(
                f"objective {name} left no gradient on what is learned ({', '.join(self.groups)}): let backward() "
                f"accumulate gradients on synthesizer.learnable()"
            )

    def _diverged(self, number: int, what: str) -> DivergedError:
        return DivergedError(
            f"step {number} of {self.config.steps} diverged, {what}: lower {self.objective.rates}optimiser.lr "
            f"(now {self.config.optimiser.lr}) and start again; checkpoints from before this step are kept"
        )

    @property
    def neighbouring_views(self) -> int:
        """See :attr:`ddkit.synthesis.Synthesizer.neighbouring_views`."""
        return self.synthesizer.neighbouring_views

    def materialise(self, metadata: dict[str, Any], *, last: bool = False, start: bool = False) -> DistilledDataset:
        """Return the present synthetic data (their moving average, if one is kept) as an artifact.

        The run can go on afterwards as if nothing had been asked.

        Args:
            metadata: what the card says beside what the pieces add.
            last: take the data of the last step even where a moving average is kept.
            start: of a coded run, take the data at which it started.
        """
        metadata = {**metadata, **self.objective.metadata()}
        if card := self.signal.metadata():
            metadata["signal"] = card
        if counts := self.networks.metadata():
            metadata["networks"] = counts
        if self.synthesizer.labels.artifact_kind == "regression" and metadata.get("recipe", {}).get("loss") == "auto":
            metadata["recipe"] = {**metadata["recipe"], "loss": self.objective.row_loss}
        if changes := {**self.networks.recipe_changes(self.synthesizer), **self.objective.recipe_changes()}:
            metadata["recipe"] = {**metadata.get("recipe", {}), **changes}
            learned = {name: value for name, value in changes.items() if value and name not in _NOT_LEARNED}
            metadata["learned"] = {**metadata.get("learned", {}), **learned}
        averaged = None if last or start else self.average
        average = nullcontext() if averaged is None else averaged.in_place_of(self.synthesizer)
        fitting = nullcontext() if self.coding is None else self.coding.at_start() if start else self.coding.final()
        with average, self.objective.finishing(self.synthesizer), fitting:
            made = self.synthesizer.materialise(self.real.preprocessing, self.real.class_names, metadata)
            return made if self.coding is None else made.coded(self.coding.text, self.coding.grids)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "synthesizer": dict(self.synthesizer.state_dict()),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "objective": self.objective.state_dict(),
            "networks": self.networks.state_dict(),
            "signal": self.signal.state_dict(),
            "streams": self.streams.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "constraint": self.constraint.state_dict() if self.constraint is not None else {},
            **({"coding": self.coding.state_dict()} if self.coding is not None else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.synthesizer.load_state_dict(state["synthesizer"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.objective.load_state_dict(state["objective"])
        self.networks.load_state_dict(state["networks"])
        self.signal.load_state_dict(state["signal"])
        self.streams.load_state_dict(state["streams"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self.constraint is not None:
            self.constraint.load_state_dict(state["constraint"])
        if self.coding is not None:
            self.coding.load_state_dict(state["coding"])


def _check_no_class_is_empty(real: RealData) -> None:
    empty = [name for name, count in zip(real.class_names, real.class_counts.tolist(), strict=True) if not count]
    if empty:
        raise DataError(f"class '{empty[0]}' of '{real.name}' has no images: leave it out or add images of it")


def result_metadata(config: DistillConfig, real: RealData, views: int = 1) -> dict[str, Any]:
    """Return where a result comes from and how networks are to be trained on it.

    Args:
        config: of the run.
        real: the real data.
        views: how many neighbouring images show one stored code; the value of ``recipe.views=own``.

    Raises:
        ConfigError: an unknown training recipe or option, or views that the result does not have.
    """
    options = dict(config.recipe.options)
    if options.get("views") == "own":
        options["views"] = views
    recipe = named_recipe(config.recipe.name, real.name, **options)
    if recipe.views not in (1, views):
        raise ConfigError(
            f"recipe.views={recipe.views}, but {views} neighbouring image{'s' * (views != 1)} of synthesis "
            f"'{config.synthesis.name}' show one stored code: use recipe.views=own, or 1 for all images in every epoch"
        )
    return {
        "method": config.title,
        "config": config.as_dict(),
        "seed": config.seed,
        "steps": 0,
        "source": {
            "name": real.name,
            "split": real.split,
            "fingerprint": real.fingerprint,
            "count": len(real),
        },
        "recipe": recipe.model_dump(mode="json"),
        "selection": f"{_whose(config)}; nothing was selected on test data",
    }


def _whose(config: DistillConfig) -> str:
    if config.ema is None:
        return "last step"
    return f"moving average over the steps with decay {config.ema:g}"
