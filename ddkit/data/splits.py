"""Which images are held out: a stratified split of labels, drawn from a generator."""

from __future__ import annotations

import torch
from torch import Tensor

from ddkit.errors import DataError


def class_indices(labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Return for every class the ascending int64 indices of its images, on the CPU."""
    labels = labels.cpu()
    order = torch.argsort(labels, stable=True)
    return tuple(order.split(torch.bincount(labels, minlength=num_classes).tolist()))


def stratified_split(
    labels: Tensor, held_out: int, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Divide indices into the rest and a held-out part with (nearly) the class proportions of the whole.

    Every class gives its share rounded down; the largest remainders (the lower class on ties) give one more
    until ``held_out`` is reached. No class gives its last image.

    Args:
        labels: int64 ``(N,)``.
        held_out: size of the held-out part, fewer when the classes are too small to give that many.
        num_classes: number of classes.
        generator: CPU generator; one permutation per class is drawn.

    Returns:
        rest and held-out indices, ascending, int64.

    Raises:
        DataError: nothing would be held out.
    """
    counts = torch.bincount(labels.cpu(), minlength=num_classes)
    quota = counts.to(torch.float64) * held_out / max(1, len(labels))
    limit = (counts - 1).clamp_min(0)
    taken = torch.minimum(quota.floor().to(torch.int64), limit)
    remainder = torch.where(taken < limit, quota - taken, -1.0)
    missing = held_out - int(taken.sum())
    order = torch.argsort(remainder, descending=True, stable=True)[: max(0, missing)]
    taken[order[remainder[order] >= 0]] += 1
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for index, number in zip(class_indices(labels, num_classes), taken.tolist(), strict=True):
        shuffled = index[torch.randperm(len(index), generator=generator)]
        parts[1].append(shuffled[:number])
        parts[0].append(shuffled[number:])
    rest, out = (torch.cat(part).sort().values for part in parts)
    if len(out) == 0:
        raise DataError(
            f"cannot hold out {held_out} of {len(labels)} images in {num_classes} classes: "
            "every class keeps at least one image; hold out a larger part or give more images"
        )
    return rest, out
