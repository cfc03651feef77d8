"""Cosine transforms of images, rounded coarsely where images hold little: for those that behave like photographs."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from ddkit.base.ranges import Rate, Weight
from ddkit.codecs import lossless
from ddkit.codecs.base import Codec, Coded, Grid, number, only, raw_bytes, registry, shape_of
from ddkit.codecs.scaling import Resolution, enlarged, shrunk, smaller
from ddkit.errors import DAMAGED, ArtifactError, ConfigError

_MOST = 2**15 - 1
#: Longest side of an image that is transformed as one block.
_WHOLE = 256
#: Numbers that are transformed at once.
_AT_ONCE = 2**22


@registry.register("dct")
class DCT(Codec):
    r"""Whole numbers of steps in the cosine transform of blocks, with channels decorrelated and sides halved if asked.

    .. math::
        q_{uv} = \mathrm{round}\big( (D x D^\top)_{uv} / s_{uv} \big), \qquad
        s_{uv} = s \, \big( 1 + \lambda \tfrac{u + v}{2 (B - 1)} \big)

    Coefficients of one frequency lie side by side over all blocks and images, where most are 0. Three channels go
    through an orthonormal opponent transform, whose two colour channels have twice the step.

    Args:
        step: s, in units of the preprocessed images, whose channels have a standard deviation of about 1.
        slope: :math:`\lambda`, how much coarser the highest frequency is.
        block: B, longest sides of a block: images are split evenly; 0 for whole images.
        resolution: images are shrunk by this factor first, and enlarged bilinearly when decoded.
        coder: of the symbols, see :mod:`ddkit.codecs.lossless`.

    Raises:
        ConfigError: an option out of range.
    """

    name = "dct"

    def __init__(
        self,
        step: Rate = 0.5,
        slope: Weight = 2.0,
        block: Annotated[int, Field(ge=0, le=64)] = 8,
        resolution: Resolution = 1,
        coder: str = "auto",
    ) -> None:
        self.step, self.slope, self.block, self.resolution, self.coder = step, slope, block, resolution, coder

    def fit(self, values: Tensor) -> Grid:
        """Refuse what has no two sides.

        Raises:
            ConfigError: values that are no images, that are too large, or that the resolution leaves without a pixel.
        """
        if not self.holds(tuple(values.shape)):
            raise ConfigError(
                f"codec dct at 1/{self.resolution} of the resolution is for images of up to {_AT_ONCE:,} numbers, and "
                f"{_WHOLE} pixels a side in one block, not for a tensor of {tuple(values.shape)}: use uniform"
            )
        return _Frequencies(self, tuple(values.shape))

    def holds(self, shape: tuple[int, ...]) -> bool:
        """Whether tensors of this shape can be coded, and decoded in bounded memory and time."""
        if len(shape) != 4 or math.prod(shape[1:]) > _AT_ONCE or min(shape[2:]) < self.resolution:
            return False
        return bool(self.block) or max(shape[2:]) <= _WHOLE * self.resolution

    @staticmethod
    def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
        """Return the images."""
        shape = shape_of(entry)
        step, slope = entry.get("step"), entry.get("slope")
        numbers = isinstance(step, float) and isinstance(slope, float) and 0 < step < math.inf and 0 <= slope < math.inf
        resolution = number(entry, "resolution", 1, 4)
        block = number(entry, "block", 0, 64)
        codec = DCT(step, slope, block, resolution) if numbers and resolution != 3 else None  # type: ignore[arg-type]
        if codec is None or not codec.holds(shape):
            raise ArtifactError(f"cosine transforms of {shape} in steps of {str(step)[:20]} make no sense: {DAMAGED}")
        only(parts, "low", "high")
        layout = _Layout.of(codec, shape)
        planes = []
        for plane in ("low", "high"):
            data = raw_bytes(parts, plane)
            stream = entry.get(plane)
            if not isinstance(stream, Mapping):
                raise ArtifactError(f"cosine transforms lack their coder: {DAMAGED}")
            planes.append(lossless.decode(data, stream, layout.symbols, 8))
        low, high = planes
        if bool(((low == 255) & (high == 255)).any()):
            raise ArtifactError(f"a symbol is above {2 * _MOST}, the largest of cosine transforms: {DAMAGED}")
        return layout.images(_signed(low, high))


class _Frequencies(Grid):
    def __init__(self, codec: DCT, shape: tuple[int, ...]) -> None:
        self.codec, self.layout = codec, _Layout.of(codec, shape)

    def rounded(self, values: Tensor) -> Tensor:
        return self.layout.images(self.layout.numbers(values))

    def encode(self, values: Tensor) -> Coded:
        codec, numbers = self.codec, self.layout.numbers(values)
        unsigned = torch.where(numbers > 0, 2 * numbers - 1, -2 * numbers)
        parts: dict[str, Tensor] = {}
        entry: dict[str, Any] = {name: getattr(codec, name) for name in ("step", "slope", "block", "resolution")}
        for plane, symbols in (("low", unsigned % 256), ("high", unsigned // 256)):
            stream = lossless.encode(symbols.to(torch.uint8), 8, codec.coder)
            parts[plane] = stream.tensor()
            entry[plane] = stream.entry()
        return Coded(entry, parts)


class _Layout:
    """Where the coefficients of images of one shape lie, and their steps.

    Args:
        codec: the options.
        shape: (N, C, H, W).
    """

    def __init__(self, codec: DCT, shape: tuple[int, ...]) -> None:
        count, channels = shape[:2]
        self.shape, self.factor = shape, codec.resolution
        self.small = smaller(shape, codec.resolution)[2:]
        self.block = tuple(-(-side // -(-side // (codec.block or side))) for side in self.small)
        self.blocks = tuple(-(-side // block) for side, block in zip(self.small, self.block, strict=True))
        down, across = (torch.arange(block, dtype=torch.float64) for block in self.block)
        far = max(1, sum(self.block) - 2)
        steps = codec.step * (1 + codec.slope * (down[:, None] + across[None]) / far)
        coarse = torch.ones(channels, dtype=torch.float64)
        if channels == 3:
            coarse[1:] = 2
        self.steps = coarse[:, None, None] * steps
        #: Frequencies first, then images and blocks.
        self.symbols = (self.block[0] * self.block[1] * channels, count * self.blocks[0] * self.blocks[1])

    @classmethod
    def of(cls, codec: DCT, shape: tuple[int, ...]) -> _Layout:
        return cls(codec, shape)

    def numbers(self, values: Tensor) -> Tensor:
        """Return whole numbers of steps (frequencies, blocks)."""
        images = shrunk(values.double(), self.factor)
        if self.shape[1] == 3:
            images = torch.einsum("dc,nchw->ndhw", _opponents(), images)
        (high, wide), (rows, columns) = self.block, self.blocks
        padded = F.pad(images, (0, columns * wide - self.small[1], 0, rows * high - self.small[0]), mode="replicate")
        blocks = padded.unflatten(3, (columns, wide)).unflatten(2, (rows, high))  # N C r h c w
        found = torch.einsum("uh,ncrhkw,vw->ncrkuv", _cosines(high), blocks, _cosines(wide))
        numbers = (found / self.steps[None, :, None, None]).round().clamp(-_MOST, _MOST).int()
        return numbers.permute(4, 5, 1, 0, 2, 3).reshape(self.symbols)

    def images(self, numbers: Tensor) -> Tensor:
        """Return the images of such numbers."""
        (high, wide), (rows, columns), (count, channels) = self.block, self.blocks, self.shape[:2]
        found = numbers.reshape(high, wide, channels, count, rows, columns).permute(3, 2, 4, 5, 0, 1)
        few = _AT_ONCE // math.prod(self.shape[1:])
        return torch.cat([self._few_images(some) for some in found.split(few)])

    def _few_images(self, numbers: Tensor) -> Tensor:
        """Return images of such numbers (images, channels, blocks down and across, frequencies down and across)."""
        (high, wide), (rows, columns), (count, channels) = self.block, self.blocks, numbers.shape[:2]
        found = numbers.double() * self.steps[None, :, None, None]
        blocks = torch.einsum("uh,ncrkuv,vw->ncrhkw", _cosines(high), found, _cosines(wide))
        images = blocks.reshape(count, channels, rows * high, columns * wide)[:, :, : self.small[0], : self.small[1]]
        if channels == 3:
            images = torch.einsum("dc,ndhw->nchw", _opponents(), images)
        return enlarged(images, self.shape)


def _signed(low: Tensor, high: Tensor) -> Tensor:
    """Return signed numbers in int16: odd ones are positive."""
    half = high.to(torch.int16) * 128 + (low // 2)
    return torch.where(low % 2 == 1, half + 1, -half)


@functools.cache
def _cosines(size: int) -> Tensor:
    """Return the orthonormal cosine transform (frequencies, positions)."""
    place = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * (place[None] + 0.5) * place[:, None]) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix


@functools.cache
def _opponents() -> Tensor:
    """Return the orthonormal transform to brightness, red against blue, and green against both."""
    rows = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]], dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)
