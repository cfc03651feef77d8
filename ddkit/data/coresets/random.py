"""How a coreset of random real images is drawn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddkit.data.coresets.selection import check_counts


def random_indices(class_index: Sequence[Tensor], n: int, generator: torch.Generator) -> Tensor:
    """Draw ``n`` images of every class, uniformly and without replacement.

    The selection for a smaller n with the same generator state is a prefix, class by class.

    Args:
        class_index: for each of K classes its (n_c,) int64 image indices.
        n: images per class.
        generator: on the CPU.

    Returns:
        (K·n,) int64 dataset indices, class by class, in the order drawn.

    Raises:
        ConfigError: n below 1 or larger than a class.
        DataError: a class without images.
    """
    check_counts(class_index, n)
    return torch.cat([index.cpu()[torch.randperm(len(index), generator=generator)[:n]] for index in class_index])
