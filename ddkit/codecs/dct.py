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
from ddkit.codecs.base import Codec, Coded, Grid, number, raw_bytes, registry, shape_of
from ddkit.codecs.scaling import Resolution, enlarged, require_images, shrunk, smaller
from ddkit.errors import DAMAGED, ArtifactError

_MOST = 2**15 - 1


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
        block: B, sides of a block; 0 for whole images.
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
            ConfigError: values that are no images, or that the resolution leaves without a pixel.
        """
        require_images(values.shape, self.resolution, self.name)
        return _Frequencies(self, tuple(values.shape))

    @staticmethod
    def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
        """Return the images."""
        shape = shape_of(entry)
        step, slope = entry.get("step"), entry.get("slope")
        numbers = isinstance(step, float) and isinstance(slope, float) and 0 < step < math.inf and 0 <= slope < math.inf
        resolution = number(entry, "resolution", 1, 4)
        if not numbers or len(shape) != 4 or resolution == 3 or min(shape[2:]) < resolution:
            raise ArtifactError(f"cosine transforms of {shape} in steps of {str(step)[:20]} make no sense: {DAMAGED}")
        codec = DCT(step, slope, number(entry, "block", 0, 64), resolution)  # type: ignore[arg-type]
        layout = _Layout.of(codec, shape)
        planes = []
        for plane in ("low", "high"):
            data = raw_bytes(parts, plane)
            stream = entry.get(plane)
            if not isinstance(stream, Mapping):
                raise ArtifactError(f"cosine transforms lack their coder: {DAMAGED}")
            planes.append(lossless.decode(data, stream, layout.symbols, 8).int())
        return layout.images(_signed(planes[0] + 256 * planes[1]))


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
        self.block = (codec.block, codec.block) if codec.block else self.small
        self.blocks = tuple(-(-side // block) for side, block in zip(self.small, self.block, strict=True))
        down, across = (torch.arange(block, dtype=torch.float64) for block in self.block)
        far = max(1, sum(self.block) - 2)
        steps = codec.step * (1 + codec.slope * (down[:, None] + across[None]) / far)
        coarse = torch.tensor([1.0, 2.0, 2.0] if channels == 3 else [1.0] * channels, dtype=torch.float64)
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
        found = numbers.double().reshape(high, wide, channels, count, rows, columns).permute(3, 2, 4, 5, 0, 1)
        found = found * self.steps[None, :, None, None]
        blocks = torch.einsum("uh,ncrkuv,vw->ncrhkw", _cosines(high), found, _cosines(wide))
        images = blocks.reshape(count, channels, rows * high, columns * wide)[:, :, : self.small[0], : self.small[1]]
        if channels == 3:
            images = torch.einsum("dc,ndhw->nchw", _opponents(), images)
        return enlarged(images, self.shape)


def _signed(unsigned: Tensor) -> Tensor:
    return torch.where(unsigned % 2 == 1, (unsigned + 1) // 2, -(unsigned // 2))


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
