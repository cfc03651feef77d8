"""Stored tensors in few bytes: quantisers, transforms and the smallest lossless form of their symbols."""

from ddkit.codecs.base import Codec, Coded, Grid, decode, encode, registry
from ddkit.codecs.dct import DCT
from ddkit.codecs.palette import Palette
from ddkit.codecs.plain import Float16, Float32
from ddkit.codecs.uniform import Uniform

__all__ = ["DCT", "Codec", "Coded", "Float16", "Float32", "Grid", "Palette", "Uniform", "decode", "encode", "registry"]
