"""Kernels of images, finite and infinitely wide, and ridge regression with them."""

from ddkit.models.kernels.architectures import infinite_kernel
from ddkit.models.kernels.base import Kernel, create, registry
from ddkit.models.kernels.classifier import KernelClassifier, regression_rows, with_mirrored
from ddkit.models.kernels.convolutional import ConvolutionalKernel
from ddkit.models.kernels.features import FeatureMap, NetworkFeatures, RandomFeatures
from ddkit.models.kernels.infinite import FullyConnectedKernel, InfiniteKernel
from ddkit.models.kernels.label_solve import solve_labels

__all__ = [
    "ConvolutionalKernel",
    "FeatureMap",
    "FullyConnectedKernel",
    "InfiniteKernel",
    "Kernel",
    "KernelClassifier",
    "NetworkFeatures",
    "RandomFeatures",
    "create",
    "infinite_kernel",
    "registry",
    "regression_rows",
    "solve_labels",
    "with_mirrored",
]
