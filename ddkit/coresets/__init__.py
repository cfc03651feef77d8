"""Which subsets of real images stand beside every distilled set as its control."""

from ddkit.coresets.features import network_features, pixel_features
from ddkit.coresets.herding import herding_indices
from ddkit.coresets.kcenter import kcenter_indices
from ddkit.coresets.random import random_indices

__all__ = ["herding_indices", "kcenter_indices", "network_features", "pixel_features", "random_indices"]
