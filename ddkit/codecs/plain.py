"""Numbers as they are, or in half of the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddkit.codecs.base import Codec, Coded, Grid, as_half, only, part, registry, shape_of


@registry.register("float32")
class Float32(Codec):
    """Today's form: four bytes a number, nothing is lost."""

    name = "float32"

    def fit(self, values: Tensor) -> Grid:
        """Nothing is fitted."""
        return _Plain(torch.float32)

    @staticmethod
    def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers."""
        only(parts, "values")
        return part(parts, "values", torch.float32, shape_of(entry))


@registry.register("float16")
class Float16(Codec):
    """Two bytes a number: relative error up to 2^-11 between 6e-5 and 65504, absolute up to 3e-8 below.

    For weights of decoders, codes and addressing matrices, which few bits would change too much.
    """

    name = "float16"

    def fit(self, values: Tensor) -> Grid:
        """Refuse what float16 cannot hold.

        Raises:
            ConfigError: naming the largest number.
        """
        as_half(values, "the numbers of a tensor")
        return _Plain(torch.float16)

    @staticmethod
    def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers in float32."""
        only(parts, "values")
        return part(parts, "values", torch.float16, shape_of(entry)).float()


class _Plain(Grid):
    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def rounded(self, values: Tensor) -> Tensor:
        return values.to(self.dtype).float()

    def encode(self, values: Tensor) -> Coded:
        return Coded({}, {"values": values.to(self.dtype)})
