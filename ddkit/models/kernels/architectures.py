"""What are infinitely wide networks called, and of which layers do they consist?"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from ddkit.errors import ConfigError
from ddkit.models.kernels.base import registry
from ddkit.models.kernels.convolutional import ConvolutionalKernel
from ddkit.models.kernels.infinite import FullyConnectedKernel, InfiniteKernel

#: Layers by name: ``c`` convolution and ReLU, ``p`` pooling, ``f`` flatten, ``g`` global average pooling.
LAYERS = {
    "convnet": "ccpcpcpf",
    "convnet3": "cpcpcpf",
    "myrtle5": "ccpcpcg",
    "myrtle7": "ccpccpccg",
    "myrtle10": "cccpcccpcccg",
}
CHOICES = "fcN (N hidden layers), convN (N convolutions), " + ", ".join(LAYERS) + ", or layers such as cpcpf"


def infinite_kernel(architecture: str, shape: tuple[int, int, int], **options: Any) -> InfiniteKernel:
    """Return the kernel of an infinitely wide network.

    Args:
        architecture: ``fc1``, ``fc2``, ... (also ``fc:2``); ``conv1``, ``conv2``, ... (convolutions without pooling,
            flattened); ``convnet`` (the one of Conv-KIP: a convolution, then three with pooling), ``convnet3`` (without
            the first; RFAD's); ``myrtle5``, ``myrtle7``, ``myrtle10``; or layers, see
            :class:`~ddkit.models.kernels.convolutional.ConvolutionalKernel`.
        shape: (C, H, W) of the images.
        options: see :class:`~ddkit.models.kernels.infinite.InfiniteKernel`.

    Raises:
        ConfigError: no such architecture, one that the images cannot take, or an option out of range.
    """
    name = architecture.lower().replace(":", "")
    numbered = re.fullmatch(r"(fc|conv)(\d+)", name)
    if numbered and numbered[1] == "fc":
        return FullyConnectedKernel(int(numbered[2]), **options)
    layers = "c" * int(numbered[2]) + "f" if numbered else LAYERS.get(name, name)
    if not re.fullmatch("[cp]+[fg]|f", layers):
        raise ConfigError(f"unknown architecture '{architecture}' of an infinitely wide network: choose {CHOICES}")
    return ConvolutionalKernel(layers, shape, name, **options)


@registry.register(InfiniteKernel.name)
def described(
    options: Mapping[str, Any], shape: tuple[int, int, int], num_classes: int, device: torch.device
) -> InfiniteKernel:
    """Build the described :class:`~ddkit.models.kernels.infinite.InfiniteKernel`; it follows its images."""
    return infinite_kernel(shape=shape, **options)
