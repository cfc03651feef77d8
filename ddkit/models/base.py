"""What every network of ddkit offers (stages, features, a classifier), and the layers that several share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import torch.nn as nn
from torch import Tensor

from ddkit.errors import ConfigError, unknown_name

Shape: TypeAlias = tuple[int, int, int]
"""Channels, height and width of one image, in pixels."""

ChannelNorm: TypeAlias = Literal["instance", "batch", "group", "none"]
Norm: TypeAlias = Literal["instance", "batch", "layer", "group", "none"]
Activation: TypeAlias = Literal["relu", "sigmoid", "leaky", "swish"]
Pooling: TypeAlias = Literal["avg", "max", "none"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "leaky": nn.LeakyReLU,
    "swish": nn.SiLU,
}
POOLINGS: dict[str, type[nn.Module]] = {"avg": nn.AvgPool2d, "max": nn.MaxPool2d}
NORM_GROUPS = 4
"""Number of groups of ``norm="group"``, the GN variant of the field's ablations."""


class FeatureModel(nn.Module):
    """A chain of stages followed by a classifier: f(x) = classifier(features(x)).

    A stage ends where a method may look at the activations: pooling opens the following stage, so that the
    output of a convolutional stage is what its activation returned, and the last stage yields what the
    classifier reads.

    Args:
        stages: the feature extractor; the output of the last one, flattened, feeds ``classifier``.
        classifier: maps (N, D) features to (N, K) logits.
    """

    def __init__(self, stages: Iterable[nn.Module], classifier: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.classifier = classifier

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """Return the output of every stage for images ``x`` (N, C, H, W), in order.

        Returns:
            One tensor a stage: (N, C', H', W') for a convolutional stage, (N, D') for a linear one.
        """
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def features(self, x: Tensor) -> Tensor:
        """Return the flattened input of the classifier, (N, D), for images ``x`` (N, C, H, W)."""
        for stage in self.stages:
            x = stage(x)
        return x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K) of images ``x`` (N, C, H, W)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits


def weights_by_name(module: nn.Module, flat: Tensor) -> dict[str, Tensor]:
    """Return views of a flat weight vector as the parameters of ``module``, for ``torch.func.functional_call``.

    Args:
        module: gives names and shapes; its own weights are not read.
        flat: (P,), the parameters in the order of ``module.parameters()``, each row-major.
    """
    like = dict(module.named_parameters())
    parts = flat.split([parameter.numel() for parameter in like.values()])
    return {name: part.view(like[name].shape) for name, part in zip(like, parts, strict=True)}


def channel_norm(norm: str, channels: int) -> nn.Module:
    """Return a normalisation layer for ``channels`` feature maps of any size.

    ``instance`` is a GroupNorm with one channel per group and learned scale and shift, as in the field's
    ConvNet.

    Args:
        norm: ``instance``, ``batch``, ``group`` (four groups) or ``none``.
        channels: number of feature maps.

    Raises:
        ConfigError: an unknown norm, or channels that four groups do not divide.
    """
    if norm == "instance":
        return nn.GroupNorm(channels, channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "none":
        return nn.Identity()
    if norm != "group":
        raise unknown_name("norm", norm, ("instance", "batch", "group", "none"))
    if channels % NORM_GROUPS:
        raise ConfigError(
            f"norm 'group' splits channels into {NORM_GROUPS} groups and cannot split {channels}: "
            f"use a width that is a multiple of {NORM_GROUPS}"
        )
    return nn.GroupNorm(NORM_GROUPS, channels)


def activation_layer(activation: str) -> nn.Module:
    """Return a ``relu``, ``sigmoid``, ``leaky`` (slope 0.01) or ``swish`` layer; none works in place."""
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)
    return ACTIVATIONS[activation]()


def pooling_layer(pooling: str) -> nn.Module:
    """Return a 2x2 pooling layer of stride 2: ``avg`` or ``max``; ``none`` gives the identity."""
    if pooling == "none":
        return nn.Identity()
    if pooling not in POOLINGS:
        raise unknown_name("pooling", pooling, (*POOLINGS, "none"))
    return POOLINGS[pooling](2)


CHOOSE_ANOTHER = "enlarge the images or choose 'convnet', which takes 2x2 px and up"
"""The remedy of a network that has no option with which it would take smaller images."""


def is_grey_28(shape: Shape) -> bool:
    """Say whether images are 1x28x28 (MNIST), which the first layer pads to 32 px.

    The program of the field pads every grey image by as much, papers say nothing of it. Here others keep their size:
    8x8 digits would be padded by half as much again. On held-out digits, ten random real images per class, it gives
    95.4 +- 0.2 % that way, 93.9 +- 0.7 % this way (``benchmarks/deviations.py``).
    """
    return tuple(shape) == (1, 28, 28)


def require_side(model: str, shape: Shape, minimum: int, remedy: str) -> None:
    """Refuse images whose shorter side is below ``minimum`` pixels."""
    channels, height, width = shape
    if min(height, width) < minimum:
        raise ConfigError(
            f"{model} cannot take {channels}x{height}x{width} images: "
            f"height and width must be at least {minimum} px; {remedy}"
        )


def uses_batch_norm(model: nn.Module) -> bool:
    """Say whether ``model`` contains batch normalisation, whose statistics couple the images of a batch."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    return any(isinstance(module, kinds) for module in model.modules())
