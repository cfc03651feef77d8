"""What is the DenseNet-121 of the field's cross-architecture tables."""

from __future__ import annotations

import torch
import torch.nn as nn
from torch import Tensor

from ddkit.base.ranges import Count
from ddkit.models.base import CHOOSE_ANOTHER, FeatureModel, Shape, require_side

_BLOCKS = (6, 12, 24, 16)


def _preactivated(channels: int, width: int, kernel: int) -> list[nn.Module]:
    """Return batch norm, ReLU and a convolution without bias that keeps the map's size."""
    convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(channels), nn.ReLU(), convolution]


class DenseLayer(nn.Module):
    """Append ``growth`` new maps, computed through a 1x1 bottleneck and a 3x3 convolution, to the given ones.

    Args:
        channels: maps coming in.
        growth: maps added.
    """

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_preactivated(channels, 4 * growth, 1), *_preactivated(4 * growth, growth, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels + growth, H, W) for ``x`` (N, channels, H, W)."""
        return torch.cat([x, self.branch(x)], dim=1)


class DenseNet121(FeatureModel):
    """DenseNet-121 for small images: 3x3 stem of stride 1, blocks 6-12-24-16, batch norm, global pooling.

    `"Densely Connected Convolutional Networks" <https://arxiv.org/abs/1608.06993>`_ (Huang et al., 2017). The
    field's tables use growth 12, as IDC's code distributes it (1 000 618 parameters for 3x32x32 and ten
    classes); the original has growth 32 (6 956 298). Stages: stem, the four dense blocks (each opened by the
    transition before it), pooling.

    Args:
        shape: channels, height, width of the images, at least 8 px a side.
        num_classes: number K of logits.
        growth: maps that every dense layer adds; the stem has twice as many.

    Shapes:
        - input: (N, C, H, W); output: (N, K); features: (N, D) with D = 384 at growth 12 and 1024 at growth
          32.

    Raises:
        ConfigError: images that three poolings would reduce to nothing, or a growth below 1.
    """

    def __init__(self, shape: Shape, num_classes: int, *, growth: Count = 12) -> None:
        require_side("densenet121", shape, 8, CHOOSE_ANOTHER)
        channels = 2 * growth
        stages: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)]
        for count in _BLOCKS:
            layers: list[nn.Module] = []
            if len(stages) > 1:
                layers += [*_preactivated(channels, channels // 2, 1), nn.AvgPool2d(2)]
                channels //= 2
            for _ in range(count):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            stages.append(nn.Sequential(*layers))
        stages.append(nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
        super().__init__(stages, nn.Linear(channels, num_classes))
