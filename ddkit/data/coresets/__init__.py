"""Which subsets of real images stand beside every distilled set as its control."""

from ddkit.data.coresets.features import network_features, pixel_features
from ddkit.data.coresets.herding import herding_indices
from ddkit.data.coresets.kcenter import kcenter_indices
from ddkit.data.coresets.kmeans import kmeans_representatives
from ddkit.data.coresets.random import random_indices

__all__ = [
    "herding_indices",
    "kcenter_indices",
    "kmeans_representatives",
    "network_features",
    "pixel_features",
    "random_indices",
]
