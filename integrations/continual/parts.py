"""What does the memory keep of some classes, and how does it become images to train on?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ddkit.data.coresets.herding import herding_indices
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.parts import at_rest
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.integrations.continual.keys import Key


class Facts(BaseModel):
    """Where the memory of one class comes from.

    Args:
        seen: real images that it stands for.
        experiences: numbers of the updates that brought them, from 0.
        how: ``distilled``, ``selected`` (real images), ``kept`` (all of the few that there were), ``fallback`` (real
            images, because they could not be distilled) or ``herded`` (a selection of what was stored).
        seconds: that its group of classes took at its last update.
        steps: outer steps of that distillation.
        task: task label of its images.
        clipped: share of the values that were clipped to become bytes.
    """

    model_config = ConfigDict(extra="forbid")

    seen: int = Field(ge=0)
    experiences: list[int]
    how: str
    seconds: float = 0.0
    steps: int = 0
    task: int = 0
    clipped: float = 0.0


@dataclass(frozen=True, eq=False)
class Part:
    """A stored set of one or more classes of a task.

    Args:
        holds: classes whose images these are.
        classes: class of each label (or column of a soft label) of ``distilled``; contains ``holds``.
        distilled: bytes for images that are stored as they are, or what a codec makes of them; of one class then. A set
            with decoders keeps its compact form.
        task: task label of its images.
        logits: float32 ``(n, H)`` that a strategy's model gave for its images; None where nobody asks for them.
    """

    holds: tuple[int, ...]
    classes: tuple[int, ...]
    distilled: DistilledDataset
    task: int = 0
    logits: Tensor | None = None

    @property
    def keys(self) -> list[Key]:
        """The classes whose images these are."""
        return [(self.task, label) for label in self.holds]

    @property
    def compact(self) -> bool:
        """Whether the images are decoded from something smaller, which cannot be stored image by image."""
        return self.distilled.synthesis != "pixels"

    @property
    def payload(self) -> int:
        """Bytes of what is stored, by the one price of all sets; logits are not among them."""
        assert self.distilled.budget.payload is not None
        return self.distilled.budget.payload

    @property
    def per_class(self) -> int:
        """Stored images (or codes) of each class."""
        return self.distilled.budget.images // len(self.holds)

    def members(self) -> Tensor:
        """Return of which class each image is, ``(n,)`` int64."""
        return torch.tensor(self.classes)[self.distilled.started_as()]

    def images(self) -> Tensor:
        """Return all images as bytes, uint8 ``(n, C, H, W)``; those of codes are decoded."""
        if self.distilled.images.dtype == torch.uint8:
            return self.distilled.images
        return self.distilled.viewable().mul(255).round().to(torch.uint8)

    def pixels(self) -> Tensor:
        """Return all images as they are replayed, on the scale where real ones lie in [0, 1] or are bytes.

        Coded ones, and those that are to be coded, are float32 and not rounded.
        """
        as_bytes = self.distilled.images.dtype == torch.uint8 or (self.compact and self.distilled.coding is None)
        return self.images() if as_bytes else self.distilled.unclipped()

    def coded(self, codec: str) -> Part:
        """Return this part in the bytes of a codec."""
        return replace(self, distilled=self.distilled.coded(codec))

    def images_of(self, label: int) -> Tensor:
        """Return the images of one class, uint8 ``(n, C, H, W)``."""
        return self.images()[self.members() == label]

    def hard_labels(self) -> Tensor:
        """Return the class that each image teaches, ``(n,)`` int64."""
        return torch.tensor(self.classes)[self.distilled.hard_labels()]

    def rows(self, num_classes: int) -> Tensor:
        """Return labels as rows of probabilities, ``(n, K)`` float32."""
        if self.distilled.label_kind != "soft":
            return F.one_hot(self.hard_labels(), num_classes).float()
        rows = torch.zeros(len(self.distilled), num_classes)
        rows[:, list(self.classes)] = self.distilled.labels
        return rows


@dataclass(frozen=True)
class Material:
    """Images from which the memory of some classes of a task is made.

    Args:
        classes: their numbers, ascending.
        images: uint8 ``(N, C, H, W)``.
        labels: int64 ``(N,)``, positions in ``classes``.
        copies: int64 ``(N,)``: of how many real images each one speaks; above 1 for stored images of a class that is
            seen again.
        name: of the data, which decides about mirroring.
        task: task label of them all.
    """

    classes: tuple[int, ...]
    images: Tensor
    labels: Tensor
    copies: Tensor
    name: str
    task: int = 0
    counts: Tensor = field(init=False)

    def __post_init__(self) -> None:
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        object.__setattr__(self, "counts", counts)

    def of(self, classes: Sequence[int]) -> Material:
        """Return the images of some of the classes, labelled anew."""
        place = torch.full((len(self.classes),), -1)
        place[[self.classes.index(label) for label in classes]] = torch.arange(len(classes))
        labels = place[self.labels]
        index = (labels >= 0).nonzero().squeeze(1)
        return Material(tuple(classes), self.images[index], labels[index], self.copies[index], self.name, self.task)

    def real(self, *, weighted: bool = True, preprocessing: Preprocessing | None = None) -> RealData:
        """Return the images as a real set of G classes; a single class comes twice, as methods take two or more.

        Args:
            weighted: repeat each image as often as ``copies`` says.
            preprocessing: None to standardise by the statistics of these images.
        """
        index = torch.arange(len(self.labels))
        if weighted and int(self.copies.max()) > 1:
            index = index.repeat_interleave(self.copies)
        images, labels = self.images[index], self.labels[index]
        names = [str(label) for label in self.classes]
        if len(names) == 1:
            images, labels = images.repeat(2, 1, 1, 1), torch.arange(2).repeat_interleave(len(labels))
            names.append(f"{names[0]} again")
        return RealData.from_tensors(images, labels, class_names=names, name=self.name, preprocessing=preprocessing)


def of_single_class(distilled: DistilledDataset, quota: int) -> DistilledDataset:
    """Return the first ``quota`` images of the first of the two equal classes that a single one was distilled as.

    Those of codes are decoded, as a decoder that two classes share is of no use to one.
    """
    index = (distilled.started_as() == 0).nonzero().squeeze(1)[:quota]
    order = {"order": {"classes": [0], "per_class": len(index)}}
    return DistilledDataset(
        distilled.images[index],
        torch.zeros(len(index), dtype=torch.int64),
        class_names=distilled.class_names[:1],
        preprocessing=distilled.preprocessing,
        metadata={**distilled.metadata, **order},
    )


def parts_of(distilled: DistilledDataset, material: Material, soft: bool, codec: str | None) -> list[Part]:
    """Return what is stored of a set with the G classes of ``material``.

    Images become bytes, or stay as they are for a codec, one part a class in the order of its labels; a set with
    decoders stays as it is.
    """
    classes = material.classes
    if distilled.synthesis != "pixels":
        return [Part(classes, classes, distilled, material.task)]
    if distilled.images.dtype != torch.uint8 and codec is None:
        distilled = at_rest(distilled)
    images = distilled.images if distilled.images.dtype == torch.uint8 else distilled.unclipped()
    kept = soft and distilled.label_kind == "soft"
    members, labels = distilled.started_as(), distilled.labels if kept else distilled.hard_labels()
    card, parts = distilled.card, []
    for place in range(len(classes)):
        index = (members == place).nonzero().squeeze(1)
        index = index if kept else index[labels[index].argsort(stable=True)]
        one = DistilledDataset(
            images[index],
            labels[index],
            class_names=distilled.class_names,
            preprocessing=Preprocessing.identity(material.images.shape[1]),
            label_kind="soft" if kept else "hard",
            metadata={
                "method": card.method,
                "steps": card.steps or 0,
                "clipped": card.clipped,
                "order": {"classes": [place], "per_class": len(index)},
            },
        )
        parts.append(Part((classes[place],), classes, one, material.task))
    return parts


def real_parts(material: Material, index: Tensor) -> list[Part]:
    """Return the images of ``material`` at ``index`` as they are, one part a class, in the order of ``index``."""
    parts = []
    for place, label in enumerate(material.classes):
        chosen = index[material.labels[index] == place]
        one = DistilledDataset(
            material.images[chosen],
            torch.zeros(len(chosen), dtype=torch.int64),
            class_names=[str(label)],
            preprocessing=Preprocessing.identity(material.images.shape[1]),
        )
        parts.append(Part((label,), (label,), one, material.task))
    return parts


def truncated(part: Part, quota: int) -> Part:
    """Return the first ``quota`` images of a part of one class."""
    return _at(part, torch.arange(quota))


def herded(part: Part, quota: int) -> list[Part]:
    """Return ``quota`` images of each class whose mean stays closest to that of what was stored (Welling 2009).

    A part with decoders becomes images, of which there are as many as it had codes at most.
    """
    parts = []
    for label in part.holds:
        index = (part.members() == label).nonzero().squeeze(1)
        features = part.images()[index].flatten(1).float() / 255
        chosen = herding_indices(features, [torch.arange(len(index))], min(quota, len(index)))
        parts.append(_at(part, index[chosen], label))
    return parts


def left_of(part: Part, keys: Collection[Key]) -> list[Part]:
    """Return what a part is without classes that are not among ``keys``; with decoders, its images."""
    if set(part.keys) <= set(keys):
        return [part]
    return [one for one in herded(part, part.per_class) if set(one.keys) <= set(keys)]


def _at(part: Part, index: Tensor, label: int | None = None) -> Part:
    """Return the images at ``index`` of one class as bytes, coded ones as they decode."""
    label = part.holds[0] if label is None else label
    place = part.classes.index(label)
    soft = part.distilled.label_kind == "soft"
    index = index if soft else index[part.distilled.hard_labels()[index].argsort(stable=True)]
    labels = part.distilled.labels[index] if soft else part.distilled.hard_labels()[index]
    order = {"classes": [place], "per_class": len(index)}
    one = DistilledDataset(
        part.pixels()[index],
        labels,
        class_names=part.distilled.class_names,
        preprocessing=Preprocessing.identity(part.distilled.shape[0]),
        label_kind="soft" if soft else "hard",
        metadata={**part.distilled.metadata, "order": order},
    )
    logits = None if part.logits is None else part.logits[index]
    return Part((label,), part.classes, one, part.task, logits)


@dataclass(frozen=True)
class Made:
    """A part that was just made, and how.

    Args:
        part: it.
        how: see :class:`Facts`.
        seconds: that it took, with the parts made together with it.
        steps: outer steps of the distillation.
    """

    part: Part
    how: str
    seconds: float = 0.0
    steps: int = 0
