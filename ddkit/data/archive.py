"""What do the arrays of an ``.npz`` archive claim to be, and how are they read without trusting the claim?"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from ddkit.data.storage import check_memory
from ddkit.errors import DataError

_CHUNK_BYTES = 2**24
_DEFLATE_AT_BEST = 1032  # bytes out of one byte in


@dataclass(frozen=True)
class Member:
    """One array of an archive, by its header.

    Args:
        archive: path of the archive.
        name: its key.
        entry: its file in the archive.
        shape: as the header says; the file has that many bytes.
        dtype: no Python objects.
        fortran: stored with the first axis running fastest.
        start: bytes of the header.
    """

    archive: Path
    name: str
    entry: str
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    def read(self) -> np.ndarray:
        """Return the whole array.

        Raises:
            DataError: it does not fit into memory.
        """
        size = math.prod(self.shape) * self.dtype.itemsize
        check_memory(size, f"array '{self.name}' of '{self.archive}'")
        with self._open() as stream:
            values = np.frombuffer(_exactly(stream, size), self.dtype)
        return values.reshape(self.shape, order="F" if self.fortran else "C")

    def rows(self) -> Iterator[np.ndarray]:
        """Yield the array in parts of some rows, in order; one that lies in Fortran's order is read whole."""
        if self.fortran and len(self.shape) > 1:
            yield self.read()
            return
        row = max(1, math.prod(self.shape[1:])) * self.dtype.itemsize
        at_once = max(1, _CHUNK_BYTES // row)
        with self._open() as stream:
            for start in range(0, self.shape[0], at_once):
                count = min(at_once, self.shape[0] - start)
                yield np.frombuffer(_exactly(stream, count * row), self.dtype).reshape(count, *self.shape[1:])

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        with zipfile.ZipFile(self.archive) as archive, archive.open(self.entry) as stream:
            _exactly(stream, self.start)
            yield stream


def _exactly(stream: IO[bytes], size: int) -> bytearray:
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    while filled < size:
        part = stream.read(min(size - filled, _CHUNK_BYTES))
        if not part:
            raise EOFError(f"the array ends after {filled} of {size} bytes")
        view[filled : filled + len(part)] = part
        filled += len(part)
    return buffer


def members(path: Path) -> dict[str, Member]:
    """Return the arrays of an archive by key, of which only the headers were read.

    Raises:
        DataError: objects instead of numbers or text, a compression that NumPy does not write, or an array whose
            header claims another size than its file has.
    """
    with zipfile.ZipFile(path) as archive:
        found = [_member(archive, path, info) for info in archive.infolist() if info.filename.endswith(".npy")]
    named = {member.name: member for member in found}
    if len(named) < len(found):
        raise DataError(f"cannot read '{path}': it holds an array twice; save it again with numpy.savez")
    return named


def _member(archive: zipfile.ZipFile, path: Path, info: zipfile.ZipInfo) -> Member:
    name = info.filename.removesuffix(".npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"array '{name}' is compressed in a way that NumPy does not write")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"array '{name}' has version {version} of the format")
        start = stream.tell()
    if dtype.hasobject or dtype.names is not None:
        raise ValueError(f"array '{name}' is {dtype.kind}: Object arrays cannot be loaded")
    size = math.prod(shape) * dtype.itemsize
    possible = info.compress_size if info.compress_type == zipfile.ZIP_STORED else _DEFLATE_AT_BEST * info.compress_size
    if min(shape, default=0) < 0 or size + start != info.file_size or info.file_size > possible + _DEFLATE_AT_BEST:
        raise ValueError(
            f"array '{name}' claims {size} bytes and has {info.file_size - start}, of {info.compress_size} packed"
        )
    return Member(path, name, info.filename, tuple(shape), dtype, fortran, start)
