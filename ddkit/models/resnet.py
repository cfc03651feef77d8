"""What are the residual networks of the field's cross-architecture tables: ResNet-10, 18, 18-AP and 152.

`"Deep Residual Learning for Image Recognition" <https://arxiv.org/abs/1512.03385>`_ (He et al., 2016), in the
form for small images: a 3x3 stem of stride 1 and no max-pool.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch.nn as nn
from torch import Tensor
from torch.nn import functional

from ddkit.models.base import CHOOSE_ANOTHER, FeatureModel, Shape, channel_norm, require_side

ResNetNorm: TypeAlias = Literal["instance", "batch", "group"]


@dataclass(frozen=True)
class _Layers:
    """How a residual network builds its convolutions: which norm, and whether pooling replaces strides."""

    norm: str
    average_pooling: bool = False

    def convolution(self, channels: int, width: int, kernel: int, stride: int = 1) -> nn.Conv2d:
        stride = 1 if self.average_pooling else stride
        return nn.Conv2d(channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)

    def pooling(self, stride: int) -> list[nn.Module]:
        return [nn.AvgPool2d(stride)] if self.average_pooling and stride > 1 else []

    def activated(self, channels: int, width: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        convolution = self.convolution(channels, width, kernel, stride)
        return [convolution, channel_norm(self.norm, width), nn.ReLU(), *self.pooling(stride)]

    def basic(self, channels: int, width: int, stride: int) -> nn.Sequential:
        first = self.activated(channels, width, 3, stride)
        return nn.Sequential(*first, self.convolution(width, width, 3), channel_norm(self.norm, width))

    def bottleneck(self, channels: int, width: int, stride: int) -> nn.Sequential:
        inner = [*self.activated(channels, width, 1), *self.activated(width, width, 3, stride)]
        return nn.Sequential(*inner, self.convolution(width, 4 * width, 1), channel_norm(self.norm, 4 * width))

    def shortcut(self, channels: int, out_channels: int, stride: int) -> nn.Module:
        if stride == 1 and channels == out_channels:
            return nn.Identity()
        convolution = self.convolution(channels, out_channels, 1, stride)
        return nn.Sequential(convolution, *self.pooling(stride), channel_norm(self.norm, out_channels))


class ResidualBlock(nn.Module):
    """ReLU(branch(x) + shortcut(x)).

    Args:
        branch: the residual function, (N, C, H, W) -> (N, C', H', W').
        shortcut: the identity, or a 1x1 convolution where the branch changes the shape.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the activated sum, (N, C', H', W')."""
        return functional.relu(self.branch(x) + self.shortcut(x))


class ResNet(FeatureModel):
    """A residual network for small images: 3x3 stem, four groups of blocks, pooling, linear classifier.

    Every group after the first halves the maps and doubles the channels. Stages: stem, four groups, and the
    mean over the last map unless ``average_pooling``.

    Args:
        shape: channels, height, width of the images.
        num_classes: number K of logits.
        blocks: residual blocks of each of the four groups.
        width: channels of the first group (before a bottleneck's expansion by 4).
        norm: ``instance``, ``batch`` or ``group`` (four groups).
        bottleneck: three-layer blocks (1x1, 3x3, 1x1) instead of two 3x3 layers.
        average_pooling: the -AP form: maps are halved by 2x2 average pooling instead of strides, and the
            classifier reads the whole last map instead of its mean.
        name: what error messages call the network.

    Shapes:
        - input: (N, C, H, W); output: (N, K).
        - features: (N, D), or (N, D * H/8 * W/8) with ``average_pooling``; D = 8 * width, times 4 with
          ``bottleneck``.

    Raises:
        ConfigError: images so small that instance norm would see single pixels, or pooling nothing.
    """

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        *,
        blocks: Sequence[int],
        width: int = 64,
        norm: ResNetNorm = "instance",
        bottleneck: bool = False,
        average_pooling: bool = False,
        name: str = "resnet",
    ) -> None:
        _require_map(name, shape, norm, average_pooling)
        layers = _Layers(norm, average_pooling)
        expansion = 4 if bottleneck else 1
        stages: list[nn.Module] = [nn.Sequential(*layers.activated(shape[0], width, 3))]
        channels = width
        for group, count in enumerate(blocks):
            members = []
            for index in range(count):
                stride = 2 if group > 0 and index == 0 else 1
                build = layers.bottleneck if bottleneck else layers.basic
                branch = build(channels, width << group, stride)
                members.append(ResidualBlock(branch, layers.shortcut(channels, expansion * width << group, stride)))
                channels = expansion * width << group
            stages.append(nn.Sequential(*members))
        pixels = (shape[1] // 8) * (shape[2] // 8) if average_pooling else 1
        if not average_pooling:
            stages.append(nn.AdaptiveAvgPool2d(1))
        super().__init__(stages, nn.Linear(channels * pixels, num_classes))


def _require_map(name: str, shape: Shape, norm: str, average_pooling: bool) -> None:
    """Refuse images whose last normalised map is empty, or under instance norm one pixel (it becomes 0)."""
    smallest = 8 if average_pooling else 1  # pooling rounds down, a stride of 2 with padding 1 rounds up
    if norm == "instance":
        remedy = f"enlarge the images, or use norm='batch' or 'group', which take {smallest} px and up"
        require_side(name, shape, 16 if average_pooling else 9, remedy)
    require_side(name, shape, smallest, CHOOSE_ANOTHER)


def resnet10(shape: Shape, num_classes: int, *, norm: ResNetNorm = "batch") -> ResNet:
    """Build IDC's small ResNet-10: widths 32 to 256, one block a group, weights from N(0, 2 / fan-out).

    `"Dataset Condensation via Efficient Synthetic-Data Parameterization" <https://arxiv.org/abs/2205.14959>`_
    (Kim et al., 2022). Arguments as :class:`ResNet`.
    """
    model = ResNet(shape, num_classes, blocks=(1, 1, 1, 1), width=32, norm=norm, name="resnet10")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet18(shape: Shape, num_classes: int, *, norm: ResNetNorm = "instance") -> ResNet:
    """Build ResNet-18 for small images: widths 64 to 512, two blocks a group. Args: see :class:`ResNet`.

    The mean over the last map equals the field's 4x4 average pooling on 28 px and 32 px images, and takes any
    size.
    """
    return ResNet(shape, num_classes, blocks=(2, 2, 2, 2), norm=norm, name="resnet18")


def resnet18_ap(shape: Shape, num_classes: int, *, norm: ResNetNorm = "instance") -> ResNet:
    """Build ResNet-18-AP: strides replaced by average pooling, no global pooling. Args: see :class:`ResNet`.

    Proposed with gradient matching (Zhao et al., 2021), whose gradients strided convolutions spoil.
    """
    return ResNet(shape, num_classes, blocks=(2, 2, 2, 2), norm=norm, average_pooling=True, name="resnet18_ap")


def resnet152(shape: Shape, num_classes: int, *, norm: ResNetNorm = "instance") -> ResNet:
    """Build ResNet-152 for small images: bottlenecks 3-8-36-3, 2048 features. Args: see :class:`ResNet`."""
    return ResNet(shape, num_classes, blocks=(3, 8, 36, 3), norm=norm, bottleneck=True, name="resnet152")
