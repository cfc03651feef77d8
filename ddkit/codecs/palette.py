"""A few colours that all images share: one symbol a pixel instead of one a channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from ddkit.codecs import lossless
from ddkit.codecs.base import Codec, Coded, Grid, as_half, number, only, part, raw_bytes, registry, shape_of
from ddkit.errors import DAMAGED, ArtifactError, ConfigError

#: Rounds of Lloyd's algorithm, and pixels at the most from which colours are found.
_ROUNDS, _PIXELS = 25, 2**16


@registry.register("palette")
class Palette(Codec):
    """The nearest of P colours for every pixel; colours are those of k-means over the pixels of all images.

    The colours, in float16, are part of the bytes. K-means starts at the pixel nearest to the mean colour and goes on
    to the pixel farthest from all colours chosen so far, so that equal images give equal bytes.

    Args:
        colours: P, 2 to 256; symbols have the fewest bits that tell them apart.
        coder: of the symbols, see :mod:`ddkit.codecs.lossless`.

    Raises:
        ConfigError: an option out of range.
    """

    name = "palette"

    def __init__(self, colours: Annotated[int, Field(ge=2, le=256)] = 16, coder: str = "auto") -> None:
        self.colours, self.coder = colours, coder

    def fit(self, values: Tensor) -> Grid:
        """Find the colours.

        Raises:
            ConfigError: values that are no images of two or more channels.
        """
        if values.ndim != 4 or values.shape[1] < 2:
            raise ConfigError(
                f"codec palette is for images of several channels, not for a tensor of {tuple(values.shape)}: use "
                f"uniform"
            )
        pixels = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
        stride = -(-len(pixels) // _PIXELS)
        return _Colours(self, as_half(_k_means(pixels[::stride].double(), self.colours).float(), "the colours"))

    @staticmethod
    def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
        """Return the colour of every symbol."""
        shape, bits = shape_of(entry), number(entry, "bits", 1, 8)
        if len(shape) != 4:
            raise ArtifactError(f"a palette colours images, not a tensor of {shape}: {DAMAGED}")
        only(parts, "symbols", "palette")
        palette = part(parts, "palette", torch.float16)
        if palette.ndim != 2 or palette.shape[1] != shape[1] or not 2 <= len(palette) <= 2**bits:
            raise ArtifactError(
                f"a palette of {tuple(palette.shape)} does not colour {shape} by {bits} bits: {DAMAGED}"
            )
        small = (shape[0], 1, *shape[2:])
        symbols = lossless.decode(raw_bytes(parts, "symbols"), entry, small, bits)
        if int(symbols.max()) >= len(palette):
            raise ArtifactError(f"a symbol of {int(symbols.max())} is none of {len(palette)} colours: {DAMAGED}")
        return _coloured(symbols, palette)


class _Colours(Grid):
    def __init__(self, codec: Palette, palette: Tensor) -> None:
        self.codec, self.palette = codec, palette

    def symbols(self, values: Tensor) -> Tensor:
        pixels = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
        nearest = _nearest(pixels.double(), self.palette.double())[0]
        return nearest.to(torch.uint8).reshape(len(values), 1, *values.shape[2:])

    def rounded(self, values: Tensor) -> Tensor:
        return _coloured(self.symbols(values), self.palette)

    def encode(self, values: Tensor) -> Coded:
        bits = max(1, (len(self.palette) - 1).bit_length())
        stream = lossless.encode(self.symbols(values), bits, self.codec.coder)
        return Coded({"bits": bits, **stream.entry()}, {"symbols": stream.tensor(), "palette": self.palette})


def _coloured(symbols: Tensor, palette: Tensor) -> Tensor:
    return palette.float()[symbols[:, 0].long()].permute(0, 3, 1, 2).contiguous()


def _nearest(pixels: Tensor, palette: Tensor) -> tuple[Tensor, Tensor]:
    """Return the nearest colour of every pixel and its squared distance."""
    found, far = [], []
    for chunk in pixels.split(2**14):
        distance = (chunk[:, None] - palette[None]).square().sum(2)
        least = distance.min(1)
        found.append(least.indices)
        far.append(least.values)
    return torch.cat(found), torch.cat(far)


def _k_means(pixels: Tensor, count: int) -> Tensor:
    mean = pixels.mean(0)
    palette = pixels[(pixels - mean).square().sum(1).argmin()][None]
    distance = (pixels - palette[0]).square().sum(1)
    while len(palette) < count and float(distance.max()) > 0:
        palette = torch.cat([palette, pixels[distance.argmax()][None]])
        distance = torch.minimum(distance, (pixels - palette[-1]).square().sum(1))
    for _ in range(_ROUNDS):
        owner, _ = _nearest(pixels, palette)
        sums = torch.zeros_like(palette).index_add_(0, owner, pixels)
        sizes = torch.bincount(owner, minlength=len(palette))
        palette = torch.where(sizes[:, None] > 0, sums / sizes.clamp(min=1)[:, None], palette)
    return palette if len(palette) > 1 else palette.repeat(2, 1)
