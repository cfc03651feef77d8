"""How a coreset of random real images is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddkit.data.coresets.selection import check_counts


def random_indices(class_index: Sequence[Tensor], n: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` images of every class, uniformly and without replacement.

    The selection for a smaller n with the same state of the CPU ``generator`` is a prefix, class by class. Otherwise
    as :func:`~ddkit.data.coresets.herding.herding_indices`.
    """
    check_counts(class_index, n)
    return torch.cat([index.cpu()[torch.randperm(len(index), generator=generator)[:n]] for index in class_index])
