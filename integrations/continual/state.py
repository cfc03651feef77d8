"""How does the memory become bytes, on disk or between processes, and come back verified?"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ddkit.base.container import pack, unpack
from ddkit.base.files import write_atomically
from ddkit.base.registry import describe_validation_error
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ArtifactError, DataError
from ddkit.integrations.continual.incoming import Arrival, Form
from ddkit.integrations.continual.keys import Key, text_of
from ddkit.integrations.continual.parts import Facts, Part, herded

FORMAT = "ddkit.replay-memory"
FORMAT_VERSION = 1


class _PartContent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    holds: list[int] = Field(min_length=1)
    classes: list[int] = Field(min_length=1)
    task: int | None = Field(default=None, ge=0)


class _FormContent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]
    task_labels: bool
    tensor_targets: bool
    vectors: bool = False


class Content(BaseModel):
    """The JSON part of a saved memory.

    A class of task 0 is named by its number, one of another task ``task/number``. Memories saved before classes were
    kept by task name all by their number, with the task in their facts.

    Args:
        settings: of the buffer; a memory is restored only into one with the same.
        updates: how many experiences were taken in.
        max_size: images in all.
        form: of the stream's items; None before the first one.
        parts: classes of each stored part, whose artifact is the tensor ``part.<number>``, and its task where it is not
            0; with a tensor ``part.<number>.logits`` where it has logits.
        facts: by class, as text.
        window: images seen of the sub-experiences that wait to be distilled, by class; with tensors ``window.*``.
        arrivals: number of these sub-experiences.
    """

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]
    updates: int = Field(ge=0)
    max_size: int = Field(ge=0)
    form: _FormContent | None
    parts: list[_PartContent]
    facts: dict[str, Facts]
    window: dict[str, int]
    arrivals: int = Field(default=0, ge=0)

    def form_of_stream(self) -> Form | None:
        """Return the form as the buffer holds it."""
        if self.form is None:
            return None
        pixels = Preprocessing(tuple(self.form.mean), tuple(self.form.std))
        return Form(self.form.shape, pixels, self.form.task_labels, self.form.tensor_targets, self.form.vectors)

    def facts_by_class(self) -> dict[Key, Facts]:
        """Return the facts by class."""
        return {(facts.task, int(text.rpartition("/")[2])): facts for text, facts in self.facts.items()}

    def window_by_class(self, window: Arrival | None) -> Counter[Key]:
        """Return how many images of each class the window has seen, with the tasks that its images have."""
        keys = [] if window is None else window.keys
        tasks = {label: task for task, label in keys}
        counts: Counter[Key] = Counter()
        for text, count in self.window.items():
            task, _, name = text.rpartition("/")
            label = int(name)
            old = not task and (0, label) not in keys  # a file that names no task, or a class of which no image is left
            counts[tasks.get(label, 0) if old else int(task or 0), label] += count
        return counts


def form_content(form: Form | None) -> dict[str, Any] | None:
    """Return a form, ready for JSON."""
    if form is None:
        return None
    return {
        "shape": list(form.shape),
        "mean": list(form.pixels.mean),
        "std": list(form.pixels.std),
        "task_labels": form.task_labels,
        "tensor_targets": form.tensor_targets,
        **({"vectors": True} if form.vectors else {}),
    }


def dump(
    parts: Sequence[Part],
    facts: Mapping[Key, Facts],
    *,
    settings: Mapping[str, Any] | None = None,
    updates: int = 0,
    max_size: int = 0,
    form: Form | None = None,
    window: Arrival | None = None,
    window_seen: Mapping[Key, int] | None = None,
    arrivals: int = 0,
) -> bytes:
    """Return the bytes of a memory; equal memories give equal bytes."""
    tensors: dict[str, Tensor] = {"updates": torch.tensor([updates])}
    for number, part in enumerate(parts):
        tensors[f"part.{number}"] = torch.frombuffer(bytearray(part.distilled.to_bytes()), dtype=torch.uint8)
        if part.logits is not None:
            tensors[f"part.{number}.logits"] = part.logits
    if window is not None:
        tensors |= {"window.images": window.images, "window.labels": window.labels, "window.tasks": window.tasks}
        if window.logits is not None:
            tensors["window.logits"] = window.logits
    content = Content(
        settings=dict(settings or {}),
        updates=updates,
        max_size=max_size,
        form=form_content(form),  # type: ignore[arg-type]
        parts=[_part_content(part) for part in parts],
        facts={text_of(key): one for key, one in facts.items()},
        window={text_of(key): count for key, count in (window_seen or {}).items()},
        arrivals=arrivals,
    )
    document = content.model_dump(mode="json")
    for entry in [*document["parts"], *([document["form"]] if form is not None else [])]:
        for key in ("task", "vectors"):  # as memories of one task and of images have always been written
            if not entry.get(key):
                entry.pop(key, None)
    return pack(tensors, document, kind=FORMAT, version=FORMAT_VERSION)


def _part_content(part: Part) -> _PartContent:
    return _PartContent(holds=list(part.holds), classes=list(part.classes), task=part.task or None)


def restore(raw: bytes) -> tuple[Content, list[Part], Arrival | None]:
    """Verify and read what :func:`dump` returned.

    Raises:
        ArtifactError: the bytes are damaged, or parts contradict each other.
    """
    document, tensors = unpack(io.BytesIO(raw), len(raw), kind=FORMAT, version=FORMAT_VERSION)
    try:
        content = Content.model_validate(document)
        numbers = [number for text in (*content.facts, *content.window) for number in map(int, text.split("/"))]
        content.form_of_stream()
    except ValidationError as error:
        raise ArtifactError(f"the memory does not follow its format: {describe_validation_error(error)}") from None
    except (ValueError, DataError) as error:
        raise ArtifactError(f"the memory does not follow its format: {error}: save it anew") from None
    wanted = {"updates", *(f"part.{number}" for number in range(len(content.parts)))}
    optional = {f"part.{number}.logits" for number in range(len(content.parts))}
    window = None
    if content.window:
        wanted |= {"window.images", "window.labels", "window.tasks"}
        optional |= {"window.logits"}
    if not wanted <= set(tensors) <= wanted | optional or any(number < 0 for number in numbers):
        raise ArtifactError("the tensors of the memory are not those that it lists: save it anew")
    if content.window:
        images, labels, tasks = (tensors[f"window.{name}"] for name in ("images", "labels", "tasks"))
        window = _window(images, labels, tasks, tensors.get("window.logits"))
    facts = content.facts_by_class()
    parts = []
    for number, entry in enumerate(content.parts):
        part = _part(entry, tensors[f"part.{number}"])
        parts += _with_tasks(replace(part, logits=tensors.get(f"part.{number}.logits")), entry.task, facts)
    if sorted(key for part in parts for key in part.keys) != sorted(facts) or len(facts) < len(content.facts):
        raise ArtifactError("the parts of the memory hold other classes than it describes: save it anew")
    return content, parts, window


def _window(images: Tensor, labels: Tensor, tasks: Tensor, logits: Tensor | None) -> Arrival:
    fits = images.dtype in (torch.uint8, torch.float32) and labels.shape == tasks.shape == images.shape[:1]
    rows = logits is None or (logits.dim() == 2 and logits.is_floating_point() and len(logits) == len(images))
    if not fits or not rows or images.dim() != 4 or {labels.dtype, tasks.dtype} != {torch.int64}:
        raise ArtifactError("the window of the memory is not images with labels and tasks: save it anew")
    return Arrival(images, labels, tasks, 0.0, logits)


def _part(entry: _PartContent, raw: Tensor) -> Part:
    if raw.dtype != torch.uint8 or raw.dim() != 1:
        raise ArtifactError("a part of the memory is no file of bytes: save it anew")
    distilled = DistilledDataset.from_bytes(bytes(raw.numpy()))
    fits = len(entry.classes) == distilled.num_classes and set(entry.holds) <= set(entry.classes)
    if not fits:
        raise ArtifactError(
            f"a part of the memory has {distilled.num_classes} classes, listed are {entry.classes}: save it anew"
        )
    return Part(tuple(entry.holds), tuple(entry.classes), distilled)


def _with_tasks(part: Part, task: int | None, facts: Mapping[Key, Facts]) -> list[Part]:
    """Return a part with its task: the one that is written, 0, or in old files those of the facts of its classes.

    In those, classes of several tasks may share a decoder; they become images, one part a class.
    """
    only = {label: task for task, label in facts}
    tasks = {label: task or (0 if (0, label) in facts else only.get(label, 0)) for label in part.holds}
    if len(set(tasks.values())) == 1:
        return [replace(part, task=tasks[part.holds[0]])]
    return [replace(one, task=tasks[one.holds[0]]) for one in herded(part, part.per_class)]


def read_file(path: Path | str) -> tuple[Content, list[Part], Arrival | None]:
    """Read a saved memory.

    Raises:
        ArtifactError: there is no such file, or :func:`restore` refuses it; the message names the file.
    """
    try:
        return restore(Path(path).read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read the memory '{path}': {error.strerror}: check the path") from None
    except ArtifactError as error:
        raise ArtifactError(f"cannot load '{path}': {error}") from None


def write_file(path: Path | str, raw: bytes) -> Path:
    """Write a memory atomically."""
    return write_atomically(path, lambda temporary: temporary.write_bytes(raw))
