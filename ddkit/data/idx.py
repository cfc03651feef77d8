"""How is an IDX file (the format of MNIST) read: uint8 behind a big-endian header, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from ddkit.errors import DataError

_UINT8 = 8
_MAXIMUM_AXES = 4
# The largest file of the sets that come in this format, MNIST's training images, has 47 MB.
MAXIMUM_BYTES = 2**28


def read_idx(path: Path) -> Tensor:
    """Read ``path``, or ``path`` + ".gz" where only that exists, as a uint8 tensor.

    Raises:
        DataError: the file is not an IDX file of bytes, shorter or longer than its header says, or says more than
            ``MAXIMUM_BYTES``.
    """
    packed = path.with_name(path.name + ".gz")
    if not path.is_file() and packed.is_file():
        path = packed
    try:
        with gzip.open(path) if path is packed else path.open("rb") as stream:
            return _read(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read '{path}': {error}; delete it and download it again") from error


def _read(stream: BinaryIO | gzip.GzipFile, path: Path) -> Tensor:
    head = stream.read(4)
    sizes = stream.read(4 * head[3]) if len(head) == 4 and head[3] <= _MAXIMUM_AXES else b""
    if len(head) < 4 or head[:3] != bytes((0, 0, _UINT8)) or not sizes or len(sizes) != 4 * head[3]:
        raise DataError(f"'{path}' is not an IDX file of bytes: delete it and download it again")
    shape = [int.from_bytes(sizes[at : at + 4], "big") for at in range(0, len(sizes), 4)]
    size = math.prod(shape)
    if size > MAXIMUM_BYTES:
        raise DataError(f"'{path}' claims {size} bytes, more than {MAXIMUM_BYTES}: delete it and download it again")
    content = bytearray(stream.read(size + 1))
    if len(content) != size:
        held = f"more than {size}" if len(content) > size else str(len(content))
        raise DataError(
            f"'{path}' holds {held} bytes where its header says {size}: "
            "it is truncated or damaged; delete it and download it again"
        )
    return torch.frombuffer(content, dtype=torch.uint8).view(shape) if size else torch.empty(shape, dtype=torch.uint8)
