"""The smallest lossless form of small whole numbers: packed bits, general coders, or an image sheet.

Symbols are whole numbers from 0 to ``2**bits - 1``, one per value of a tensor. They are written image by image or, in
the order ``pixels``, value by value: the same value of consecutive images side by side. Every coder is bounded before
it allocates: what a stream may expand to follows from the announced shape.
"""

from __future__ import annotations

import io
import lzma
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddkit.codecs.sheets import images_of, sheet_of, sheet_size
from ddkit.errors import DAMAGED, ArtifactError, ConfigError, unknown_name

Bytes = NDArray[np.uint8]

#: Above this many bytes of symbols the slow coders are left out.
_SLOW = 2**23
#: Up to this many symbols every coder sees every order and packing; above, the one that zstd makes smallest at a level
#: that ranked them as the best level does wherever both were measured, in a fortieth of the time.
_ALL_FORMS, _RANKING = 2**16, 9
#: Symbols that are unpacked at once, a multiple of 8.
_AT_ONCE = 2**20
_LZMA = [{"id": lzma.FILTER_LZMA1, "preset": 9, "lc": 0, "lp": 0, "pb": 0, "dict_size": 2**22}]


@dataclass(frozen=True)
class Stream:
    """Symbols in their smallest form.

    Args:
        coder: by which they were written, a key of :data:`CODERS`.
        order: ``images`` or ``pixels``.
        packed: whether bits were packed before the coder.
        data: the bytes.
    """

    coder: str
    order: str
    packed: bool
    data: bytes

    def tensor(self) -> Tensor:
        """Return the bytes as a file keeps them: (B,) uint8."""
        return torch.frombuffer(bytearray(self.data), dtype=torch.uint8)

    def entry(self) -> dict[str, Any]:
        """Return what, besides the bytes, is needed to read them (JSON-able)."""
        return {"coder": self.coder, "order": self.order, "packed": self.packed}


def encode(symbols: Tensor, bits: int, coder: str = "auto") -> Stream:
    """Return the smallest form of ``symbols``.

    Args:
        symbols: (N, ...) uint8 below ``2**bits``; N images or rows.
        bits: 1 to 8.
        coder: the only one to try; ``auto`` for all.

    Raises:
        UnknownNameError: no such coder.
        ConfigError: a symbol that has more bits, or a coder that cannot hold this shape.
    """
    if coder != "auto" and coder not in CODERS:
        raise unknown_name("coder", coder, ["auto", *CODERS])
    if symbols.dtype != torch.uint8 or int(symbols.max()) >= 2**bits:
        raise ConfigError(f"symbols up to {int(symbols.max())} ({symbols.dtype}) do not fit {bits} bits: use more bits")
    shape = tuple(symbols.shape)
    orders = ("images", "pixels") if len(shape) > 1 and shape[0] > 1 else ("images",)
    forms = [(order, packed) for order in orders for packed in ((True, False) if bits < 8 else (False,))]
    raws = {(order, packed): _form(symbols.numpy(), bits, order, packed) for order, packed in forms}
    best = forms
    if symbols.numel() > _ALL_FORMS:
        rank, _ = _arrow("zstd", _RANKING)
        sizes = {form: len(rank(raw.tobytes())) for form, raw in raws.items()}
        best = [min(forms, key=sizes.__getitem__)]
    tried = [
        Stream(name, *form, one.encode(raws[form], shape))
        for name, one in CODERS.items()
        for form in forms
        if coder in ("auto", name) and one.suits(raws[form], shape, *form) and (form in best or one.few)
    ]
    if not tried:
        raise ConfigError(f"coder '{coder}' cannot hold {shape} symbols of {bits} bits: leave the coder out")
    return min(tried, key=lambda stream: len(stream.data))


def decode(data: bytes, entry: Mapping[str, Any], shape: tuple[int, ...], bits: int) -> Tensor:
    """Return the symbols that :func:`encode` wrote, (N, ...) uint8.

    Raises:
        ArtifactError: bytes that are missing, left over or damaged, an unknown coder, or symbols of more bits.
    """
    name, order, packed = entry.get("coder"), entry.get("order"), entry.get("packed")
    coder = CODERS.get(name) if isinstance(name, str) else None
    if coder is None or order not in ("images", "pixels") or not isinstance(packed, bool):
        raise ArtifactError(
            f"symbols are coded by {str(name)[:40]!r} in order {str(order)[:40]!r}, which is unknown: {DAMAGED}"
        )
    count = math.prod(shape)
    size = -(-count * bits // 8) if packed else count
    try:
        raw = coder.decode(data, size, shape)
    except ArtifactError:
        raise
    except Exception as error:  # the libraries' errors have no common base
        raise ArtifactError(f"symbols cannot be read ({type(error).__name__}): {DAMAGED}") from None
    if len(raw) != size:
        raise ArtifactError(f"{size:,} bytes of symbols were announced and {len(raw):,} follow: {DAMAGED}")
    values = np.frombuffer(raw, np.uint8)
    values = _unpacked(values, bits, count) if packed else values
    if bits < 8 and int(values.max(initial=0)) >= 2**bits:
        raise ArtifactError(f"a symbol of {int(values.max())} has more than {bits} bits: {DAMAGED}")
    if order == "pixels":
        values = values.reshape(*shape[1:], shape[0])
        values = np.moveaxis(values, -1, 0)
    return torch.from_numpy(values.reshape(shape).copy())


def _form(values: Bytes, bits: int, order: str, packed: bool) -> Bytes:
    ordered = np.ascontiguousarray(np.moveaxis(values, 0, -1) if order == "pixels" else values)
    return _packed(ordered, bits) if packed else ordered.reshape(-1)


def _packed(values: Bytes, bits: int) -> Bytes:
    """Return the lowest ``bits`` of every value side by side, the highest bit first."""
    planes = np.unpackbits(values.reshape(-1, 1), axis=1)[:, 8 - bits :]
    return np.packbits(planes.reshape(-1))


def _unpacked(raw: Bytes, bits: int, count: int) -> Bytes:
    values = np.empty(count, np.uint8)
    for start in range(0, count, _AT_ONCE):
        own = min(_AT_ONCE, count - start)
        planes = np.unpackbits(raw[start * bits // 8 :][: -(-own * bits // 8)])
        if planes[own * bits :].any():
            raise ArtifactError(f"packed symbols end in bits that belong to none: {DAMAGED}")
        wide = np.zeros((own, 8), np.uint8)
        wide[:, 8 - bits :] = planes[: own * bits].reshape(own, bits)
        values[start : start + own] = np.packbits(wide, axis=1)[:, 0]
    return values


def _inflated(data: bytes, size: int) -> bytes:
    """Undo zlib, up to ``size`` bytes and one more."""
    inflater = zlib.decompressobj()
    raw = inflater.decompress(data, size + 1)
    if not inflater.eof or inflater.unused_data or inflater.unconsumed_tail:
        raise ArtifactError(f"symbols are cut off or have bytes behind them: {DAMAGED}")
    return raw


def _unlzma(data: bytes, size: int) -> bytes:
    reader = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    raw = reader.decompress(data, size)
    raw += b"" if reader.eof else reader.decompress(b"", 1)
    if not reader.eof or reader.unused_data:
        raise ArtifactError(f"symbols are cut off or have bytes behind them: {DAMAGED}")
    return raw


def _arrow(name: str, level: int) -> tuple[Callable[[bytes], bytes], Callable[[bytes, int], bytes]]:
    def encode(raw: bytes) -> bytes:
        import pyarrow as pa

        return bytes(pa.Codec(name, compression_level=level).compress(raw, asbytes=True))

    def decode(data: bytes, size: int) -> bytes:
        import pyarrow as pa

        # Codec.decompress returns memory that nobody wrote where a stream ends early.
        return bytes(pa.CompressedInputStream(pa.BufferReader(data), name).read(size + 1))

    return encode, decode


@dataclass(frozen=True)
class Coder:
    """One lossless coder of bytes.

    Args:
        compress: bytes to bytes.
        expand: bytes and the size announced to bytes, at most a little more than that size.
        slow: whether it is left out for large sets.
        few: whether it takes few of the forms, and is tried on each of them.
    """

    compress: Callable[[bytes], bytes]
    expand: Callable[[bytes, int], bytes]
    slow: bool = False
    few: bool = False

    def suits(self, raw: Bytes, shape: tuple[int, ...], order: str, packed: bool) -> bool:
        """Whether to try it."""
        return not self.slow or raw.nbytes <= _SLOW

    def encode(self, raw: Bytes, shape: tuple[int, ...]) -> bytes:
        """Return the coded bytes."""
        return self.compress(raw.tobytes())

    def decode(self, data: bytes, size: int, shape: tuple[int, ...]) -> bytes:
        """Return the bytes that were coded."""
        return self.expand(data, size)


class Sheet(Coder):
    """All images of one or three channels below each other, as one lossless WebP picture."""

    def __init__(self) -> None:
        super().__init__(lambda raw: raw, lambda data, size: data, slow=True, few=True)

    def suits(self, raw: Bytes, shape: tuple[int, ...], order: str, packed: bool) -> bool:
        """Whether these are images of one or three channels that fit a picture of WebP."""
        return (
            not packed
            and order == "images"
            and len(shape) == 4
            and shape[1] in (1, 3)
            and max(sheet_size(shape)) < 2**14
            and super().suits(raw, shape, order, packed)
        )

    def encode(self, raw: Bytes, shape: tuple[int, ...]) -> bytes:
        """Return the picture."""
        from PIL import Image

        picture = sheet_of(raw.reshape(shape), 0)
        picture = np.repeat(picture, 3, axis=2) if shape[1] == 1 else picture
        stream = io.BytesIO()
        Image.fromarray(picture, "RGB").save(stream, "WEBP", lossless=True, quality=80, method=4, exact=True)
        return stream.getvalue()

    def decode(self, data: bytes, size: int, shape: tuple[int, ...]) -> bytes:
        """Return the images of the picture."""
        from PIL import Image

        if len(shape) != 4 or shape[1] not in (1, 3) or max(sheet_size(shape)) >= 2**14:
            raise ArtifactError(f"a sheet cannot hold {shape} symbols: {DAMAGED}")
        wide, high = sheet_size(shape)
        sides = (wide - 1 | high - 1 << 14).to_bytes(4, "little")  # no alpha, version 0
        length = int.from_bytes(data[16:20], "little")
        whole = len(data) == 20 + length + length % 2 == 8 + int.from_bytes(data[4:8], "little")
        # One lossless picture of this size: lossy ones, animations and profiles are not even opened.
        if not whole or data[8:16] != b"WEBPVP8L" or data[20:25] != b"/" + sides:
            raise ArtifactError(f"the bytes are no lossless sheet of {wide}x{high}, which {shape} needs: {DAMAGED}")
        picture = Image.open(io.BytesIO(data), formats=["WEBP"])
        return images_of(np.asarray(picture)[:, :, : shape[1]], shape).tobytes()


#: In the order of preference where two are equally small.
CODERS: dict[str, Coder] = {
    "raw": Coder(lambda raw: raw, lambda data, size: data[: size + 1], few=True),
    "zlib": Coder(lambda raw: zlib.compress(raw, 9), _inflated),
    "lzma": Coder(lambda raw: lzma.compress(raw, lzma.FORMAT_RAW, filters=_LZMA), _unlzma, slow=True),
    "zstd": Coder(*_arrow("zstd", 19)),
    "brotli": Coder(*_arrow("brotli", 11), slow=True),
    "webp": Sheet(),
}
