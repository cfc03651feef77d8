"""What are the MLP, LeNet, AlexNet and VGG11 of the field's cross-architecture tables."""

from __future__ import annotations

import torch.nn as nn

from ddkit.base.ranges import Count
from ddkit.models.base import (
    CHOOSE_ANOTHER,
    ChannelNorm,
    FeatureModel,
    Shape,
    channel_norm,
    is_grey_28,
    require_side,
)


class MLP(FeatureModel):
    """Two hidden layers with ReLU on the flattened image, then a linear classifier.

    Args:
        shape: channels, height, width of the images, any size.
        num_classes: number K of logits.
        width: units of each hidden layer.
        standardise: give every image mean 0 and variance 1 first, as instance norm does for convolutions. It is what
            lets a network learn from images of any scale.

    Shapes:
        - input: (N, C, H, W); features: (N, width); output: (N, K).
    """

    def __init__(self, shape: Shape, num_classes: int, *, width: Count = 128, standardise: bool = False) -> None:
        channels, height, columns = shape
        pixels = channels * height * columns
        first: list[nn.Module] = [nn.LayerNorm(pixels, elementwise_affine=False)] if standardise else []
        stages = [
            nn.Sequential(nn.Flatten(), *first, nn.Linear(pixels, width), nn.ReLU()),
            nn.Sequential(nn.Linear(width, width), nn.ReLU()),
        ]
        super().__init__(stages, nn.Linear(width, num_classes))


class LeNet(FeatureModel):
    """LeNet-5 with ReLU and max-pooling (LeCun et al., 1998): two 5x5 convolutions, linear layers 120-84-K.

    Args:
        shape: channels, height, width of the images, at least 12 px a side. The first layer pads by 2 px when
            a side is below 32 px, so that 28 px and 32 px images both give 5x5 maps.
        num_classes: number K of logits.

    Shapes:
        - input: (N, C, H, W); features: (N, 84); output: (N, K).

    Raises:
        ConfigError: images below 12 px a side.
    """

    def __init__(self, shape: Shape, num_classes: int) -> None:
        require_side("lenet", shape, 12, CHOOSE_ANOTHER)
        channels, *sides = shape
        padding = 2 if min(sides) < 32 else 0
        height, columns = (((side + 2 * padding - 4) // 2 - 4) // 2 for side in sides)
        stages = [
            nn.Sequential(nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * height * columns, 120), nn.ReLU()),
            nn.Sequential(nn.Linear(120, 84), nn.ReLU()),
        ]
        super().__init__(stages, nn.Linear(84, num_classes))


class AlexNet(FeatureModel):
    """The field's small AlexNet (after Krizhevsky et al., 2012): five convolutions, three max-pools, no norm.

    Args:
        shape: channels, height, width of the images, at least 8 px a side. 1x28x28 is padded to 32 px.
        num_classes: number K of logits.

    Shapes:
        - input: (N, C, H, W); features: (N, 192 * H/8 * W/8), each side rounded down; output: (N, K).

    Raises:
        ConfigError: images below 8 px a side.
    """

    def __init__(self, shape: Shape, num_classes: int) -> None:
        require_side("alexnet", shape, 8, CHOOSE_ANOTHER)
        channels, *sides = shape
        padding = 4 if is_grey_28(shape) else 2
        height, columns = ((side + 2 * padding - 4) // 8 for side in sides)
        stages = [
            nn.Sequential(nn.Conv2d(channels, 128, 5, padding=padding), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(128, 192, 5, padding=2), nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(192, 256, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(256, 192, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(192, 192, 3, padding=1), nn.ReLU()),
            nn.MaxPool2d(2),
        ]
        super().__init__(stages, nn.Linear(192 * height * columns, num_classes))


class VGG11(FeatureModel):
    """VGG11 with normalised convolutions and one linear layer.

    `"Very Deep Convolutional Networks for Large-Scale Image Recognition" <https://arxiv.org/abs/1409.1556>`_
    (Simonyan and Zisserman, 2015), configuration A, in the small form of the field's tables.

    Args:
        shape: channels, height, width of the images, at least 32 px a side, or 1x28x28 (padded to 32 px).
        num_classes: number K of logits.
        norm: ``instance``, ``batch``, ``group`` (four groups) or ``none``.

    Shapes:
        - input: (N, C, H, W); features: (N, 512 * H/32 * W/32), each side rounded down; output: (N, K).

    Raises:
        ConfigError: images that five poolings would reduce to nothing.
    """

    def __init__(self, shape: Shape, num_classes: int, *, norm: ChannelNorm = "instance") -> None:
        padding = 3 if is_grey_28(shape) else 1
        if not is_grey_28(shape):
            require_side("vgg11", shape, 32, f"1x28x28 works too (it is padded); {CHOOSE_ANOTHER}")
        channels, *sides = shape
        height, columns = ((side + 2 * padding - 2) // 32 for side in sides)
        stages: list[nn.Module] = []
        for width, pool_first in _VGG11_LAYERS:
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool_first else []
            layers.append(nn.Conv2d(channels, width, 3, padding=1 if stages else padding))
            stages.append(nn.Sequential(*layers, channel_norm(norm, width), nn.ReLU()))
            channels = width
        stages.append(nn.MaxPool2d(2))
        super().__init__(stages, nn.Linear(512 * height * columns, num_classes))


_VGG11_LAYERS = (
    (64, False),
    (128, True),
    (256, True),
    (256, False),
    (512, True),
    (512, False),
    (512, True),
    (512, False),
)
"""Channels of every convolution of VGG11, and whether a max-pool comes before it."""
