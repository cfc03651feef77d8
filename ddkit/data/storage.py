"""Where does data lie on disk: the data root, the cache folder, memory-mapped files of decoded images."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddkit.base.files import write_atomically
from ddkit.errors import CheckpointError, DataError

MEMORY_MAP_ABOVE = 2 * 1024**3


@dataclass(frozen=True)
class MappedFile:
    """The cache file behind memory-mapped images, and the size in bytes beyond which images are mapped."""

    path: Path
    above: int


def cache_folder() -> Path:
    """Return the folder of files that can be made again: $DDKIT_CACHE, or ``ddkit`` in the user's cache."""
    if os.environ.get("DDKIT_CACHE"):
        return Path(os.environ["DDKIT_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ddkit"


def data_root(root: str | Path | None = None) -> Path:
    """Return where named datasets lie: ``root``, else $DDKIT_DATA, else ``data`` in the cache folder."""
    if root is not None:
        return Path(root).expanduser()
    if os.environ.get("DDKIT_DATA"):
        return Path(os.environ["DDKIT_DATA"]).expanduser()
    return cache_folder() / "data"


def digest(*parts: str | bytes | Tensor) -> str:
    """Hash strings, bytes and uint8 or int64 tensors to sha256 hex; their boundaries count."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            state.update(f"tensor {part.dtype} {tuple(part.shape)}:".encode())
            for chunk in part.split(max(1, 2**26 // max(1, part[:1].nbytes))):
                state.update(chunk.cpu().contiguous().numpy().reshape(-1).view("uint8"))
        else:
            raw = part.encode(errors="surrogateescape") if isinstance(part, str) else part
            state.update(f"bytes {len(raw)}:".encode() + raw)
    return state.hexdigest()


def gather_images(
    chunks: Iterable[Tensor], shape: tuple[int, int, int, int], key: Callable[[], str], above: int
) -> tuple[Tensor, MappedFile | None]:
    """Put chunks of decoded images together, in memory or, beyond ``above`` bytes, in a mapped cache file.

    A file made earlier for the same ``key`` and shape is mapped again and ``chunks`` is not consumed. It is
    written sequentially to a temporary name and renamed; pages are read when they are used. Changes to a
    mapped tensor stay private to the process.

    Args:
        chunks: uint8 ``(n, C, H, W)`` each, N images together, in order.
        shape: (N, C, H, W).
        key: gives the hex digest of what the images were decoded from; called only for a mapped file.
        above: size in bytes beyond which the images are mapped.

    Returns:
        uint8 ``(N, C, H, W)``, and the file when it is mapped.

    Raises:
        DataError: the images fit neither memory nor disk, or the cache file cannot be written.
    """
    size = math.prod(shape)
    if size <= above:
        check_memory(size, f"{shape[0]} images of {'x'.join(map(str, shape[1:]))}")
        images = torch.empty(shape, dtype=torch.uint8)
        position = 0
        for chunk in chunks:
            images[position : position + len(chunk)] = chunk
            position += len(chunk)
        return images, None
    path = cache_folder() / "decoded" / f"{key()[:40]}-{'x'.join(map(str, shape))}.u8"
    if not path.is_file() or path.stat().st_size != size:
        _check_disk(size, path)
        try:
            write_atomically(path, lambda temporary: _write_chunks(temporary, chunks))
        except CheckpointError as error:
            raise DataError(f"{error}; DDKIT_CACHE names the folder for decoded images, {size} bytes here") from error
    mapped = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    return mapped.view(shape), MappedFile(path, above)


def check_memory(size: int, what: str) -> None:
    """Refuse what needs more bytes than the machine has free, before it is allocated.

    Raises:
        DataError: naming ``what``.
    """
    free = _available_memory()
    if free is not None and size > free:
        raise DataError(
            f"{what} need {size / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free: give fewer or smaller"
        )


def _available_memory() -> int | None:
    """Return the bytes that can be allocated without swapping, or None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    return next((1024 * int(size) for size in sizes), None)


def _check_disk(size: int, path: Path) -> None:
    place = next(folder for folder in path.parents if folder.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise DataError(
            f"the decoded images need {size / 1e9:.1f} GB in '{place}', {free / 1e9:.1f} GB are free there: give "
            "smaller images, or name another folder by DDKIT_CACHE"
        )


def _write_chunks(path: Path, chunks: Iterable[Tensor]) -> None:
    with path.open("wb") as stream:
        for chunk in chunks:
            stream.write(chunk.contiguous().numpy().reshape(-1))  # type: ignore[arg-type]
