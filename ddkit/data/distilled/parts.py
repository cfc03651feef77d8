"""How are distilled sets of parts of the classes, or of parts of the data, put together, stored and sent?

A replay buffer distils the two classes of an experience, a federated client those that it has. Each distils a set
of its own, numbered from 0 (:meth:`ddkit.data.RealData.only`); :func:`relabelled` gives it its place among all
classes, :func:`at_rest` the form in which it is stored or sent, one byte a number, and :func:`union` joins several.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError


def relabelled(distilled: DistilledDataset, classes: Sequence[int], class_names: Sequence[str]) -> DistilledDataset:
    """Return a set of some classes as one of all classes.

    Args:
        distilled: a set of G classes; decoders are applied, what is returned stores its images.
        classes: G distinct numbers, the place of each of its classes among all.
        class_names: K names of all classes.

    Raises:
        ArtifactError: a number of classes other than G, twice the same, or out of range.
    """
    places = torch.as_tensor(list(classes), dtype=torch.int64)
    if len(places) != distilled.num_classes or len(set(places.tolist())) != len(places):
        raise ArtifactError(
            f"the set has {distilled.num_classes} classes: give one distinct place for each, not {classes}"
        )
    if int(places.min()) < 0 or int(places.max()) >= len(class_names):
        raise ArtifactError(f"places {places.tolist()} are out of range: there are {len(class_names)} classes")
    if distilled.label_kind == "hard":
        labels = places[distilled.labels]
    else:
        labels = torch.zeros(len(distilled), len(class_names))
        labels[:, places] = distilled.labels
    metadata = dict(distilled.metadata)
    if (order := metadata.get("order")) is not None:
        metadata["order"] = {**order, "classes": places[torch.tensor(order["classes"])].tolist()}
    return DistilledDataset(
        distilled.images,
        labels,
        class_names=class_names,
        preprocessing=distilled.preprocessing,
        label_kind=distilled.label_kind,
        metadata=metadata,
    )


def at_rest(distilled: DistilledDataset) -> DistilledDataset:
    """Return a set with its images rounded to one byte a number, soft labels to float16.

    Of real pixels these are the symbols of codec ``uniform:bits=8``, kept as bytes in memory, too. Values beyond their
    range are clipped; ``metadata["clipped"]`` is their share. Decoders are applied.
    """
    soft = distilled.label_kind != "hard"
    pixels = distilled.unclipped()
    outside = float(((pixels < 0) | (pixels > 1)).float().mean())
    return DistilledDataset(
        pixels.clamp(0, 1).mul(255).round().to(torch.uint8),
        distilled.labels.half().float() if soft else distilled.labels,
        class_names=distilled.class_names,
        preprocessing=distilled.preprocessing,
        label_kind=distilled.label_kind,
        metadata={**distilled.metadata, "clipped": round(outside, 6)},
    )


def union(sets: Sequence[DistilledDataset]) -> DistilledDataset:
    """Return one set with the images of all ``sets``, in their order.

    Labels stay hard where all are hard, else hard ones become one-hot rows. Images stay bytes where all are bytes.
    The metadata keep what all sets agree on, ``parts`` is their number.

    Raises:
        ArtifactError: no sets, or sets of other classes, image shapes or preprocessing.
    """
    if not sets:
        raise ArtifactError("a union needs at least one set")
    first = sets[0]
    for other in sets[1:]:
        same = other.class_names == first.class_names and other.shape == first.shape
        if not same or other.preprocessing != first.preprocessing:
            raise ArtifactError(
                f"a set of {other.num_classes} classes and images {other.shape} does not join one of "
                f"{first.num_classes} classes and images {first.shape}: names, shape and preprocessing must be equal"
            )
    kinds = {one.label_kind for one in sets}
    kind = first.label_kind if len(kinds) == 1 else "regression" if "regression" in kinds else "soft"
    bytes_only = all(one.images.dtype == torch.uint8 for one in sets)
    budgets = [one.budget for one in sets]
    images = torch.cat([one.images if bytes_only else one.tensors()[0] for one in sets])
    return DistilledDataset(
        images,
        torch.cat([_rows(one) if kind != "hard" else one.labels for one in sets]),
        class_names=first.class_names,
        preprocessing=first.preprocessing,
        label_kind=kind,
        budget=Budget(
            images=len(images),
            decoded_images=len(images),
            floats=sum(budget.floats for budget in budgets),
            bytes=sum(budget.bytes for budget in budgets),
        ),
        metadata=_common_metadata(sets),
    )


def _rows(distilled: DistilledDataset) -> Tensor:
    if distilled.label_kind != "hard":
        return distilled.labels
    return torch.nn.functional.one_hot(distilled.labels, distilled.num_classes).float()


def _common_metadata(sets: Sequence[DistilledDataset]) -> dict[str, object]:
    """Return the entries that all sets share, and of which class each image was meant to be."""
    shared = {
        key: value
        for key, value in sets[0].metadata.items()
        if key not in ("order", "indices", "clipped") and all(one.metadata.get(key) == value for one in sets)
    }
    meant = torch.cat([one.started_as() for one in sets])
    classes, counts = torch.unique_consecutive(meant, return_counts=True)
    return {
        **shared,
        "order": {"classes": classes.tolist(), "per_class": counts.tolist()},
        "parts": len(sets),
    }
