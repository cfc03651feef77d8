"""What is matched between real and synthetic data."""

from ddkit.objectives.alignment import FeatureAlignment
from ddkit.objectives.base import Context, Objective, registry
from ddkit.objectives.distances import gradient_distance
from ddkit.objectives.distribution import DistributionMatching
from ddkit.objectives.gradient import GradientMatching
from ddkit.objectives.signal import LayerFeatures, RealSignal, Signal
from ddkit.objectives.signal import registry as signals
from ddkit.objectives.trajectory import TrajectoryMatching

__all__ = [
    "Context",
    "DistributionMatching",
    "FeatureAlignment",
    "GradientMatching",
    "LayerFeatures",
    "Objective",
    "RealSignal",
    "Signal",
    "TrajectoryMatching",
    "gradient_distance",
    "registry",
    "signals",
]
