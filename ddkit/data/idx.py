"""How is an IDX file (the format of MNIST) read: uint8 behind a big-endian header, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ddkit.errors import DataError

_UINT8 = 8


def read_idx(path: Path) -> Tensor:
    """Read ``path``, or ``path`` + ".gz" where only that exists, as a uint8 tensor.

    Raises:
        DataError: the file is not an IDX file of bytes, or shorter or longer than its header says.
    """
    packed = path.with_name(path.name + ".gz")
    try:
        if path.is_file() or not packed.is_file():
            content = np.fromfile(path, dtype=np.uint8)
        else:
            path = packed
            content = np.frombuffer(bytearray(gzip.decompress(packed.read_bytes())), dtype=np.uint8)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read '{path}': {error}; delete it and download it again") from error
    head = content[:4].tolist()
    if len(head) < 4 or head[:3] != [0, 0, _UINT8] or len(content) < 4 + 4 * head[3]:
        raise DataError(f"'{path}' is not an IDX file of bytes: delete it and download it again")
    start = 4 + 4 * head[3]
    shape = [int.from_bytes(content[at : at + 4].tobytes(), "big") for at in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"'{path}' holds {len(content) - start} bytes where its header says {math.prod(shape)}: "
            "it is truncated or damaged; delete it and download it again"
        )
    return torch.from_numpy(content[start:]).view(shape)
