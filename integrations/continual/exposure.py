"""How does what is stored become a dataset that Avalanche's loaders take?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ddkit.artifact import DistilledDataset
from ddkit.budget import Budget
from ddkit.integrations.continual.host import (
    AvalancheDataset,
    DataAttribute,
    TaskLabels,
    TransformGroups,
    as_taskaware_classification_dataset,
)
from ddkit.integrations.continual.incoming import Form
from ddkit.integrations.continual.parts import Facts, Part


class Images(Dataset[tuple[Tensor, Any]]):
    """Images that own their memory, with a ``targets`` field.

    Args:
        images: float32 ``(N, C, H, W)`` on the stream's scale.
        labels: N integers.
        targets: what the items carry: the labels as integers or 0-dimensional tensors, or rows ``(N, K)``.
    """

    def __init__(self, images: Tensor, labels: Sequence[int], targets: Sequence[Any] | Tensor) -> None:
        self.images, self.targets, self._carried = images, list(labels), targets

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.images[index], self._carried[index]


def on_scale_of(form: Form, parts: Sequence[Part]) -> Tensor:
    """Return the images of all parts, float32 ``(N, C, H, W)`` on the stream's scale."""
    return torch.cat([form.pixels.apply(part.images()) for part in parts])


def exposed(
    parts: Sequence[Part],
    facts: Mapping[int, Facts],
    form: Form | None,
    row_length: int | None,
    transform: Callable[[Tensor], Tensor] | None,
) -> Any:
    """Return the memory as an Avalanche dataset with the attributes that the stream's datasets have.

    Args:
        parts: what is stored.
        facts: of its classes.
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
    if form.task_labels:  # the last one: a strategy reads the task from the end of the mini-batch
        members = torch.cat([part.members() for part in parts]).tolist()
        attributes.append(TaskLabels([facts[label].task for label in members]))
    groups = None if transform is None else TransformGroups({"train": (transform, None), "eval": None})
    dataset = AvalancheDataset(
        [Images(on_scale_of(form, parts), labels.tolist(), targets)],
        data_attributes=attributes,
        transform_groups=groups,
    )
    return as_taskaware_classification_dataset(dataset) if form.task_labels else dataset


def joined(
    parts: Sequence[Part], form: Form, num_classes: int, soft: bool, budget: Budget, metadata: Mapping[str, Any]
) -> DistilledDataset:
    """Return all parts as one distilled dataset of K classes with images at rest; codes are decoded."""
    images = torch.cat([part.images() for part in parts])
    members = torch.cat([part.members() for part in parts])
    classes, counts = torch.unique_consecutive(members, return_counts=True)
    rows = torch.cat([part.rows(num_classes) for part in parts]) if soft else None
    return DistilledDataset(
        images,
        torch.cat([part.hard_labels() for part in parts]) if rows is None else rows,
        class_names=[str(label) for label in range(num_classes)],
        preprocessing=form.pixels,
        label_kind="hard" if rows is None else "soft",
        budget=Budget(len(images), len(images), budget.floats, budget.bytes),
        metadata={**metadata, "order": {"classes": classes.tolist(), "per_class": counts.tolist()}},
    )
