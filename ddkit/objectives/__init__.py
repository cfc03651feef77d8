"""What is matched between real and synthetic data."""

from ddkit.objectives.alignment import FeatureAlignment
from ddkit.objectives.base import Context, Objective, accumulate, registry
from ddkit.objectives.characteristic import CharacteristicMatching
from ddkit.objectives.class_means import class_means
from ddkit.objectives.discrepancy import DiscrepancyMatching
from ddkit.objectives.distances import gradient_distance
from ddkit.objectives.distribution import DistributionMatching
from ddkit.objectives.gradient import GradientMatching
from ddkit.objectives.kernel_regression import KernelRegression
from ddkit.objectives.meta import MetaLearning
from ddkit.objectives.ridge import RidgeRegression
from ddkit.objectives.synthetic import SyntheticBatch, SyntheticSide
from ddkit.objectives.trajectory import TrajectoryMatching

__all__ = [
    "CharacteristicMatching",
    "Context",
    "DiscrepancyMatching",
    "DistributionMatching",
    "FeatureAlignment",
    "GradientMatching",
    "KernelRegression",
    "MetaLearning",
    "Objective",
    "RidgeRegression",
    "SyntheticBatch",
    "SyntheticSide",
    "TrajectoryMatching",
    "accumulate",
    "class_means",
    "gradient_distance",
    "registry",
]
