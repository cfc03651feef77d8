"""What is the ConvNet that the field distils with and evaluates on."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch.nn as nn

from ddkit.base.ranges import Count
from ddkit.errors import ConfigError, unknown_name
from ddkit.models.base import (
    Activation,
    FeatureModel,
    Norm,
    Pooling,
    Shape,
    activation_layer,
    channel_norm,
    is_grey_28,
    pooling_layer,
    require_side,
)

NormPosition: TypeAlias = Literal["after", "before"]

_SMALLEST_MAP = 2
"""Pixels of the last normalised map: instance norm of a single pixel is zero, and it could not be pooled."""


def default_depth(shape: Shape) -> int:
    """Return the usual ConvNet depth for images of ``shape`` (C, H, W), by their shorter side.

    1 below 8 px, 2 below 16, 3 below 64 (MNIST, CIFAR), 4 below 128 (Tiny ImageNet), 5 below 256, else 6.
    """
    side = min(shape[1:])
    return 1 + sum(side >= limit for limit in (8, 16, 64, 128, 256))


class ConvNet(FeatureModel):
    r"""D blocks of 3x3 convolution, norm, activation and 2x2 pooling, then one linear layer.

    The network of `"Dataset Condensation with Gradient Matching" <https://arxiv.org/abs/2006.05929>`_ (Zhao
    et al., 2021), after Gidaris and Komodakis, 2018. ``feature_maps`` returns D + 1 tensors: the activations
    of every block before its pooling, then the pooled output of the last block, whose flattening is
    ``features``.

    Args:
        shape: channels, height, width of the images. Images of 1x28x28 are padded to 32 px by the first
            layer.
        num_classes: number K of logits.
        depth: number D of blocks; None chooses it by the image size (:func:`default_depth`).
        width: channels of the first block.
        growth: factor from the channels of one block to those of the next; 2 with ``norm_position="before"`` is the
            network of FRePo (Zhou et al., 2022, arXiv 2206.00719).
        norm: ``instance`` (the field's choice), ``batch``, ``layer`` (over channels, height and width),
            ``group`` (four groups) or ``none``.
        activation: ``relu``, ``sigmoid``, ``leaky`` (slope 0.01) or ``swish``.
        pooling: ``avg``, ``max`` or ``none`` (maps keep the image's size).
        norm_position: ``after`` every convolution, or ``before`` every one but the first: what is normalised then is
            the pooled output of the block before.

    Shapes:
        - input: (N, C, H, W); output: (N, K).
        - features: (N, width * growth^(D - 1) * H' * W') with H' = H / 2^D rounded down at every block (H without
          pooling).

    Raises:
        ConfigError: an option out of range, or a depth at which the last normalised map is below 2x2 px.
    """

    def __init__(
        self,
        shape: Shape,
        num_classes: int,
        *,
        depth: Count | None = None,
        width: Count = 128,
        norm: Norm = "instance",
        activation: Activation = "relu",
        pooling: Pooling = "avg",
        growth: Count = 1,
        norm_position: NormPosition = "after",
    ) -> None:
        depth = default_depth(shape) if depth is None else depth
        if norm_position not in get_args(NormPosition):
            raise unknown_name("norm_position", norm_position, get_args(NormPosition))
        first_padding = 3 if is_grey_28(shape) else 1
        channels, *sides = shape
        sides = [side + 2 * (first_padding - 1) for side in sides]
        _require_depth(shape, sides, depth, pooling)
        stages: list[nn.Module] = []
        for block in range(depth):
            layers: list[nn.Module] = []
            if block > 0 and pooling != "none":
                layers.append(pooling_layer(pooling))
                sides = [side // 2 for side in sides]
            if block > 0 and norm_position == "before":
                layers.append(_norm_layer(norm, channels, sides))
            wider = width * growth**block
            layers.append(nn.Conv2d(channels, wider, 3, padding=first_padding if block == 0 else 1))
            if norm_position == "after":
                layers.append(_norm_layer(norm, wider, sides))
            layers.append(activation_layer(activation))
            stages.append(nn.Sequential(*layers))
            channels = wider
        stages.append(pooling_layer(pooling))
        if pooling != "none":
            sides = [side // 2 for side in sides]
        super().__init__(stages, nn.Linear(channels * sides[0] * sides[1], num_classes))


def _norm_layer(norm: str, channels: int, sides: list[int]) -> nn.Module:
    if norm == "layer":
        return nn.LayerNorm([channels, *sides])
    return channel_norm(norm, channels)


def _require_depth(shape: Shape, sides: list[int], depth: int, pooling: str) -> None:
    """Refuse a ``depth`` whose last normalised map is below 2 px on images padded to ``sides``."""
    side = min(sides)
    if pooling == "none" or side < _SMALLEST_MAP:
        require_side("convnet", shape, _SMALLEST_MAP, "enlarge the images")
        return
    if side >> (depth - 1) < _SMALLEST_MAP:
        deepest = side.bit_length() - 1
        name = "x".join(str(length) for length in shape)
        raise ConfigError(
            f"convnet of depth {depth} cannot take {name} images: height and width must be at least "
            f"{2**depth} px at this depth; use depth {deepest} or less, or pooling='none'"
        )
