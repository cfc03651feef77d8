"""How is an array read that a stranger sent? Its header is checked against its bytes before anything is allocated."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.lib import format as npy_format

from ddkit.errors import ArtifactError

#: Bytes up to which a header is parsed; an array of eight axes needs less than 200.
HEADER_BYTES = 1024


class PayloadError(ArtifactError):
    """A message that cannot be used; the text names what was sent and the rule."""


@dataclass(frozen=True)
class Header:
    """What the header of a ``.npy`` array declares.

    Args:
        shape: lengths of the axes.
        dtype: number format.
        fortran: whether the first axis runs fastest.
        offset: where the numbers start, in bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int


def read_header(data: bytes, what: str) -> Header:
    """Parse the header of ``.npy`` bytes; nothing else is read.

    Raises:
        PayloadError: no array of format version 1.0.
    """
    stream = io.BytesIO(data)
    try:
        version = npy_format.read_magic(stream)
        if version != (1, 0):
            raise ValueError(f"format version {version}")
        shape, fortran, dtype = npy_format.read_array_header_1_0(stream, max_header_size=HEADER_BYTES)
    except Exception as error:  # the header is a stranger's text: whatever it provokes, it is refused
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise PayloadError(f"{what} is not a .npy array of version 1.0 ({reason})") from None
    return Header(shape, dtype, fortran, stream.tell())


def read_array(data: bytes, dtypes: tuple[str, ...], shape: tuple[int | None, ...], what: str) -> np.ndarray:
    """Read the ``.npy`` bytes of one array.

    ``numpy.load`` allocates the size that a header declares before it reads, and Flower's own ``dtype`` and ``shape``
    are what the sender says. So the header is checked first: format, number format, shape, and a size that is exactly
    that of the bytes that follow. Pickled objects are no number format.

    Args:
        data: the file's bytes.
        dtypes: names of the allowed number formats, such as ``uint8``.
        shape: the allowed shape; None stands for any length of at least 1.
        what: name of the array, for the message.

    Returns:
        a copy, writable, of native byte order.

    Raises:
        PayloadError: anything else than such an array.
    """
    header = read_header(data, what)
    if header.dtype.name not in dtypes or not header.dtype.isnative:
        raise PayloadError(f"{what} has dtype {str(header.dtype)[:40]}: allowed are {', '.join(dtypes)}")
    fits = len(header.shape) == len(shape) and all(
        length >= 1 and wanted in (None, length) for length, wanted in zip(header.shape, shape, strict=True)
    )
    if (header.fortran and len(shape) > 1) or not fits:
        expected = ", ".join("N" if wanted is None else str(wanted) for wanted in shape)
        raise PayloadError(f"{what} has shape {str(header.shape)[:60]}: expected ({expected}) in C order")
    declared, present = math.prod(header.shape) * header.dtype.itemsize, len(data) - header.offset
    if declared != present:
        raise PayloadError(f"{what} declares {declared} bytes and brings {present}: both must be equal")
    return np.frombuffer(data, header.dtype, offset=header.offset).reshape(header.shape).copy()
