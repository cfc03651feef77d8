"""How does the memory become bytes, on disk or between processes, and come back verified?"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ddkit.artifact import DistilledDataset
from ddkit.container import pack, unpack
from ddkit.data import Preprocessing
from ddkit.errors import ArtifactError, DataError
from ddkit.files import write_atomically
from ddkit.integrations.continual.incoming import Arrival, Form
from ddkit.integrations.continual.parts import Facts, Part
from ddkit.registry import describe_validation_error

FORMAT = "ddkit.replay-memory"
FORMAT_VERSION = 1


class _PartContent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    holds: list[int] = Field(min_length=1)
    classes: list[int] = Field(min_length=1)


class _FormContent(BaseModel):
    model_config = ConfigDict(extra="forbid")

    shape: tuple[int, int, int]
    mean: list[float]
    std: list[float]
    task_labels: bool
    tensor_targets: bool


class Content(BaseModel):
    """The JSON part of a saved memory.

    Args:
        settings: of the buffer; a memory is restored only into one with the same.
        updates: how many experiences were taken in.
        max_size: images in all.
        form: of the stream's items; None before the first one.
        parts: classes of each stored part, whose artifact is the tensor ``part.<number>``.
        facts: by class number, as text.
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
        return Form(self.form.shape, pixels, self.form.task_labels, self.form.tensor_targets)

    def facts_by_class(self) -> dict[int, Facts]:
        """Return the facts by class number."""
        return {int(label): facts for label, facts in self.facts.items()}


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
    }


def dump(
    parts: Sequence[Part],
    facts: Mapping[int, Facts],
    *,
    settings: Mapping[str, Any] | None = None,
    updates: int = 0,
    max_size: int = 0,
    form: Form | None = None,
    window: Arrival | None = None,
    window_seen: Mapping[int, int] | None = None,
    arrivals: int = 0,
) -> bytes:
    """Return the bytes of a memory; equal memories give equal bytes."""
    tensors: dict[str, Tensor] = {"updates": torch.tensor([updates])}
    for number, part in enumerate(parts):
        tensors[f"part.{number}"] = torch.frombuffer(bytearray(part.distilled.to_bytes()), dtype=torch.uint8)
    if window is not None:
        tensors |= {"window.images": window.images, "window.labels": window.labels, "window.tasks": window.tasks}
    content = Content(
        settings=dict(settings or {}),
        updates=updates,
        max_size=max_size,
        form=form_content(form),  # type: ignore[arg-type]
        parts=[_PartContent(holds=list(part.holds), classes=list(part.classes)) for part in parts],
        facts={str(label): one for label, one in facts.items()},
        window={str(label): count for label, count in (window_seen or {}).items()},
        arrivals=arrivals,
    )
    return pack(tensors, content.model_dump(mode="json"), kind=FORMAT, version=FORMAT_VERSION)


def restore(raw: bytes) -> tuple[Content, list[Part], Arrival | None]:
    """Verify and read what :func:`dump` returned.

    Raises:
        ArtifactError: the bytes are damaged, or parts contradict each other.
    """
    document, tensors = unpack(io.BytesIO(raw), len(raw), kind=FORMAT, version=FORMAT_VERSION)
    try:
        content = Content.model_validate(document)
        labels = [int(label) for label in (*content.facts, *content.window)]
        content.form_of_stream()
    except ValidationError as error:
        raise ArtifactError(f"the memory does not follow its format: {describe_validation_error(error)}") from None
    except (ValueError, DataError) as error:
        raise ArtifactError(f"the memory does not follow its format: {error}: save it anew") from None
    wanted = {"updates", *(f"part.{number}" for number in range(len(content.parts)))}
    window = None
    if content.window:
        wanted |= {"window.images", "window.labels", "window.tasks"}
    if set(tensors) != wanted or any(label < 0 for label in labels):
        raise ArtifactError("the tensors of the memory are not those that it lists: save it anew")
    if content.window:
        window = _window(tensors["window.images"], tensors["window.labels"], tensors["window.tasks"])
    parts = [_part(entry, tensors[f"part.{number}"]) for number, entry in enumerate(content.parts)]
    if sorted(label for part in parts for label in part.holds) != sorted(content.facts_by_class()):
        raise ArtifactError("the parts of the memory hold other classes than it describes: save it anew")
    return content, parts, window


def _window(images: Tensor, labels: Tensor, tasks: Tensor) -> Arrival:
    fits = images.dtype == torch.uint8 and images.dim() == 4 and labels.shape == tasks.shape == images.shape[:1]
    if not fits or {labels.dtype, tasks.dtype} != {torch.int64}:
        raise ArtifactError("the window of the memory is not images with labels and tasks: save it anew")
    return Arrival(images, labels, tasks, 0.0)


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
