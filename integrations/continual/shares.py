"""How does a replay memory divide its size among classes, and what does it shrink to stay within it?"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch

from ddkit.base.streams import derive_seed
from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.coding import bytes_of_noise, codec_of
from ddkit.errors import ConfigError
from ddkit.evaluation.coded_reals import most_that_fit
from ddkit.integrations.continual.host import AvalancheDataset, ExemplarsBuffer
from ddkit.integrations.continual.incoming import Arrival, Form, Shape
from ddkit.integrations.continual.keys import Key, counted, drawn, words_of
from ddkit.integrations.continual.model import model_of
from ddkit.integrations.continual.needs import logits_of, same_width
from ddkit.integrations.continual.parts import Facts, Made, Material, Part, herded, left_of, real_parts, truncated
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
        codec: in whose bytes images are kept; None for one byte a number.
    """

    def __init__(
        self, size: Size, seed: int, soft_labels: bool, window: int, name: str, codec: str | None = None
    ) -> None:
        super().__init__(size.images or 0)
        if codec is not None:
            codec_of(codec)
        self.codec = codec
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
        """Count what is stored: images (or codes), numbers and bytes, labels and decoders included.

        Bytes are the payload of each stored part, the price of all sets: hard labels in order cost nothing. Logits,
        where a strategy replays them, are numbers of four bytes.
        """
        return self._budget(self._everything())

    def _budget(self, parts: list[Part]) -> Budget:
        budgets = [Budget(0, 0, 0, 0)]
        for part in parts:
            budget, logits = part.distilled.budget, 0 if part.logits is None else part.logits.numel()
            budgets.append(replace(budget, floats=budget.floats + logits, bytes=part.payload + 4 * logits))
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
            num_classes: of the stream as far as it is known, the most that a row of a soft label has.
            shape: (C, H, W) of an image; a coded one costs what noise would, the most.
        """
        rows = max(num_classes, self._size.num_classes or 0) if self.soft_labels else 0
        each = math.prod(shape) if self.codec is None else bytes_of_noise(self.codec, shape)
        return images * group * (each + 4 * rows + 4 * self._outputs)

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
        share = self._size.share(len(self._known()), self._record())
        waiting = self._window.first(max(1, share))
        assert waiting is not None
        return sorted([*self._parts, *waiting_parts(waiting, self.name)], key=lambda part: part.keys)

    def _known(self) -> set[Key]:
        """Return the classes of what is stored and of what waits."""
        return {*self._facts, *self._window.seen}

    def _record(self) -> int:
        """Return the bytes of one real image that waits."""
        assert self._form is not None
        return math.prod(self._form.shape) + 4 * self._outputs

    def _room(self) -> int:
        """Return how many real images fit beside what is stored."""
        return self._size.room(self._budget(self._parts), self._record())

    def _placed(self, keys: Collection[Key], size: Size) -> set[Key]:
        """Return the classes that ``size`` has places for: all, or as many as can have one image each."""
        if self._form is None or len(keys) <= (size.num_classes or 1):
            return set(keys)
        together = self.bytes_of(1, len(keys), max(label for _, label in keys) + 1, self._form.shape)
        each = min(self._record(), -(-together // len(keys)))  # codes may take less than images
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
        share = self._size.share(len(keys), self._record())
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
            made += self._condensed(material, *self._halved(quota, self._share(self._size, keys), halved), agent)
            if self._size.bytes is not None:
                self.max_size = quota * max(self._size.num_classes or 0, len(keys))
        parts = [*(part for part in self._parts if part not in touched), *(one.part for one in made)]
        self._keep(parts, noted(facts, made), keys, self._size, agent)
        self._updates += 1

    def _condensed(self, material: Material, quota: int, share: int | None, agent: Any) -> list[Made]:
        """Return what is kept of some classes: all of the few that there are, or what is made of the many."""

        def once(count: int) -> list[Made]:
            few, many = split_few(material, count)
            return [*few, *(self.condense(many, count, agent) if many is not None else [])]

        def everything() -> list[Made]:
            made = once(quota) if share is None else self._filled(once, material, quota, share)
            return [one for each in made for one in self._fitted(each, share)]

        made = made_everywhere(everything)
        warn_of_few(made, quota)
        return made

    def _filled(self, once: Callable[[int], list[Made]], material: Material, quota: int, share: int) -> list[Made]:
        """Return what is made of as many images as about fill a share once they are coded.

        What the first number takes says how many there should have been.
        """

        def used(made: list[Made]) -> tuple[int, int]:
            """Bytes, and those that there are, without classes of which everything is kept and fits."""
            costs = [(self._cost(self._coded(one.part)), share * len(one.part.holds), one.how) for one in made]
            chosen = [(cost, room) for cost, room, how in costs if how != "kept" or cost > room]
            return sum(cost for cost, _ in chosen), sum(room for _, room in chosen)

        count = self.first_count(material, quota, share)
        made = once(count)
        cost, room = used(made)
        better = max(quota, count * room // cost) if cost else count
        if better == count or not self.may_repeat():
            return made
        again = once(better)
        return again if cost > room or used(again)[0] <= used(again)[1] else made

    def first_count(self, material: Material, quota: int, share: int) -> int:
        """Return how many images a class is condensed to first: as many as real ones would fit.

        Args:
            material: the images.
            quota: how many fit in any case.
            share: bytes of a class.
        """
        index = torch.cat([(material.labels == place).nonzero()[:quota, 0] for place in range(len(material.classes))])
        parts = [self._coded(part) for part in real_parts(material, index)]
        return max(quota, len(index) * share // sum(self._cost(part) for part in parts))

    def may_repeat(self) -> bool:
        """Whether there is time to condense a second time."""
        return True

    def ordered(self, part: Part) -> Part:
        """Return a part of one class with those images first that are kept longest."""
        return part

    def _coded(self, part: Part) -> Part:
        return part if self.codec is None or part.distilled.coding is not None else part.coded(self.codec)

    def _cost(self, part: Part) -> int:
        """Return the bytes of a part with the logits that it has or will get."""
        return part.payload + 4 * self._outputs * len(part.distilled)

    def _fitted(self, made: Made, share: int | None) -> list[Made]:
        """Return a part in the bytes of the codec, with fewer images where its share is too small for all.

        Raises:
            ConfigError: not one image fits.
        """
        coded = self._coded(made.part)
        if share is None or self._cost(coded) <= share * len(coded.holds):
            return [replace(made, part=coded)]
        singles = herded(made.part, made.part.per_class) if made.part.compact else [self.ordered(made.part)]
        parts = []
        for part in singles:

            def bytes_of(count: int, part: Part = part) -> int:
                return self._cost(self._coded(truncated(part, count)))

            count = most_that_fit(bytes_of, share, len(part.distilled))
            if not count:
                raise ConfigError(
                    f"a share of {share} bytes does not hold one image of {words_of(part.keys[0])}, of "
                    f"{bytes_of(1)} bytes in codec {self.codec}: give a larger max_bytes"
                )
            parts.append(replace(made, part=self._coded(truncated(part, count))))
        return parts

    def _share(self, size: Size, keys: Collection[Key]) -> int | None:
        """Return the bytes of a class where coded ones are counted; None where images are."""
        if self.codec is None or size.bytes is None:
            return None
        return size.bytes // max(len(keys), size.num_classes or 0)

    def _halved(self, quota: int, share: int | None, halved: bool = True) -> tuple[int, int | None]:
        """Return half of a quota and of a share, but one image."""
        if not halved:
            return quota, share
        assert self._form is not None
        return (quota + 1) // 2, share and max(share // 2, min(share, self.bytes_of(1, 1, 1, self._form.shape)))

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
        parts = [self._coded(one) for part in parts for one in left_of(part, keys)]
        whole = self._share(size, keys)
        large: dict[tuple[int, bool], list[Part]] = {}
        for part in parts:
            half = bool(set(part.keys) & set(halved))
            quota, share = self._halved(self._quota(size, keys, len(part.holds)), whole, half)
            if part.per_class > quota if share is None else self._cost(part) > share * len(part.holds):
                large.setdefault((part.task, half), []).append(part)
        made: list[Made] = []
        for (_, half), group in sorted(large.items(), key=lambda item: item[0]):
            quota, share = self._halved(self._quota(size, keys, self.shrunk_group(group)), whole, half)
            made += self._shrunk(group, quota, share, agent)
        small = [part for part in parts if not any(part in group for group in large.values())]
        parts = [self._with_logits(part, agent) for part in [*small, *(one.part for one in made)]]
        self._parts = sorted(parts, key=lambda part: part.keys)
        self._facts = {key: one for key, one in noted(facts, made).items() if key in keys}
        self._window.trim(self._room())
        self._exposed = None

    def _shrunk(self, parts: list[Part], quota: int, share: int | None, agent: Any) -> list[Made]:
        if share is not None:  # the bytes of the images that there are tell how many fit
            held, cost = sum(len(part.holds) for part in parts), sum(self._cost(part) for part in parts)
            least = min(part.per_class for part in parts)
            quota = min(least, max(quota, least * share * held // cost))
        return made_everywhere(
            lambda: [one for made in self.shrink_parts(parts, quota, agent) for one in self._fitted(made, share)]
        )

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
        return replace(part, logits=logits_of(model_of(agent), part.pixels(), part.task, self._form))
