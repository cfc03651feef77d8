"""Equal steps between a low and a high end, for groups of numbers that share them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from ddkit.base.ranges import Count
from ddkit.codecs import lossless
from ddkit.codecs.base import Codec, Coded, Grid, as_half, number, only, part, raw_bytes, registry, shape_of
from ddkit.codecs.scaling import Resolution, enlarged, require_images, shrunk, smaller
from ddkit.errors import DAMAGED, ArtifactError, ConfigError

Group = Literal["channel", "image", "patch"]

Bits = Annotated[int, Field(ge=1, le=8)]

#: Shares of the range that are tried as clipped range of a group.
#: Ranges that all images share are fitted to images with about so many numbers, evenly spaced over the set.
_SAMPLE = 2**18
_CLIPS = [1 - number / 21 for number in range(20)]


@registry.register("uniform")
class Uniform(Codec):
    r"""Symbols of a few bits between a low end and a step that a group of numbers shares.

    .. math:: q = \mathrm{clip}(\mathrm{round}((x - l_g) / s_g), 0, 2^b - 1), \qquad x' = l_g + q \, s_g

    Low end and step are kept in float16 and rounded before the symbols are computed, so that |x - x'| is at most half a
    step inside the range. The range of every group is clipped where that makes the squared error smaller, as few bits
    over the full range are mostly spent on its ends: 20 shares of it are tried around its middle and around the mean;
    of equal ones the widest is taken.

    Args:
        bits: b, 1 to 8.
        group: numbers that share a range: a ``channel`` of all images, a channel of every ``image``, or the same
            ``patch`` of all images and of one channel.
        patch: sides of a patch, in pixels.
        resolution: images are shrunk by this factor first, and enlarged bilinearly when decoded.
        coder: of the symbols, see :mod:`ddkit.codecs.lossless`; ``auto`` for the smallest.

    Raises:
        ConfigError: an option out of range.
    """

    name = "uniform"

    def __init__(
        self,
        bits: Bits = 8,
        group: Group = "channel",
        patch: Count = 4,
        resolution: Resolution = 1,
        coder: str = "auto",
    ) -> None:
        self.bits, self.group, self.patch, self.resolution, self.coder = bits, group, patch, resolution, coder

    def fit(self, values: Tensor) -> Grid:
        """Choose low end and step of every group.

        Raises:
            ConfigError: numbers whose range float16 cannot hold, or no images to shrink.
        """
        full = tuple(values.shape)
        if self.resolution > 1:
            require_images(full, self.resolution, self.name)
            values = shrunk(values, self.resolution)
        shape = tuple(values.shape)
        sizes = _groups(shape, self.group, self.patch)
        index = _index(shape, sizes, self.patch)
        every = 1 if self.group == "image" else max(1, values.numel() // _SAMPLE)
        low, step = _ranges(values[::every], index[::every], math.prod(sizes), 2**self.bits - 1)
        return _Steps(self, full, low.reshape(sizes), step.reshape(sizes), index)

    @staticmethod
    def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
        """Return low ends plus steps."""
        full, bits, resolution = shape_of(entry), number(entry, "bits", 1, 8), entry.get("resolution", 1)
        if resolution not in (1, 2, 4) or (resolution > 1 and (len(full) != 4 or min(full[2:]) < resolution)):
            raise ArtifactError(f"{full} cannot be kept at 1/{str(resolution)[:20]} of the resolution: {DAMAGED}")
        shape = smaller(full, resolution) if resolution > 1 else full
        group, patch = entry.get("group"), number(entry, "patch", 1, 2**20)
        if group not in ("channel", "image", "patch"):
            raise ArtifactError(f"numbers are grouped by {str(group)[:40]!r}: {DAMAGED}")
        only(parts, "symbols", "low", "step")
        sizes = _groups(shape, group, patch)
        low, step = (part(parts, name, torch.float16, sizes).float() for name in ("low", "step"))
        if not bool((step >= 0).all()):
            raise ArtifactError(f"a step is negative: {DAMAGED}")
        symbols = lossless.decode(raw_bytes(parts, "symbols"), entry, shape, bits)
        index = _index(shape, sizes, patch)
        values = _values(symbols, low.flatten()[index], step.flatten()[index])
        return values if resolution == 1 else enlarged(values.double(), full)


class _Steps(Grid):
    def __init__(self, codec: Uniform, shape: tuple[int, ...], low: Tensor, step: Tensor, index: Tensor) -> None:
        self.codec, self.shape, self.low, self.step = codec, shape, low, step
        self._low, self._step = low.float().flatten()[index], step.float().flatten()[index]

    def symbols(self, values: Tensor) -> Tensor:
        values = shrunk(values, self.codec.resolution)
        steps = torch.where(self._step > 0, (values - self._low) / self._step, 0.0)
        return steps.round().clamp(0, 2**self.codec.bits - 1).to(torch.uint8)

    def rounded(self, values: Tensor) -> Tensor:
        values = _values(self.symbols(values), self._low, self._step)
        return values if self.codec.resolution == 1 else enlarged(values.double(), self.shape)

    def clipped(self, values: Tensor) -> Tensor:
        if self.codec.resolution > 1:
            return values
        half, most = self._step / 2, 2**self.codec.bits - 1
        return torch.minimum(torch.maximum(values, self._low - half), self._low + most * self._step + half)

    def encode(self, values: Tensor) -> Coded:
        codec = self.codec
        stream = lossless.encode(self.symbols(values), codec.bits, codec.coder)
        entry = {"bits": codec.bits, "group": codec.group, "patch": codec.patch, **stream.entry()}
        if codec.resolution > 1:
            entry["resolution"] = codec.resolution
        return Coded(entry, {"symbols": stream.tensor(), "low": self.low, "step": self.step})


def _values(symbols: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """Two rounded operations, not one fused: the same bits everywhere."""
    return symbols.float().mul_(step).add_(low)


def _groups(shape: tuple[int, ...], group: Group, patch: int) -> tuple[int, ...]:
    """Return the shape of low ends and steps: images, channels, and patches down and across."""
    channels = shape[1] if len(shape) > 1 else 1
    if group == "image":
        return (shape[0], channels)
    if group == "patch" and len(shape) == 4:
        return (1, channels, -(-shape[2] // patch), -(-shape[3] // patch))
    return (1, channels)


def _index(shape: tuple[int, ...], sizes: tuple[int, ...], patch: int) -> Tensor:
    """Return the number of the group of every value, in as few dimensions as broadcast to ``shape``."""
    numbers = torch.arange(math.prod(sizes)).reshape(sizes)
    if len(sizes) == 4:
        return numbers[:, :, torch.arange(shape[2]) // patch][..., torch.arange(shape[3]) // patch]
    return numbers[:, 0] if len(shape) == 1 else numbers.reshape(*sizes, *(1 for _ in shape[2:]))


def _ranges(values: Tensor, index: Tensor, count: int, most: int) -> tuple[Tensor, Tensor]:
    """Return low end and step of every group in float16: the clipped range with the smallest squared error."""
    flat, groups = values.flatten().double(), index.expand(values.shape).flatten()
    lowest, highest = (
        torch.zeros(count, dtype=torch.float64).scatter_reduce(0, groups, flat, how, include_self=False)
        for how in ("amin", "amax")
    )
    half = (highest - lowest) / 2
    sizes = torch.bincount(groups, minlength=count)
    centres = [(lowest + highest) / 2, torch.zeros(count, dtype=torch.float64).index_add_(0, groups, flat) / sizes]
    best = torch.full((count,), math.inf, dtype=torch.float64)
    low, step = torch.zeros(count, dtype=torch.float16), torch.zeros(count, dtype=torch.float16)
    for clip, centre in itertools.product(_CLIPS, centres):
        reach = clip * torch.maximum(highest - centre, centre - lowest)
        tried_low = as_half((centre - reach).float(), "the low ends of a tensor")
        tried_step = as_half((2 * reach / most).float(), "the steps of a tensor")
        own_low, own_step = tried_low.double()[groups], tried_step.double()[groups]
        symbols = torch.where(own_step > 0, (flat - own_low) / own_step, 0.0).round().clamp(0, most)
        missed = (own_low + symbols * own_step - flat).square()
        error = torch.zeros(count, dtype=torch.float64).index_add_(0, groups, missed)
        better = error < best
        best = torch.where(better, error, best)
        low, step = torch.where(better, tried_low, low), torch.where(better, tried_step, step)
    flat_groups = (step == 0) & (half > 0)
    if bool(flat_groups.any()):
        raise ConfigError(
            f"numbers between {float(lowest[flat_groups][0]):.4g} and {float(highest[flat_groups][0]):.4g} lie closer "
            f"together than steps of float16 can tell: use codec float32"
        )
    return low, step
