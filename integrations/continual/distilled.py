"""How does a replay memory distil the classes of an experience into their share?"""

from __future__ import annotations

import hashlib
import json
import math
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from ddkit import methods, objectives, synthesis
from ddkit import networks as network_sources
from ddkit.base.config import DistillConfig
from ddkit.base.registry import Registry
from ddkit.base.streams import Streams
from ddkit.data.coresets.random import random_indices
from ddkit.data.distilled.budget import Budget, payload
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine.callbacks import Callback
from ddkit.engine.distiller import Distiller
from ddkit.engine.run import Run
from ddkit.errors import ArtifactError, ConfigError, DataError, DivergedError, unknown_name
from ddkit.integrations.continual.coded import noise_coded
from ddkit.integrations.continual.incoming import Arrival, Shape
from ddkit.integrations.continual.keys import Key
from ddkit.integrations.continual.memory import MEMORY_OPTIONS, ClassMemory
from ddkit.integrations.continual.model import ModelNetworks, model_of
from ddkit.integrations.continual.parts import Made, Material, Part, herded, of_single_class, parts_of, real_parts
from ddkit.synthesis.base import Synthesizer

_PIECES: dict[str, Registry[Any]] = {
    "synthesis": synthesis.registry,
    "objective": objectives.registry,
    "networks": network_sources.registry,
}


#: What an own choice is left for where a stream brings vectors: networks and augmentations are made for images.
_OF_VECTORS = {"model": "mlp", "augmentation": "none"}


class TimeLimit(Callback):
    """Ends a distillation after the step in which a moment has passed; its result is that of this step.

    Args:
        deadline: the moment, in seconds of ``time.monotonic()``.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def on_step(self, run: Run) -> None:
        """Look at the clock."""
        if time.monotonic() >= self.deadline:
            run.stop = "the time limit of the experience"


class DistilledReplayBuffer(ClassMemory):
    """A storage policy that distils each experience into its classes' share of the memory.

    Distilled replay (Rosasco et al. 2021; Zhao et al. 2021, section 4.2) with any method of ddkit:

    >>> buffer = DistilledReplayBuffer(max_size=100, num_classes=10, method="dm", steps=500)
    >>> strategy = Naive(..., plugins=distilled_replay(buffer, memory_batch_size=32))

    A class seen again is distilled from its stored images and the new real ones, each side with the weight of the real
    images that it stands for. Where distilling diverges or its method needs more images than there are, random real
    images stand in, and training goes on.

    Args:
        max_size: see :class:`ClassMemory`, as all arguments that are not named here.
        method: name of a preset of ddkit, also a coreset's.
        networks: replaces the preset's network source: a name, options, or ``"model"`` for a copy of the strategy's
            model as it is after the experience.
        shrink: what becomes of a class whose share has become smaller, with ``num_classes=None`` or after
            :meth:`resize`: ``redistil`` it from its own synthetic images, or keep some of them by ``herding``.
        time_limit: seconds per experience after which distilling stops where it is; None for all steps.
        cache: folder where distilled sets are kept and looked up, by data, method, options and seed: an interrupted
            run does not distil again what it had finished, and several strategies share one set. Not used with
            ``networks="model"`` or pieces given as objects.
        options: see :class:`ClassMemory`, or laid over the preset, see :class:`~ddkit.base.config.DistillConfig`.

    Raises:
        ConfigError: an unknown method or option, one out of range, or a size too small for the classes.
    """

    def __init__(
        self,
        max_size: int | None = None,
        *,
        method: str = "dm",
        networks: str | Mapping[str, Any] | None = None,
        shrink: Literal["redistil", "herding"] = "redistil",
        time_limit: float | None = None,
        cache: Path | str | None = None,
        **options: Any,
    ) -> None:
        own = {key: options.pop(key) for key in MEMORY_OPTIONS if key in options}
        super().__init__(max_size, **own)
        if shrink not in ("redistil", "herding"):
            raise unknown_name("way to shrink", shrink, ("redistil", "herding"))
        if time_limit is not None and not time_limit > 0:
            raise ConfigError(f"time_limit={time_limit}: give seconds above 0, or None")
        known = set(DistillConfig.model_fields) - {"method", "composition", "ipc", "seed"}
        for key in options:
            if key not in known:
                raise unknown_name("option", key, known | {"max_size", *MEMORY_OPTIONS})
        self.method, self.shrink, self.time_limit = method, shrink, time_limit
        self._deadline = math.inf
        self._prices: dict[tuple[int, int, Shape], int] = {}
        self.cache = None if cache is None else Path(cache)
        self.on_model = networks == "model"
        self.overrides = dict(options)
        if networks is not None and not self.on_model:
            self.overrides["networks"] = networks
        config = self._checked(self._distiller(1, 0))
        self.synthesis, self._whitened = config.synthesis, config.zca is not None
        if self.soft_labels and self.synthesis.options.get("labels") in ("free", "centred"):
            raise ConfigError(
                f"'{method}' learns label rows that are no probabilities, which strategies cannot train on: "
                f"leave soft_labels out, or choose synthesis labels soft or learned"
            )

    @property
    def method_name(self) -> str:
        """The name of the preset."""
        return self.method

    def settings(self) -> dict[str, Any]:
        """Return what decides about the content, JSON-able."""
        return {
            **super().settings(),
            "method": self.method,
            "on_model": self.on_model,
            "shrink": self.shrink,
            "time_limit": self.time_limit,
            "overrides": json.loads(json.dumps(self.overrides, default=lambda piece: type(piece).__name__)),
        }

    def bytes_of(self, images: int, group: int, num_classes: int, shape: Shape) -> int:
        """Return the bytes of ``images`` images or codes per class, decoders included."""
        if group == 1 or not self._has_codes:
            return super().bytes_of(images, group, num_classes, shape)
        budget = self._codes(images, group, shape)
        return self._price_of_codes(images, group, shape) + 4 * self._outputs * budget.decoded_images

    def first_count(self, material: Material, quota: int, share: int) -> int:
        """Return how many images are distilled first; the bytes of codes are not those of real images."""
        if self._has_codes and len(material.classes) > 1:
            return quota
        return super().first_count(material, quota, share)

    def may_repeat(self) -> bool:
        """Whether the time limit leaves time."""
        return time.monotonic() < self._deadline

    def ordered(self, part: Part) -> Part:
        """Return a part with its images in the order of herding."""
        return herded(part, len(part.distilled))[0]

    def condense(self, material: Material, quota: int, agent: Any) -> list[Made]:
        """Distil the classes of ``material``; real images where that fails."""
        started = time.monotonic()
        assert self._form is not None
        preprocessing = self._form.pixels if self.on_model else None
        single = len(material.classes) == 1
        ipc = quota
        if single and self._has_codes:  # as many codes as decode to the images that will be kept
            ipc = math.ceil(quota / self._codes(1, 2, self._form.shape).decoded_images * 2)
        try:
            distilled = self._distilled(material.real(preprocessing=preprocessing), material, ipc, agent)
        except (DivergedError, DataError) as error:
            of_task = f" of task {material.task}" if material.task else ""
            warnings.warn(
                f"classes {list(material.classes)}{of_task} were not distilled, random real images stand in for them: "
                f"{error}",
                stacklevel=2,
            )
            return self._fallback(material, quota, time.monotonic() - started)
        if single:
            distilled = of_single_class(distilled, quota)
        card = distilled.card
        seconds = time.monotonic() - started if card.seconds is None else card.seconds
        how = "selected" if methods.get(self.method).is_coreset else "distilled"
        parts = parts_of(distilled, material, self.soft_labels, self.codec)
        return [Made(part, how, seconds, card.steps or 0) for part in parts]

    def shrink_parts(self, parts: list[Part], quota: int, agent: Any) -> list[Made]:
        """Distil stored images into fewer, or keep some of them."""
        if self.shrink == "herding" or methods.get(self.method).is_coreset:
            return [Made(one, "herded") for part in parts for one in herded(part, quota)]
        images = torch.cat([part.images() for part in parts])
        classes, places = torch.cat([part.members() for part in parts]).unique(return_inverse=True)
        copies = torch.ones_like(places)
        material = Material(tuple(classes.tolist()), images, places, copies, self.name, parts[0].task)
        return self.condense(material, quota, agent)

    def shrunk_group(self, parts: list[Part]) -> int:
        """Return the number of all their classes, or 1 where images of each are selected."""
        return 1 if self.shrink == "herding" else sum(len(part.holds) for part in parts)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Set the size to ``new_size`` images; shares that are too large now shrink at once, within the time limit."""
        self._start_clock()
        super().resize(strategy, new_size)

    def _take_in(self, arrival: Arrival, seen: Counter[Key], agent: Any, **how: Any) -> None:
        self._start_clock()
        super()._take_in(arrival, seen, agent, **how)

    def _make_room(self, arrived: set[Key], agent: Any) -> None:
        self._start_clock()
        super()._make_room(arrived, agent)

    def _start_clock(self) -> None:
        if self.time_limit is not None:
            self._deadline = time.monotonic() + self.time_limit

    @property
    def _has_codes(self) -> bool:
        """Whether something smaller or larger than images is stored, from which they are decoded."""
        return self.synthesis.name != "pixels" and not methods.get(self.method).is_coreset

    def _codes(self, ipc: int, group: int, shape: Shape) -> Budget:
        """Return the budget of ``ipc`` codes for each of ``group`` classes."""
        return self._synthesizer(ipc, group, shape).budget()

    def _synthesizer(self, ipc: int, group: int, shape: Shape) -> Synthesizer:
        made: Synthesizer = synthesis.registry.create(
            self.synthesis.name, self.synthesis.options, num_classes=group, ipc=ipc, shape=shape
        )
        return made

    def _price_of_codes(self, ipc: int, group: int, shape: Shape) -> int:
        """Return the bytes of ``ipc`` codes for each of ``group`` classes and their decoders; coded, of noise."""
        key = (ipc, group, shape)
        if key not in self._prices:
            made = self._synthesizer(ipc, group, shape)
            stored = made.stored()
            if self.codec is not None:
                stored = noise_coded(stored, self.codec, made.image_like, group)
            self._prices[key] = payload(stored, group) + self._whitened * 4 * (2 * math.prod(shape) + 1) * math.prod(
                shape
            )
        return self._prices[key]

    def _distilled(self, real: RealData, material: Material, quota: int, agent: Any) -> DistilledDataset:
        """Return a set of the G classes, from the cache where it is there."""
        callbacks = [] if self.time_limit is None else [TimeLimit(self._deadline)]
        assert self._form is not None
        vectors = self._form.vectors
        pieces: dict[str, Any] = {
            key: value for key, value in _OF_VECTORS.items() if key not in self.overrides and vectors
        }
        if self.on_model:
            pieces["networks"] = ModelNetworks(model_of(agent), material.classes, material.task, vectors)
        seed = self.seed_of(material.classes, material.task)
        distiller = self._distiller(quota, seed, callbacks=callbacks, **pieces)
        named = not distiller.objects  # objects of one's own have no options to be looked up by
        path = self.cache / self._file_name(distiller, real) if self.cache is not None and named else None
        if path is not None and path.is_file():
            try:
                return DistilledDataset.load(path)
            except ArtifactError:
                warnings.warn(f"'{path}' is damaged and is made anew", stacklevel=2)
        started = time.monotonic()
        distilled = distiller.fit(real)
        distilled.metadata["seconds"] = round(time.monotonic() - started, 3)
        if path is not None:
            distilled.save(path)
        return distilled

    def _checked(self, distiller: Distiller) -> DistillConfig:
        """Return a configuration like those to come; unknown values and pieces are refused."""
        images = torch.tensor([[[[0, 255], [255, 0]]]] * 4, dtype=torch.uint8)
        config = distiller.configure(RealData.from_tensors(images, [0, 0, 1, 1], name=self.name))
        for piece, registry in _PIECES.items():
            chosen = getattr(config, piece)
            if chosen is not None and piece not in distiller.objects:
                registry.get(chosen.name)
        return config

    def _distiller(self, quota: int, seed: int, **more: Any) -> Distiller:
        return Distiller(self.method, quota, seed=seed, **{**self.overrides, **more})

    def _file_name(self, distiller: Distiller, real: RealData) -> str:
        key = {
            "config": distiller.configure(real).as_dict(),
            "data": real.fingerprint,
            "classes": list(real.class_names),
            "time_limit": self.time_limit,
        }
        return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24] + ".safetensors"

    def _fallback(self, material: Material, quota: int, seconds: float) -> list[Made]:
        real = material.real(weighted=False)
        generator = Streams(self.seed_of(material.classes, material.task))("fallback")
        index = random_indices(real.class_index[: len(material.classes)], quota, generator)
        return [Made(part, "fallback", seconds) for part in real_parts(material, index)]
