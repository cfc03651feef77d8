"""The stored tensors of a set in few bytes: which codec each of them gets, and what a file keeps of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddkit.base.config import piece_from_text
from ddkit.codecs.base import Codec, Coded, Grid, decode, encode, registry, shape_of
from ddkit.codecs.labels import decode_labels, encode_labels
from ddkit.codecs.plain import Float16
from ddkit.data.distilled.budget import LABELS
from ddkit.data.distilled.limits import most_numbers
from ddkit.errors import ArtifactError


@dataclass(frozen=True)
class Coding:
    """Coded tensors of a set.

    Args:
        codec: as users give it, ``uniform:bits=3``.
        tensors: by the name under which they are stored.
    """

    codec: str
    tensors: Mapping[str, Coded]

    @property
    def nbytes(self) -> int:
        """Bytes of all coded tensors."""
        return sum(coded.nbytes for coded in self.tensors.values())

    def parts(self) -> dict[str, Tensor]:
        """Return what a file keeps as tensors: ``NAME.PART`` by tensor."""
        return {f"{name}.{key}": part for name, coded in self.tensors.items() for key, part in coded.parts.items()}

    def content(self) -> dict[str, Any]:
        """Return what a file keeps as JSON."""
        return {"name": self.codec, "tensors": {name: coded.entry for name, coded in self.tensors.items()}}

    def decoded(self, classes: int) -> dict[str, Tensor]:
        """Return the stored tensors.

        Raises:
            ArtifactError: coded tensors that make no sense, or that would take too much memory.
        """
        announced = sum(math.prod(shape_of(coded.entry)) for coded in self.tensors.values())
        most = most_numbers(self.nbytes)
        if announced > max(most, self.nbytes):
            raise ArtifactError(f"{self.nbytes:,} coded bytes announce {announced:,} numbers, {most:,} are the most")
        return {
            name: decode_labels(coded.entry, coded.parts, classes)
            if name == LABELS
            else decode(coded.entry, coded.parts)
            for name, coded in self.tensors.items()
        }

    @classmethod
    def of(cls, codec: str, entries: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Tensor]) -> Coding:
        """Return the coding that a file holds.

        Raises:
            ArtifactError: a part that belongs to no tensor.
        """
        own: dict[str, dict[str, Tensor]] = {name: {} for name in entries}
        for key, part in parts.items():
            name, _, piece = key.rpartition(".")
            if name not in own:
                raise ArtifactError(f"unknown tensor 'coded.{key[:80]}': write the file anew")
            own[name][piece] = part
        return cls(codec, {name: Coded(dict(entry), own[name]) for name, entry in entries.items()})


def codec_of(text: str) -> Codec:
    """Return the codec that users give as text.

    Raises:
        UnknownNameError: no such codec.
        ConfigError: an unknown option, or one out of range.
    """
    piece = piece_from_text(text)
    return registry.create(piece.pop("name"), piece)


@functools.cache
def bytes_of_noise(codec: str, shape: tuple[int, int, int]) -> int:
    """Return the bytes of one image (C, H, W) of noise, which hardly compresses.

    Raises:
        UnknownNameError: no such codec.
        ConfigError: an option out of range, or images that the codec cannot hold.
    """
    return encode(codec_of(codec), torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))).nbytes


def code(
    stored: Mapping[str, Tensor],
    codec: str,
    images: Collection[str],
    classes: int,
    *,
    probabilities: bool,
    grids: Mapping[str, Grid] | None = None,
) -> Coding:
    """Return the coded form of stored tensors.

    Tensors that look like images go through the codec, labels through their own, and everything else (decoders,
    addressing matrices) is kept in float16, as few bits would change it too much.

    Args:
        stored: by name.
        codec: as users give it.
        images: names of the tensors that look like images.
        classes: K.
        probabilities: whether rows of labels are.
        grids: by name, what the codec was fitted to before; it is fitted to the other tensors here.

    Raises:
        UnknownNameError: no such codec.
        ConfigError: an unknown option, or a tensor that the codec cannot hold.
    """
    chosen = codec_of(codec)
    rest = chosen if chosen.name == "float32" else Float16()
    tensors = {}
    for name, tensor in stored.items():
        if name == LABELS:
            tensors[name] = encode_labels(tensor, classes, probabilities=probabilities)
        else:
            suits = chosen if name in images and tensor.ndim == 4 else rest
            tensors[name] = encode(suits, tensor, (grids or {}).get(name))
    return Coding(codec, tensors)
