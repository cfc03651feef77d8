"""What the augmentations made of named families share: constants, kernels, draws and checks."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ddkit.augment import transforms
from ddkit.augment.base import Augmentation, Draws, checked_group
from ddkit.base.ranges import Share, in_range
from ddkit.errors import ConfigError, DataError, unknown_name

FAMILIES = ("color", "crop", "cutout", "flip", "scale", "rotate")
"""The families of transforms, in the order in which the strategies of DSA's paper list them."""

_Strength = Annotated[float, Field(ge=0, le=100)]

SMALLEST_SIZE = 8
"""Images narrower than this many pixels are refused: the largest crop shift would be less than one pixel."""

# Channels sampled through one grid: more thrash the cache, fewer build more grids (measured, 2 CPU threads).
_PLANES_PER_BLOCK = 16
_LARGEST_PIXEL = 32.0  # no standardised set without negative pixels reaches this: the images are in [0, 255]
_STANDARD_DEVIATION = (0.3, 3.0)  # outside, images are hardly standardised once


class FamilyAugmentation(Augmentation):
    """Base of the augmentations whose strategy is a list of families; subclasses say how these combine.

    All ranges are in units of *preprocessed* pixels, whose standard deviation is about 1; what moves in from
    outside is zero, the mean colour of the dataset. Sampling aligns corners. Results are contiguous and do
    not depend on what else is in a batch. Every row of the draws takes one family index and the same number
    of uniforms, whatever the strategy.

    Args:
        strategy: families joined by the :attr:`separator`.
        flip_probability: probability of mirroring, where flip is applied.
        scale_ratio: scale factors are uniform in [1 / ratio, ratio], one per axis.
        rotate_degrees: angles are uniform in [-degrees, degrees].
        crop_ratio: shifts reach floor(ratio · size + 0.5) pixels, each axis.
        cutout_ratio: the hole measures floor(ratio · size + 0.5) pixels, each axis; its centre may lie on the
            border.
        brightness: offsets are uniform in [-brightness / 2, brightness / 2].
        saturation: factors are uniform in [0, saturation].
        contrast: factors are uniform in [contrast, contrast + 1].

    Raises:
        UnknownNameError: a family that does not exist.
        ConfigError: no family, a repeated one, or a constant out of its range.
    """

    kind: ClassVar[str]
    """What error messages call the augmentation."""
    separator: ClassVar[str]
    """The sign between the families of a strategy."""
    uniforms: ClassVar[int]
    """U, the number of uniforms in a row of the draws."""

    @in_range("augmentation")
    def __init__(
        self,
        strategy: str,
        *,
        flip_probability: Share = 0.5,
        scale_ratio: Annotated[float, Field(ge=1, le=10)] = 1.2,
        rotate_degrees: Annotated[float, Field(ge=0, le=180)] = 15.0,
        crop_ratio: Share = 0.125,
        cutout_ratio: Share = 0.5,
        brightness: _Strength = 1.0,
        saturation: _Strength = 2.0,
        contrast: _Strength = 0.5,
    ) -> None:
        self.families = _parse(strategy, self.separator)
        self.strategy = self.separator.join(self.families)
        self.flip_probability, self.scale_ratio, self.rotate_degrees = flip_probability, scale_ratio, rotate_degrees
        self.crop_ratio, self.cutout_ratio = crop_ratio, cutout_ratio
        self.brightness, self.saturation, self.contrast = brightness, saturation, contrast
        self._kernels: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "color": self._color,
            "crop": self._crop,
            "cutout": self._cutout,
            "flip": self._flip,
            "scale": self._scale,
            "rotate": self._rotate,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.strategy}')"

    @property
    @abstractmethod
    def drawn(self) -> tuple[str, ...]:
        """The listed families of which each row draws exactly one; may be empty."""

    @abstractmethod
    def _transform(self, blocks: Tensor, family: Tensor, uniform: Tensor) -> Tensor:
        """Transform blocks (B, M, C, H, W) with the rows ``family`` (B,), an index into :attr:`drawn`, and
        ``uniform`` (B, U) float64."""

    def draw(self, groups: int, generator: torch.Generator) -> Draws:
        """Draw one of the :attr:`drawn` families and U uniforms for each group."""
        family = torch.randint(max(1, len(self.drawn)), (groups,), generator=generator)
        return Draws(family, torch.rand(groups, self.uniforms, generator=generator))

    def draw_train(self, images: int, generator: torch.Generator) -> Draws:
        """Draw one of the :attr:`drawn` families for the whole mini-batch and U uniforms for each image."""
        family = torch.randint(max(1, len(self.drawn)), (1,), generator=generator).repeat(images)
        return Draws(family, torch.rand(images, self.uniforms, generator=generator))

    def apply(self, images: Tensor, draws: Draws, group: Tensor) -> Tensor:
        """Transform each image; every kernel runs at most once, float16 and bfloat16 are computed in float32."""
        _check_shape(images)
        group = checked_group(group, len(images), len(draws))
        if not len(images):
            return images
        self._check_draws(draws)
        length = _block_length(group, images.shape[1])
        row = group[::length]
        family, uniform = draws.family[row], draws.uniform[row].double()
        blocks = images.to(torch.promote_types(images.dtype, torch.float32)).contiguous()
        blocks = blocks.view(-1, length, *images.shape[1:])
        return self._transform(blocks, family, uniform).view(images.shape).to(images.dtype)

    def _check_draws(self, draws: Draws) -> None:
        choices = max(1, len(self.drawn))
        if int(draws.family.max()) >= choices or draws.uniform.shape[1] != self.uniforms:
            raise ConfigError(
                f"draws name family {int(draws.family.max())} with {draws.uniform.shape[1]} uniforms a row but "
                f"'{self.strategy}' draws among {choices} with {self.uniforms}: use draws of the same augmentation"
            )

    def _one_of(self, names: Sequence[str], blocks: Tensor, family: Tensor, uniform: Tensor) -> Tensor:
        """Apply to each block (B, M, C, H, W) the family ``names[family[b]]``, every kernel at most once."""
        results, members = [], []
        for number, name in enumerate(names):
            index = (family == number).nonzero().flatten()
            if len(index) == len(family):
                return self._kernels[name](blocks, uniform)
            if len(index):
                part = blocks.index_select(0, index.to(blocks.device))
                results.append(self._kernels[name](part, uniform[index]))
                members.append(index)
        if torch.is_grad_enabled() and blocks.requires_grad:
            position = torch.cat(members).argsort()
            return torch.cat(results).index_select(0, position.to(blocks.device))
        together = torch.empty_like(blocks)  # two copies less than with a graph
        for index, result in zip(members, results, strict=True):
            together.index_copy_(0, index.to(blocks.device), result)
        return together

    def check(
        self,
        images: Tensor,
        other: Tensor | None = None,
        class_names: Sequence[str] = (),
        whitened: bool = False,
    ) -> None:
        """Refuse images that are not preprocessed; warn about doubtful scaling and about flipping digits.

        Args and errors as :meth:`Augmentation.check`.
        """
        _check_shape(images)
        super().check(images, other, class_names, whitened)
        pixels = images.detach().float()
        if not bool(pixels.isfinite().all()):
            raise DataError("images hold NaN or infinite pixels: clean the data before augmenting it")
        low, high = float(pixels.min()), float(pixels.max())
        if low >= 0 and high > _LARGEST_PIXEL:
            raise DataError(
                f"pixels lie in [{low:g}, {high:g}]: augmentation expects unit variance; apply the preprocessing first"
            )
        deviation = pixels.std(dim=(0, 2, 3))
        if not whitened and bool(((deviation < _STANDARD_DEVIATION[0]) | (deviation > _STANDARD_DEVIATION[1])).any()):
            values = ", ".join(f"{value:.2g}" for value in deviation.tolist())
            warnings.warn(
                f"standard deviation per channel is {values}, far from 1, for which the augmentation's "
                "ranges are made: preprocess images exactly once",
                stacklevel=2,
            )
        if "flip" in self.families and class_names and all(str(name).strip().isdigit() for name in class_names):
            warnings.warn(
                "the class names are digits and the strategy mirrors images, which destroys label "
                "information when the images show digits: leave 'flip' out",
                stacklevel=2,
            )

    # Kernels: blocks (B, M, C, H, W) and uniforms (B, 1 to 3) in, transformed blocks out.

    def _color(self, blocks: Tensor, uniform: Tensor) -> Tensor:
        offset = (uniform[:, 0] - 0.5) * self.brightness
        return transforms.color(blocks, offset, uniform[:, 1] * self.saturation, uniform[:, 2] + self.contrast)

    def _crop(self, blocks: Tensor, uniform: Tensor) -> Tensor:
        reach = torch.tensor(_portion(blocks, self.crop_ratio))
        return transforms.crop(blocks, (uniform[:, :2] * (2 * reach + 1)).floor() - reach)

    def _cutout(self, blocks: Tensor, uniform: Tensor) -> Tensor:
        hole = _portion(blocks, self.cutout_ratio)
        size = torch.tensor(hole)
        # The centre is uniform on 0..size, on 0..size - 1 when the hole has an odd width.
        centres = torch.tensor(blocks.shape[-2:]) + 1 - size % 2
        start = (uniform[:, :2] * centres).floor().long() - size // 2
        return transforms.cutout(blocks, start, hole)

    def _flip(self, blocks: Tensor, uniform: Tensor) -> Tensor:
        return transforms.flip(blocks, uniform[:, 0] < self.flip_probability)

    def _scale(self, blocks: Tensor, uniform: Tensor) -> Tensor:
        smallest = 1 / self.scale_ratio
        factor = uniform[:, :2] * (self.scale_ratio - smallest) + smallest
        return transforms.affine(blocks, transforms.scale_matrix(factor))

    def _rotate(self, blocks: Tensor, uniform: Tensor) -> Tensor:
        angle = (uniform[:, 0] * 2 - 1) * math.radians(self.rotate_degrees)
        return transforms.affine(blocks, transforms.rotation_matrix(angle, *blocks.shape[-2:]))


def _parse(strategy: str, separator: str) -> tuple[str, ...]:
    families = tuple(strategy.lower().split(separator)) if strategy else ()
    if not families:
        raise ConfigError(
            f"augmentation '{strategy}' names no family: use 'none' or join some of {', '.join(FAMILIES)}"
        )
    for family in families:
        if family not in FAMILIES:
            raise unknown_name("augmentation family", family, FAMILIES)
    if len(set(families)) < len(families):
        raise ConfigError(
            f"augmentation '{strategy}' repeats a family, which would change the odds: name each family once"
        )
    return families


def _check_shape(images: Tensor) -> None:
    """Refuse what is not (N, C, H, W) floating with at least 8 pixels a side."""
    if images.ndim != 4 or not images.is_floating_point():
        raise DataError(
            f"augmentation got {images.dtype} images of shape {tuple(images.shape)}: it needs floating "
            "(N, C, H, W); apply the preprocessing first"
        )
    if min(images.shape[-2:]) < SMALLEST_SIZE:
        raise DataError(
            f"images of {images.shape[-2]}x{images.shape[-1]} pixels are too small to augment: at least "
            f"{SMALLEST_SIZE}x{SMALLEST_SIZE}; use augmentation 'none'"
        )


def _portion(blocks: Tensor, ratio: float) -> tuple[int, int]:
    """Return floor(ratio · size + 0.5) of height and width."""
    height, width = blocks.shape[-2:]
    return int(ratio * height + 0.5), int(ratio * width + 0.5)


def _block_length(group: Tensor, channels: int) -> int:
    """Return how many neighbours share a row everywhere: a divisor of every run in ``group``."""
    runs = torch.unique_consecutive(group, return_counts=True)[1]
    common = int(np.gcd.reduce(runs.numpy()))
    longest = max(1, _PLANES_PER_BLOCK // channels)
    return max(length for length in range(1, longest + 1) if common % length == 0)
