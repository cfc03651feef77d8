"""How does a replay memory take in experiences, show what it holds, and survive the disk?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddkit.base.sizes import parse_bytes
from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ConfigError
from ddkit.integrations.continual.exposure import Group, exposed, grouped, joined
from ddkit.integrations.continual.host import AvalancheDataset, OnlineCLExperience
from ddkit.integrations.continual.incoming import Form, observe, read
from ddkit.integrations.continual.keys import numbers_restart, words_of
from ddkit.integrations.continual.needs import (
    replays_logits,
    require_full_batches,
    same_width,
    warn_of_idle_replay,
)
from ddkit.integrations.continual.parts import Facts
from ddkit.integrations.continual.shares import SharedMemory
from ddkit.integrations.continual.size import Size
from ddkit.integrations.continual.state import dump, read_file, write_file

#: What every memory can be given beside its size.
MEMORY_OPTIONS = (
    "max_bytes",
    "codec",
    "num_classes",
    "seed",
    "soft_labels",
    "pixels",
    "train_transform",
    "window",
    "name",
)


class ClassMemory(SharedMemory):
    """A storage policy that keeps each class's share of the memory as bytes it owns.

    What it keeps of a class is up to :meth:`condense`. A class number that comes with two task labels is two classes.
    Plugs into Avalanche's ``ReplayPlugin``, see :func:`~ddkit.integrations.continual.distilled_replay`, and is a
    ``storage_policy`` for strategies that hold one, such as ``MIRPlugin`` or ``DER``, which gets its logits.

    The parts of an online stream are kept as real images, a sample of as many as the memory has room for, and condensed
    at the end of their experience; until then each class's share of them is replayed. Where the end is hidden they are
    condensed after ``window`` images, into half of their classes' shares; the other half stays for real images. A class
    that comes again while the memory is full also gives half of its share to them. The memory is never larger than its
    size.

    Args:
        max_size: images (or codes) in all; or give ``max_bytes``.
        max_bytes: bytes in all, labels and decoders included: 65536 or ``"64KiB"``.
        codec: in whose bytes images are kept, ``uniform:bits=3``; what is replayed is what decodes. Every class then
            holds as many images as fit its share of ``max_bytes`` once they are coded. None for one byte a number.
            Real images that wait are not coded.
        num_classes: K: every class gets ``max_size // K`` from the start (what is left over stays unused). None
            divides the memory among the classes seen so far, so that shares shrink as classes arrive; so it does
            when more than K have come, of all tasks together. Of more classes than the memory has places for, some
            are left out.
        seed: of every random draw; the global random state is not used.
        soft_labels: keep rows of probabilities where there are some; needs ``num_classes``.
        pixels: how the stream's images were preprocessed, ``Preprocessing(mean, std)`` of its normalisation; None
            to take it from the range of the first images.
        train_transform: augmentation of replayed images, a map of (C, H, W) tensors; a stream's own transforms do
            not reach them.
        window: images of an online stream that are kept at most until they are condensed, within the memory's size;
            and, where the ends of its experiences are hidden, after how many that happens.
        name: of the data, such as ``"mnist"``: digits and characters are not mirrored.

    Raises:
        UnknownNameError: an unknown codec.
        ConfigError: both sizes or none, one too small for the classes, soft labels without a number of classes, or an
            option of the codec that is out of range.
    """

    _form: Form | None
    _exposed: AvalancheDataset | None
    _updates: int

    def __init__(
        self,
        max_size: int | None = None,
        *,
        max_bytes: int | str | None = None,
        codec: str | None = None,
        num_classes: int | None = None,
        seed: int = 0,
        soft_labels: bool = False,
        pixels: Preprocessing | None = None,
        train_transform: Callable[[Tensor], Tensor] | None = None,
        window: int = 5000,
        name: str = "stream",
    ) -> None:
        size = Size(max_size, None if max_bytes is None else parse_bytes(max_bytes), num_classes)
        if soft_labels and num_classes is None:
            raise ConfigError("soft_labels=True needs num_classes: rows are as long as the model's output")
        super().__init__(size, seed, soft_labels, window, name, codec)
        self.train_transform = train_transform
        self._pixels = pixels

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
            **({} if self.codec is None else {"codec": self.codec}),
        }

    @property
    def buffer(self) -> AvalancheDataset:
        """The memory as a dataset of float32 images on the stream's scale, with ``targets`` and task labels."""
        if self._exposed is None:
            self._exposed = self._shown(self._form)
        return self._exposed

    @property
    def buffer_groups(self) -> dict[int, Group]:
        """The images of each class, with a task label in any case, by class number.

        Where class numbers come with several task labels, K times the task label is added to them.
        """
        return grouped(self._shown(self._form and replace(self._form, task_labels=True)), self._replayed())

    @property
    def buffer_datasets(self) -> list[AvalancheDataset]:
        """The images of each class."""
        return [group.buffer for group in self.buffer_groups.values()]

    def update(self, strategy: Any, **kwargs: Any) -> None:
        """Take in the experience that ``strategy`` has finished; ``ReplayPlugin`` calls this."""
        self.post_adapt(strategy, strategy.experience)

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Take in a dataset, as ``FeatureReplay`` does; its items have task labels then in any case.

        That strategy waits for ever for a memory of fewer images than its ``batch_size_mem``: give it the
        ``RepeatedMemory`` of this one.
        """
        if self._receive(new_data, strategy, online=False) and self._form is not None:
            self._form, self._exposed = replace(self._form, task_labels=True), None

    def post_adapt(self, agent: Any, exp: Any) -> None:
        """Take in an experience, or the next part of that of an online stream.

        Raises:
            DataError: images or labels that cannot be kept; the memory stays as it was.
            ConfigError: a size that does not hold one image of each class, or a strategy that cannot replay from this
                memory; the memory stays as it was.
        """
        require_full_batches(agent, self)
        online = isinstance(exp, OnlineCLExperience)
        received = self._receive(exp.dataset.eval(), agent, online=online)
        if online and received and self._is_last(exp):
            arrival, seen = self._window.sample()
            if seen:
                self._take_in(arrival, seen, agent, halved=not exp.access_task_boundaries)
            self._window.clear()
            self._exposed = None
        warn_of_idle_replay(agent, self)

    def _receive(self, dataset: Any, agent: Any, *, online: bool) -> bool:
        """Take in a dataset: at once, or into the window; say whether there was anything in it."""
        if not len(dataset):
            return False
        form = self._form or observe(dataset, self._pixels)
        arrival = read(dataset, form, self._size.num_classes)
        with_logits = replays_logits(agent, form, self.soft_labels)
        self._form, self._outputs = form, 0
        if with_logits and online:
            arrival = self._with_logits_of(arrival, agent)
        elif with_logits:  # what is kept of an experience gets its own; the bytes depend on their number
            self._with_logits_of(arrival.of(torch.tensor([0])), agent)
        if online:
            generator = Streams(self.seed)(f"window/{self._updates}/{self._window.arrivals}")
            self._make_room(set(arrival.keys), agent)
            self._window.add(arrival, generator, self._room())
            self._exposed = None
        else:
            self._take_in(arrival, Counter(arrival.keys), agent)
        return True

    def _is_last(self, exp: Any) -> bool:
        """Say whether an experience of an online stream ends with this part of it."""
        if not exp.access_task_boundaries:
            return self._window.full
        # Avalanche 0.6 marks no part as the last one where the parts divide the experience evenly.
        return exp.is_last_subexp or self._window.arrivals == exp.sub_stream_length

    def facts(self) -> dict[Any, Facts]:
        """Return where the memory of each class comes from: by class number, or (task label, class number).

        Pairs are the keys where a class number comes with several task labels.
        """
        restart = numbers_restart(self._facts)
        return {key if restart else key[1]: self._facts[key].model_copy(deep=True) for key in sorted(self._facts)}

    def distilled(self) -> DistilledDataset:
        """Return the memory as one distilled dataset of K classes, with the facts of each class in its metadata.

        Where a class number comes with several task labels, the classes of the dataset are those pairs.

        Raises:
            ConfigError: nothing is stored yet.
        """
        parts = self._everything()
        if not parts or self._form is None:
            raise ConfigError("the memory is empty: train on an experience first")
        restart = numbers_restart({key for part in parts for key in part.keys})
        facts = {
            words_of(key) if restart else str(key[1]): self._facts[key].model_dump() for key in sorted(self._facts)
        }
        metadata = {"method": self.method_name, "classes": facts, "settings": self.settings()}
        return joined(parts, self._form, self.num_classes, self.soft_labels, self.budget(), metadata)

    @property
    def method_name(self) -> str:
        """What made the memory, for reports."""
        return type(self).__name__

    def save(self, path: Path | str) -> Path:
        """Write the memory to one verified file without pickle, atomically."""
        window = self._window
        raw = dump(
            self._parts, self._facts, settings=self.settings(), updates=self._updates, max_size=self._max_size,
            form=self._form, window=window.kept, window_seen=window.seen, arrivals=window.arrivals,
        )  # fmt: skip
        return write_file(path, raw)

    def load(self, path: Path | str) -> None:
        """Take back a memory that a buffer with the same settings has saved.

        Raises:
            ArtifactError: the file is missing or damaged.
            ConfigError: it was saved with other settings.
        """
        content, parts, window = read_file(path)
        mine = self.settings()
        for key in sorted({*mine, *content.settings}):
            if mine.get(key) != content.settings.get(key):
                raise ConfigError(
                    f"'{path}' was saved with {key}={content.settings.get(key)}, this buffer has {key}="
                    f"{mine.get(key)}: make the buffer with the settings of the file"
                )
        self._parts, self._facts = parts, content.facts_by_class()
        self._form, self._exposed = content.form_of_stream(), None
        self._updates = content.updates
        self.max_size = content.max_size
        self._outputs = same_width([part.logits for part in parts if part.logits is not None])
        self._window.put(window, content.window_by_class(window), content.arrivals)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_exposed": None}

    def _shown(self, form: Form | None) -> Any:
        row_length = self.num_classes if self.soft_labels else None
        return exposed(self._replayed(), form, row_length, self.train_transform)
