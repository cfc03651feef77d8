"""How does what is stored become a dataset that Avalanche's loaders take?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.integrations.continual.host import (
    AvalancheDataset,
    DataAttribute,
    FlatData,
    TaskLabels,
    TensorDataAttribute,
    TransformGroups,
    as_taskaware_classification_dataset,
)
from ddkit.integrations.continual.incoming import Form
from ddkit.integrations.continual.keys import Key, numbered, numbers_restart, words_of
from ddkit.integrations.continual.parts import Part


class Images(Dataset[tuple[Tensor, Any]]):
    """Images that own their memory, with a ``targets`` field.

    Args:
        images: float32 ``(N, C, H, W)``, or vectors ``(N, D)``, on the stream's scale.
        labels: N integers.
        targets: what the items carry: the labels as integers or 0-dimensional tensors, or rows ``(N, K)``.
    """

    def __init__(self, images: Tensor, labels: Sequence[int], targets: Sequence[Any] | Tensor) -> None:
        self.images, self.targets, self._carried = images, list(labels), targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.images[index], self._carried[index]


def keys_of(parts: Sequence[Part]) -> list[Key]:
    """Return of which class each image is."""
    return [(part.task, label) for part in parts for label in part.members().tolist()]


def exposed(
    parts: Sequence[Part],
    form: Form | None,
    row_length: int | None,
    transform: Callable[[Tensor], Tensor] | None,
) -> Any:
    """Return the memory as an Avalanche dataset with the attributes that the stream's datasets have.

    Args:
        parts: what is stored; their logits, where all have some, follow the task label in an item.
        form: of the stream's items; None while nothing is stored.
        row_length: K for labels as rows of probabilities; None for class numbers.
        transform: of images when training.
    """
    if not parts or form is None:
        return AvalancheDataset([])
    labels = torch.cat([part.hard_labels() for part in parts])
    targets: Sequence[Any] | Tensor = labels if form.tensor_targets else labels.tolist()
    if row_length is not None:
        targets = torch.cat([part.rows(row_length) for part in parts])
    attributes = [DataAttribute(labels.tolist(), "targets")]
    if form.task_labels:  # the last one but logits: a strategy reads the task from the end of the mini-batch
        attributes.append(TaskLabels([task for task, _ in keys_of(parts)]))
    logits = [part.logits for part in parts if part.logits is not None]
    if len(logits) == len(parts):
        rows = FlatData([list(torch.cat(logits))], discard_elements_not_in_indices=True)
        attributes.append(TensorDataAttribute(rows, name="logits", use_in_getitem=True))
    groups = None if transform is None else TransformGroups({"train": (transform, None), "eval": None})
    images = form.as_items(torch.cat([form.pixels.apply(part.pixels()) for part in parts]))
    dataset = AvalancheDataset(
        [Images(images, labels.tolist(), targets)], data_attributes=attributes, transform_groups=groups
    )
    return as_taskaware_classification_dataset(dataset) if form.task_labels else dataset


@dataclass(frozen=True)
class Group:
    """The memory of one class, as strategies expect it in ``buffer_groups``.

    Args:
        buffer: its images.
    """

    buffer: Any


def grouped(content: Any, parts: Sequence[Part]) -> dict[int, Group]:
    """Return the images of each class, by its number; see :func:`~ddkit.integrations.continual.keys.numbered`.

    Args:
        content: what :func:`exposed` returned for ``parts``.
        parts: what is stored.
    """
    members = keys_of(parts)
    return {
        number: Group(content.subset([place for place, member in enumerate(members) if member == key]))
        for key, number in numbered(sorted(set(members))).items()
    }


def joined(
    parts: Sequence[Part], form: Form, num_classes: int, soft: bool, budget: Budget, metadata: Mapping[str, Any]
) -> DistilledDataset:
    """Return all parts as one distilled dataset with images at rest, or as coded parts decode; codes are decoded.

    It has K classes; where class numbers come with several task labels, as many as there are such pairs, numbered in
    the order of tasks and named after them.
    """
    keys = sorted({(part.task, label) for part in parts for label in part.classes})
    names = [str(label) for label in range(num_classes)]
    places = {key: key[1] for key in keys}
    if numbers_restart(keys):
        names, places = [words_of(key) for key in keys], {key: place for place, key in enumerate(keys)}
    members = torch.tensor([places[key] for key in keys_of(parts)])
    classes, counts = torch.unique_consecutive(members, return_counts=True)
    as_bytes = all(part.distilled.coding is None for part in parts)
    return DistilledDataset(
        torch.cat([part.images() if as_bytes else form.pixels.apply(part.pixels()) for part in parts]),
        torch.cat([_labels(part, places, len(names) if soft else None) for part in parts]),
        class_names=names,
        preprocessing=form.pixels,
        label_kind="soft" if soft else "hard",
        budget=Budget(len(members), len(members), budget.floats, budget.bytes),
        metadata={**metadata, "order": {"classes": classes.tolist(), "per_class": counts.tolist()}},
    )


def _labels(part: Part, places: Mapping[Key, int], row_length: int | None) -> Tensor:
    """Return labels of a part with each class at its place, ``(n,)`` or rows ``(n, row_length)``."""
    if row_length is None:
        return torch.tensor([places[part.task, label] for label in part.hard_labels().tolist()])
    rows, result = part.rows(max(part.classes) + 1), torch.zeros(len(part.distilled), row_length)
    for label in set(part.classes):
        result[:, places[part.task, label]] = rows[:, label]
    return result
