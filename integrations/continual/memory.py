"""How does a replay memory divide its size among classes, take in experiences and show what it holds?"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from ddkit.artifact import DistilledDataset
from ddkit.budget import Budget
from ddkit.data import Preprocessing
from ddkit.errors import ConfigError
from ddkit.integrations.continual import state
from ddkit.integrations.continual.exposure import exposed, joined
from ddkit.integrations.continual.host import AvalancheDataset, ExemplarsBuffer, OnlineCLExperience
from ddkit.integrations.continual.incoming import Arrival, Form, Shape, observe, read
from ddkit.integrations.continual.parts import Facts, Made, Material, Part
from ddkit.integrations.continual.size import Size, parse_bytes
from ddkit.integrations.continual.updating import (
    facts_after,
    made_everywhere,
    material_of,
    noted,
    split_few,
    warn_of_few,
)
from ddkit.integrations.continual.window import Window
from ddkit.parts import at_rest_bytes
from ddkit.streams import Streams, derive_seed


class ClassMemory(ExemplarsBuffer):  # type: ignore[misc]
    """A storage policy that keeps each class's share of the memory as bytes it owns.

    What it keeps of a class is up to :meth:`condense`. Plugs into Avalanche's ``ReplayPlugin``, see
    :func:`~ddkit.integrations.continual.distilled_replay`.

    Args:
        max_size: images (or codes) in all; or give ``max_bytes``.
        max_bytes: bytes in all, labels and decoders included: 65536 or ``"64KiB"``.
        num_classes: K: every class gets ``max_size // K`` from the start (what is left over stays unused). None
            divides the memory among the classes seen so far, so that shares shrink as classes arrive.
        seed: of every random draw; the global random state is not used.
        soft_labels: keep rows of probabilities where there are some; needs ``num_classes``.
        pixels: how the stream's images were preprocessed, ``Preprocessing(mean, std)`` of its normalisation; None
            to take it from the range of the first images.
        train_transform: augmentation of replayed images, a map of (C, H, W) tensors; a stream's own transforms do
            not reach them.
        window: images of an online stream that wait at most for the end of their experience.
        name: of the data, such as ``"mnist"``: digits and characters are not mirrored.

    Raises:
        ConfigError: both sizes or none, one too small for the classes, or soft labels without a number of classes.
    """

    def __init__(
        self,
        max_size: int | None = None,
        *,
        max_bytes: int | str | None = None,
        num_classes: int | None = None,
        seed: int = 0,
        soft_labels: bool = False,
        pixels: Preprocessing | None = None,
        train_transform: Callable[[Tensor], Tensor] | None = None,
        window: int = 5000,
        name: str = "stream",
    ) -> None:
        self._size = Size(max_size, None if max_bytes is None else parse_bytes(max_bytes), num_classes)
        if soft_labels and num_classes is None:
            raise ConfigError("soft_labels=True needs num_classes: rows are as long as the model's output")
        super().__init__(max_size or 0)
        self.seed, self.soft_labels, self.name = seed, soft_labels, name
        self.train_transform = train_transform
        self._pixels = pixels
        self._form: Form | None = None
        self._parts: list[Part] = []
        self._facts: dict[int, Facts] = {}
        self._updates = 0
        self._window = Window(window)
        self._exposed: AvalancheDataset | None = None

    @abstractmethod
    def condense(self, material: Material, quota: int, agent: Any) -> list[Made]:
        """Return what is kept of classes that have more images than their quota.

        Args:
            material: their images.
            quota: images (or codes) per class.
            agent: the strategy, whose model may be looked at.
        """

    @abstractmethod
    def shrink_parts(self, parts: list[Part], quota: int, agent: Any) -> list[Made]:
        """Return what is kept of parts that have more images than a quota that has become smaller."""

    def shrunk_group(self, parts: list[Part]) -> int:
        """Return how many classes :meth:`shrink_parts` stores together."""
        return 1

    def settings(self) -> dict[str, Any]:
        """Return what decides about the content, JSON-able; a saved memory fits a buffer with the same."""
        size = self._size
        return {
            "kind": type(self).__name__,
            "images": size.images,
            "bytes": size.bytes,
            "num_classes": size.num_classes,
            "seed": self.seed,
            "soft_labels": self.soft_labels,
            "window": self._window.limit,
            "name": self.name,
        }

    @property
    def buffer(self) -> AvalancheDataset:
        """The memory as a dataset of float32 images on the stream's scale, with ``targets`` and task labels."""
        if self._exposed is None:
            self._exposed = exposed(
                self._parts,
                self._facts,
                self._form,
                self.num_classes if self.soft_labels else None,
                self.train_transform,
            )
        return self._exposed

    @property
    def num_classes(self) -> int:
        """K, or one more than the largest class number seen."""
        return self._size.num_classes or max(self._facts, default=-1) + 1

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Take in the experience that ``strategy`` has finished; ``ReplayPlugin`` calls this."""
        self.post_adapt(strategy, strategy.experience)

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Take in an experience; that of an online stream once its last part has come, or the window is full.

        Raises:
            DataError: images or labels that cannot be kept; the memory stays as it was.
            ConfigError: a size that does not hold one image of each class; the memory stays as it was.
        """
        dataset = exp.dataset.eval()
        if not len(dataset):
            return
        form = self._form or observe(dataset, self._pixels)
        arrival = read(dataset, form, self._size.num_classes)
        self._form = form
        seen = Counter(arrival.labels.tolist())
        online = isinstance(exp, OnlineCLExperience)
        if online:
            self._window.add(arrival, Streams(self.seed)(f"window/{self._updates}/{self._window.arrivals}"))
            if not self._is_last(exp):
                return
            arrival, seen = self._window.sample()
        self._take_in(arrival, seen, agent)
        if online:
            self._window.clear()

    def _is_last(self, exp: Any) -> bool:
        """Say whether an experience of an online stream ends with this part of it."""
        if not exp.access_task_boundaries:
            return self._window.full
        # Avalanche 0.6 marks no part as the last one where the parts divide the experience evenly.
        return exp.is_last_subexp or self._window.arrivals == exp.sub_stream_length

    def resize(self, strategy: Any, new_size: int) -> None:
        """Set the size to ``new_size`` images; shares that have become too large shrink at once.

        Raises:
            ConfigError: fewer images than classes.
        """
        size = Size(new_size, None, self._size.num_classes)
        self._keep(self._parts, self._facts, size, strategy)
        self._size, self.max_size = size, new_size

    def budget(self) -> Budget:
        """Count what is stored: images (or codes), numbers, and bytes at one a number, labels and decoders included."""
        budgets = []
        for part in self._parts:
            budget = part.distilled.budget
            if not part.compact:
                count = len(part.distilled)
                floats = part.distilled.images.numel() + count * (self.num_classes if self.soft_labels else 1)
                stored = at_rest_bytes(count, part.distilled.shape, self.num_classes, self.soft_labels)
                budget = Budget(count, count, floats, stored)
            budgets.append(budget)
        totals = {name: sum(getattr(one, name) for one in budgets) for name in Budget(0, 0, 0, 0).as_dict()}
        return Budget(**totals)

    def facts(self) -> dict[int, Facts]:
        """Return where the memory of each class comes from."""
        return {label: self._facts[label].model_copy(deep=True) for label in sorted(self._facts)}

    def distilled(self) -> DistilledDataset:
        """Return the memory as one distilled dataset of K classes, with the facts of each class in its metadata.

        Raises:
            ConfigError: nothing is stored yet.
        """
        if not self._parts or self._form is None:
            raise ConfigError("the memory is empty: train on an experience first")
        facts = {str(label): one.model_dump() for label, one in self.facts().items()}
        metadata = {"method": self.method_name, "classes": facts, "settings": self.settings()}
        return joined(self._parts, self._form, self.num_classes, self.soft_labels, self.budget(), metadata)

    @property
    def method_name(self) -> str:
        """What made the memory, for reports."""
        return type(self).__name__

    def save(self, path: Path | str) -> Path:
        """Write the memory to one verified file without pickle, atomically."""
        window = self._window
        raw = state.dump(
            self._parts, self._facts, settings=self.settings(), updates=self._updates, max_size=self.max_size,
            form=self._form, window=window.kept, window_seen=window.seen, arrivals=window.arrivals,
        )  # fmt: skip
        return state.write_file(path, raw)

    def load(self, path: Path | str) -> None:
        """Take back a memory that a buffer with the same settings has saved.

        Raises:
            ArtifactError: the file is missing or damaged.
            ConfigError: it was saved with other settings.
        """
        content, parts, window = state.read_file(path)
        mine = self.settings()
        for key in sorted({*mine, *content.settings}):
            if mine.get(key) != content.settings.get(key):
                raise ConfigError(
                    f"'{path}' was saved with {key}={content.settings.get(key)}, this buffer has {key}="
                    f"{mine.get(key)}: make the buffer with the settings of the file"
                )
        self._parts, self._facts, self._exposed = parts, content.facts_by_class(), None
        self._form, self._updates, self.max_size = content.form_of_stream(), content.updates, content.max_size
        seen = Counter({int(label): count for label, count in content.window.items()})
        self._window.put(window, seen, content.arrivals)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_exposed": None}

    def check(self, shape: Shape, group: int = 1) -> None:
        """Refuse a size that does not hold one image (or code) of each class, before there are any.

        Args:
            shape: (C, H, W) of the images.
            group: classes of an experience.

        Raises:
            ConfigError: the size is too small; the smallest one that does is named.
        """
        classes = self._size.num_classes or group
        self._size.quota(classes, group, lambda images: self.bytes_of(images, group, classes, shape))

    def bytes_of(self, images: int, group: int, num_classes: int, shape: Shape) -> int:
        """Return the bytes of ``images`` images for each of ``group`` classes that are stored together.

        Args:
            images: per class.
            group: number of classes.
            num_classes: of the stream as far as it is known, which decides about the bytes of a label.
            shape: (C, H, W) of an image.
        """
        total = max(num_classes, self._size.num_classes or 0)
        return at_rest_bytes(images * group, shape, total, self.soft_labels)

    def seed_of(self, classes: tuple[int, ...]) -> int:
        """Return the seed of what is made of some classes: it does not depend on when they came."""
        return derive_seed(self.seed, "classes", *classes)

    def _take_in(self, arrival: Arrival, seen: Counter[int], agent: Any) -> None:
        """Condense what has arrived, together with what is stored of its classes, and shrink the rest."""
        touched = [part for part in self._parts if set(part.holds) & set(seen)]
        material = material_of(arrival, touched, seen, self._facts, self.name)
        facts = facts_after(self._facts, arrival, seen, self._updates)
        quota = self._quota(self._size, facts, len(material.classes))
        few, many = split_few(material, quota)
        made = made_everywhere(lambda: [*few, *(self.condense(many, quota, agent) if many is not None else [])])
        warn_of_few(made, quota)
        rest = [part for part in self._parts if part not in touched]
        self._keep([*rest, *(one.part for one in made)], noted(facts, made), self._size, agent)
        self._updates += 1
        if self._size.bytes is not None:
            self.max_size = quota * (self._size.num_classes or len(facts))

    def _quota(self, size: Size, facts: dict[int, Facts], group: int) -> int:
        """Return how many images (or codes) of each of ``group`` classes that are stored together ``size`` holds."""
        assert self._form is not None
        shape, classes = self._form.shape, max(facts) + 1
        return size.quota(len(facts), group, lambda images: self.bytes_of(images, group, classes, shape))

    def _keep(self, parts: list[Part], facts: dict[int, Facts], size: Size, agent: Any) -> None:
        """Shrink what is larger than its share of ``size`` and take over the result."""
        made: list[Made] = []
        large = [part for part in parts if part.per_class > self._quota(size, facts, len(part.holds))]
        if large:
            quota = self._quota(size, facts, self.shrunk_group(large))
            made = made_everywhere(lambda: self.shrink_parts(large, quota, agent))
        parts = [*(part for part in parts if part not in large), *(one.part for one in made)]
        self._parts, self._facts = sorted(parts, key=lambda part: part.holds), noted(facts, made)
        self._exposed = None
