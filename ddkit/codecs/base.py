"""What a codec is: stored tensors in fewer bytes, and back to the same bits wherever the file is opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddkit.base.registry import Registry
from ddkit.errors import DAMAGED, ArtifactError, ConfigError

registry: Registry[type[Codec]] = Registry("codec", "ddkit.codecs")

#: Largest number that float16 holds.
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class Coded:
    """A tensor in its coded form.

    Args:
        entry: what, besides the parts, is needed to decode: ``kind``, ``shape`` and options of the kind (JSON-able).
        parts: tensors as a file keeps them, by name.
    """

    entry: dict[str, Any]
    parts: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.nbytes for part in self.parts.values())


class Grid(ABC):
    """A codec fitted to a tensor: the values to which it rounds."""

    @abstractmethod
    def rounded(self, values: Tensor) -> Tensor:
        """Return what :meth:`encode` and decoding make of ``values``, of the shape that was fitted: the same bits."""

    @abstractmethod
    def encode(self, values: Tensor) -> Coded:
        """Return the coded form of ``values``, of the shape that was fitted."""

    def clipped(self, values: Tensor) -> Tensor:
        """Return ``values`` no further beyond the ends of the grid than those that round to them; here as they are."""
        return values


class Codec(ABC):
    """Codes tensors of numbers (N, ...); the first dimension counts images or codes.

    Args are the options that users give, ``uniform:bits=3``.
    """

    name: ClassVar[str]

    @abstractmethod
    def fit(self, values: Tensor) -> Grid:
        """Return the grid that suits ``values``, finite float32 (N, ...) on the CPU.

        Raises:
            ConfigError: values that this codec cannot hold.
        """

    @staticmethod
    @abstractmethod
    def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
        """Return the tensor of a :class:`Coded`, float32, after :func:`shape_of` was found to be acceptable.

        Raises:
            ArtifactError: entry and parts contradict each other.
        """


def encode(codec: Codec, values: Tensor, grid: Grid | None = None) -> Coded:
    """Return ``values`` coded by ``codec``.

    Args:
        codec: it is kept by name.
        values: to code.
        grid: of this codec, fitted before; None to fit it to ``values``.

    Raises:
        ConfigError: an empty tensor, one that is not finite float32, or one that the codec cannot hold.
    """
    if values.dtype != torch.float32 or values.numel() == 0 or not bool(torch.isfinite(values).all()):
        raise ConfigError(
            f"a tensor of shape {tuple(values.shape)} and dtype {values.dtype} cannot be coded: give finite float32 "
            f"numbers"
        )
    values = values.detach().cpu().contiguous()
    coded = (grid or codec.fit(values)).encode(values)
    return Coded({"kind": codec.name, "shape": list(values.shape), **coded.entry}, coded.parts)


def decode(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
    """Return the tensor that :func:`encode` coded.

    Raises:
        ArtifactError: an unknown kind, or entry and parts that contradict each other.
    """
    kind = entry.get("kind")
    if not isinstance(kind, str) or kind not in registry:
        raise ArtifactError(
            f"no installed package registers codec {str(kind)[:40]!r}, by which this is coded: install one"
        )
    decoded = registry.get(kind).decode(entry, parts)
    if not bool(torch.isfinite(decoded).all()):
        raise ArtifactError(f"a coded tensor decodes to NaN or infinity: {DAMAGED}")
    return decoded


def shape_of(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape that an entry announces, of one to eight dimensions.

    Raises:
        ArtifactError: it is none.
    """
    shape = entry.get("shape")
    sides = shape if isinstance(shape, list) else []
    if not 1 <= len(sides) <= 8 or not all(type(side) is int and 0 < side < 2**31 for side in sides):
        raise ArtifactError(f"a coded tensor has the shape {str(shape)[:60]}: {DAMAGED}")
    return tuple(sides)


def number(entry: Mapping[str, Any], name: str, least: int, most: int) -> int:
    """Return a whole number of an entry.

    Raises:
        ArtifactError: it is missing or out of range.
    """
    value = entry.get(name)
    if type(value) is not int or not least <= value <= most:
        raise ArtifactError(f"a coded tensor has {name}={str(value)[:40]}, not {least} to {most}: {DAMAGED}")
    return value


def only(parts: Mapping[str, Tensor], *names: str) -> None:
    """Refuse parts that are left over.

    Raises:
        ArtifactError: naming one of them.
    """
    if left := sorted(set(parts) - set(names)):
        raise ArtifactError(f"the part '{left[0][:40]}' belongs to no coded tensor: {DAMAGED}")


def part(parts: Mapping[str, Tensor], name: str, dtype: torch.dtype, shape: tuple[int, ...] | None = None) -> Tensor:
    """Return a part of a coded tensor.

    Raises:
        ArtifactError: it is missing, or of another number format or shape.
    """
    tensor = parts.get(name)
    if tensor is None or tensor.dtype != dtype or (shape is not None and tuple(tensor.shape) != shape):
        raise ArtifactError(f"the part '{name}' of a coded tensor is missing or of a wrong shape: {DAMAGED}")
    return tensor


def raw_bytes(parts: Mapping[str, Tensor], name: str) -> bytes:
    """Return the bytes that a part holds.

    Raises:
        ArtifactError: it is missing, or holds something else.
    """
    return part(parts, name, torch.uint8).numpy().tobytes()


def as_half(values: Tensor, what: str) -> Tensor:
    """Return numbers in float16.

    Raises:
        ConfigError: a number that float16 cannot hold.
    """
    largest = float(values.abs().max())
    if largest > LARGEST_HALF:
        raise ConfigError(f"{what} reach {largest:.4g}, and float16 ends at {LARGEST_HALF:g}: use codec float32")
    return values.to(torch.float16)
