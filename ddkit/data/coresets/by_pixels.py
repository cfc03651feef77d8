"""The herded order of real images by their pixels, which is computed once."""

from __future__ import annotations

from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ddkit.data.coresets.features import pixel_features
from ddkit.data.coresets.herding import PICKS_WORTH_PRODUCTS, herding_indices
from ddkit.data.real import RealData

_orders: WeakKeyDictionary[RealData, dict[int, Tensor]] = WeakKeyDictionary()


def herded(real: RealData, counts: Mapping[int, int]) -> Tensor:
    """Return the first images of the herded order of classes, see :func:`herding_indices`, on preprocessed pixels.

    Whoever looks for the number of images that fit some bytes asks again and again: what was found for a dataset is
    kept as long as the dataset.

    Args:
        real: training images.
        counts: images wanted of every class, by its number.

    Returns:
        (sum of counts,) int64 dataset indices on the CPU, class by class, in the order of ``counts``.

    Raises:
        ConfigError: more images than a class has.
        DataError: ``real`` is a test split.
    """
    known = _orders.setdefault(real, {})
    for label, count in counts.items():
        before = len(known.get(label, ()))
        if before < count:
            members = real.class_index[label].cpu().sort().values
            size, most = len(members), 2 * count if before else count
            further = size if count > size // PICKS_WORTH_PRODUCTS else min(size, most)
            features = pixel_features(real.subset(members))
            known[label] = members[herding_indices(features, [torch.arange(size)], max(count, further))]
    return torch.cat([known[label][:count] for label, count in counts.items() if count])
