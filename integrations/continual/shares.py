"""How does a replay memory divide its size among classes, and what does it shrink to stay within it?"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from ddkit.base.streams import derive_seed
from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.parts import at_rest_bytes
from ddkit.integrations.continual.host import AvalancheDataset, ExemplarsBuffer
from ddkit.integrations.continual.incoming import Arrival, Form, Shape
from ddkit.integrations.continual.keys import Key, counted, drawn, words_of
from ddkit.integrations.continual.model import model_of
from ddkit.integrations.continual.needs import logits_of, same_width
from ddkit.integrations.continual.parts import Facts, Made, Material, Part, left_of
from ddkit.integrations.continual.size import MaxSize, Size
from ddkit.integrations.continual.updating import (
    facts_after,
    made_everywhere,
    material_of,
    noted,
    split_few,
    waiting_parts,
    warn_of_few,
)
from ddkit.integrations.continual.window import Window


class SharedMemory(ExemplarsBuffer):  # type: ignore[misc]
    """A memory in which every class of every task has its share.

    Args:
        size: of the memory.
        seed: of every random draw.
        soft_labels: whether rows of probabilities are kept.
        window: real images that wait at most to be condensed.
        name: of the data.
    """

    def __init__(self, size: Size, seed: int, soft_labels: bool, window: int, name: str) -> None:
        super().__init__(size.images or 0)
        self.seed, self.soft_labels, self.name = seed, soft_labels, name
        self._size, self._window = size, Window(window)
        self._form: Form | None = None
        self._parts: list[Part] = []
        self._facts: dict[Key, Facts] = {}
        self._exposed: AvalancheDataset | None = None
        self._updates = 0
        self._outputs = 0  # logits that are kept of each image

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

    @property
    def max_size(self) -> int:
        """Images (or codes) in all; for a size in bytes, those of the last update."""
        return MaxSize(self._max_size)

    @max_size.setter
    def max_size(self, size: int) -> None:
        self._max_size = int(size)

    @property
    def num_classes(self) -> int:
        """K, or one more than the largest class number seen."""
        return self._size.num_classes or max((label for _, label in self._known()), default=-1) + 1

    def resize(self, strategy: Any, new_size: int) -> None:
        """Set the size to ``new_size`` images; shares that have become too large shrink at once.

        Raises:
            ConfigError: fewer images than classes.
        """
        size = Size(new_size, None, self._size.num_classes)
        keys = self._placed(self._known(), size)
        self._keep(self._parts, self._facts, keys, size, strategy)
        self._size, self.max_size = size, new_size
        self._window.trim(self._room())

    def budget(self) -> Budget:
        """Count what is stored: images (or codes), numbers, and bytes at one a number, labels and decoders included.

        Logits, where a strategy replays them, are numbers of four bytes.
        """
        return self._budget(self._everything())

    def _budget(self, parts: list[Part]) -> Budget:
        budgets = [Budget(0, 0, 0, 0)]
        for part in parts:
            budget, count = part.distilled.budget, len(part.distilled)
            if not part.compact:
                floats = part.distilled.images.numel() + count * (self.num_classes if self.soft_labels else 1)
                stored = at_rest_bytes(count, part.distilled.shape, self.num_classes, self.soft_labels)
                budget = Budget(count, count, floats, stored)
            logits = 0 if part.logits is None else part.logits.numel()
            budgets.append(replace(budget, floats=budget.floats + logits, bytes=budget.bytes + 4 * logits))
        totals = {name: sum(getattr(one, name) for one in budgets) for name in budgets[0].as_dict()}
        return Budget(**totals)

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
        return at_rest_bytes(images * group, shape, total, self.soft_labels) + 4 * self._outputs * images * group

    def seed_of(self, classes: tuple[int, ...], task: int = 0) -> int:
        """Return the seed of what is made of some classes of a task: it does not depend on when they came."""
        return derive_seed(self.seed, "classes", *(("task", task) if task else ()), *classes)

    def _everything(self) -> list[Part]:
        """Return what is stored and what waits, the parts of a class beside each other."""
        waiting = [] if self._window.kept is None else waiting_parts(self._window.kept, self.name)
        return sorted([*self._parts, *waiting], key=lambda part: part.keys)

    def _replayed(self) -> list[Part]:
        """Return what is stored, and each class's share of what waits: more of it would drown old classes."""
        if self._window.kept is None:
            return self._parts
        share = self._size.share(len(self._known()), self._record(self._known()))
        waiting = self._window.first(max(1, share))
        assert waiting is not None
        return sorted([*self._parts, *waiting_parts(waiting, self.name)], key=lambda part: part.keys)

    def _known(self) -> set[Key]:
        """Return the classes of what is stored and of what waits."""
        return {*self._facts, *self._window.seen}

    def _record(self, keys: Collection[Key]) -> int:
        """Return the bytes of one real image with its label, while ``keys`` are the classes."""
        assert self._form is not None
        classes = max((label for _, label in keys), default=0) + 1
        return SharedMemory.bytes_of(self, 1, 1, classes, self._form.shape)

    def _room(self) -> int:
        """Return how many real images fit beside what is stored."""
        return self._size.room(self._budget(self._parts), self._record(self._known()))

    def _placed(self, keys: Collection[Key], size: Size) -> set[Key]:
        """Return the classes that ``size`` has places for: all, or as many as can have one image each."""
        if self._form is None or len(keys) <= (size.num_classes or 1):
            return set(keys)
        together = self.bytes_of(1, len(keys), max(label for _, label in keys) + 1, self._form.shape)
        each = min(self._record(keys), -(-together // len(keys)))  # codes may take less than images
        left = drawn(keys, max(1, size.places(each)), self.seed)
        if len(left) < len(keys):
            without = ", ".join(words_of(key) for key in sorted(set(keys) - left))
            warnings.warn(
                f"the memory has places for {len(left)} of {len(keys)} classes, {without} is left out: give it the "
                f"size of an image for every class",
                stacklevel=2,
            )
        return left

    def _make_room(self, arrived: set[Key], agent: Any) -> None:
        """Shrink what is stored until classes that wait, or have just arrived, can have their share as real images.

        For a stored class it is half of it.
        """
        waiting = {*self._window.seen, *arrived}
        keys = self._placed({*self._known(), *arrived}, self._size)
        share = self._size.share(len(keys), self._record(keys))
        wanted = sum(share // 2 if key in self._facts else share for key in waiting & keys)
        if self._room() < max(wanted, 1):
            self._keep(self._parts, self._facts, keys, self._size, agent, halved=waiting & set(self._facts))
        if not self._room():
            warnings.warn(
                f"the memory is full with one image for each of {len(keys)} classes and has no room for new images of "
                f"them: give it twice the size",
                stacklevel=2,
            )

    def _take_in(self, arrival: Arrival, seen: Counter[Key], agent: Any, *, halved: bool = False) -> None:
        """Condense what has arrived, together with what is stored of its classes, and shrink the rest.

        Args:
            arrival: real images.
            seen: how many images they stand for, by class.
            agent: the strategy.
            halved: whether they get half of their shares.
        """
        facts = facts_after(self._facts, arrival, seen, self._updates)
        keys = self._placed(facts, self._size)
        facts, seen = {key: facts[key] for key in facts if key in keys}, counted(keys, seen)
        arrival = arrival.of(torch.tensor([key in keys for key in arrival.keys]).nonzero().squeeze(1))
        made, touched = [], [part for part in self._parts if set(part.keys) & set(seen)]
        for task, arrived in arrival.by_task():
            mine = [part for part in touched if part.task == task]
            material = material_of(arrived, mine, seen, self._facts, self.name, task)
            quota = self._quota(self._size, keys, len(material.classes))
            if self._size.bytes is not None:
                self.max_size = quota * max(self._size.num_classes or 0, len(keys))
            made += self._condensed(material, _half(quota) if halved else quota, agent)
        parts = [*(part for part in self._parts if part not in touched), *(one.part for one in made)]
        self._keep(parts, noted(facts, made), keys, self._size, agent)
        self._updates += 1

    def _condensed(self, material: Material, quota: int, agent: Any) -> list[Made]:
        """Return what is kept of some classes: all of the few that there are, or what is made of the many."""
        few, many = split_few(material, quota)
        made = made_everywhere(lambda: [*few, *(self.condense(many, quota, agent) if many is not None else [])])
        warn_of_few(made, quota)
        return made

    def _quota(self, size: Size, keys: Collection[Key], group: int) -> int:
        """Return how many images (or codes) of each of ``group`` classes that are stored together ``size`` holds."""
        assert self._form is not None
        shape, classes = self._form.shape, max(label for _, label in keys) + 1
        return size.quota(len(keys), group, lambda images: self.bytes_of(images, group, classes, shape))

    def _keep(
        self,
        parts: list[Part],
        facts: dict[Key, Facts],
        keys: set[Key],
        size: Size,
        agent: Any,
        halved: Collection[Key] = (),
    ) -> None:
        """Shrink what is larger than its share of ``size`` and take over the result.

        Args:
            parts: what is to be stored.
            facts: of its classes.
            keys: the classes among which the size is divided; others are left out.
            size: of the memory.
            agent: the strategy.
            halved: classes that get half of their share.
        """
        parts = [one for part in parts for one in left_of(part, keys)]
        large: dict[tuple[int, bool], list[Part]] = {}
        for part in parts:
            half = bool(set(part.keys) & set(halved))
            quota = self._quota(size, keys, len(part.holds))
            if part.per_class > (_half(quota) if half else quota):
                large.setdefault((part.task, half), []).append(part)
        made: list[Made] = []
        for (_, half), group in sorted(large.items(), key=lambda item: item[0]):
            quota = self._quota(size, keys, self.shrunk_group(group))
            made += self._shrunk(group, _half(quota) if half else quota, agent)
        small = [part for part in parts if not any(part in group for group in large.values())]
        parts = [self._with_logits(part, agent) for part in [*small, *(one.part for one in made)]]
        self._parts = sorted(parts, key=lambda part: part.keys)
        self._facts = {key: one for key, one in noted(facts, made).items() if key in keys}
        self._window.trim(self._room())
        self._exposed = None

    def _shrunk(self, parts: list[Part], quota: int, agent: Any) -> list[Made]:
        return made_everywhere(lambda: self.shrink_parts(parts, quota, agent))

    def _with_logits_of(self, arrival: Arrival, agent: Any) -> Arrival:
        """Return new images with the logits that the strategy's model gives for them."""
        assert self._form is not None
        made = {}
        for task, arrived in arrival.by_task():
            made[task] = logits_of(model_of(agent), arrived.images, task, self._form)
        stored = [part.logits for part in self._parts if part.logits is not None]
        self._outputs = same_width([*stored, *made.values()])
        logits = torch.zeros(len(arrival.labels), self._outputs)
        for task, rows in made.items():
            logits[arrival.tasks == task] = rows
        return replace(arrival, logits=logits)

    def _with_logits(self, part: Part, agent: Any) -> Part:
        """Return a part with logits if the strategy replays them, made now if it has none, else without."""
        if not self._outputs or part.logits is not None:
            return part if self._outputs else replace(part, logits=None)
        assert self._form is not None
        return replace(part, logits=logits_of(model_of(agent), part.images(), part.task, self._form))


def _half(quota: int) -> int:
    return (quota + 1) // 2
