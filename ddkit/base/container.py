"""How are named tensors and one JSON document kept in a file that detects truncation and tampering?

The file is an ordinary safetensors file, so any safetensors reader opens it. Its ``__metadata__`` has exactly
one key, ``ddkit``: safetensors writes several keys in random order, and equal content must give equal bytes.
Its value is canonical JSON (keys sorted, no spaces, no NaN) of::

    {"checksum": "<64 hexadecimal digits>", "content": {...}, "format": "<name>", "format_version": <integer>}

``checksum`` is the SHA-256 of the whole file in which these 64 digits are zeros: it covers every tensor, the
document, the header and its padding. It detects damage and careless editing; it is not a signature.

A reader refuses what is newer than it knows and checks what is cheap before what is dear: the header length
against the size of the file, the document, the tensor extents against the size of the file, the checksum, the
tensors. Nothing that the header claims is allocated before it is known to fit the file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from ddkit.base.documents import parse_json
from ddkit.errors import ArtifactError

METADATA_KEY = "ddkit"
MAX_HEADER_BYTES = 64 * 1024**2
MAX_TENSORS = 4096
MAX_DIMENSIONS = 8
DTYPES: dict[str, torch.dtype] = {
    "U8": torch.uint8,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}

_DAMAGED = "the file is truncated, damaged or not a ddkit file: copy it again from its source or write it anew"
_NO_CHECKSUM = "0" * 64
# How the start of the document looks inside the header, where it is a JSON string: "checksum" sorts first. A
# tensor name cannot imitate it, because the header escapes the quotes of a name.
_CHECKSUM_MARK = f'"{METADATA_KEY}":"{{\\"checksum\\":\\"'.encode()


def canonical_json(value: Any) -> str:
    """Write ``value`` as the one JSON text that equal values share: keys sorted, no spaces, finite numbers.

    Raises:
        ArtifactError: a value that JSON does not have (a tensor, a NaN, a circular reference).
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
        text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"metadata cannot be written as JSON ({error}): use text, finite numbers, lists and dicts only"
        ) from None
    return text


def pack(tensors: Mapping[str, Tensor], content: Mapping[str, Any], *, kind: str, version: int) -> bytes:
    """Return the bytes of the file that holds ``tensors`` and ``content``; equal arguments give equal bytes.

    Args:
        tensors: by name; any device, any memory layout; not empty, finite, of a dtype in :data:`DTYPES`.
        content: JSON-able.
        kind: name of the format, stored as ``format``.
        version: stored as ``format_version``.

    Raises:
        ArtifactError: something that :func:`unpack` would refuse to read back.
    """
    if len(tensors) > MAX_TENSORS:
        raise ArtifactError(f"{len(tensors)} tensors are more than a file may hold ({MAX_TENSORS}): stack some")
    owned = {}
    for name, tensor in tensors.items():
        # A copy of its own: safetensors refuses tensors that share memory.
        owned[name] = torch.clone(tensor.detach().cpu(), memory_format=torch.contiguous_format)
        _check_tensor(name, owned[name])
    document = {"checksum": _NO_CHECKSUM, "content": content, "format": kind, "format_version": version}
    blank = safetensors.torch.save(owned, {METADATA_KEY: canonical_json(document)})
    header_end = 8 + int.from_bytes(blank[:8], "little")
    if header_end - 8 > MAX_HEADER_BYTES:
        raise ArtifactError(
            f"metadata of {header_end - 8} bytes is more than {MAX_HEADER_BYTES}: keep large data in tensors"
        )
    position = _checksum_position(blank)
    return b"".join((blank[:position], hashlib.sha256(blank).hexdigest().encode(), blank[position + 64 :]))


def written_checksum(raw: bytes) -> str:
    """Return the checksum that stands in the bytes that :func:`pack` returned: 64 hexadecimal digits."""
    position = _checksum_position(raw)
    return raw[position : position + 64].decode()


def unpack(stream: BinaryIO, size: int, *, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read back and verify what :func:`pack` wrote.

    Args:
        stream: positioned at the first byte.
        size: bytes that the stream holds.
        kind: the ``format`` expected.
        version: the newest ``format_version`` understood.

    Returns:
        The content, and the tensors by name (CPU, contiguous, finite).

    Raises:
        ArtifactError: the bytes are not such a file, or a newer one, or were changed after they were written.
    """
    start, header, document, _ = _read_envelope(stream, size, kind, version)
    raw = b"".join((start, header, stream.read(size - len(start) - len(header))))
    if len(raw) != size:
        raise ArtifactError(f"only {len(raw)} of {size} bytes could be read: {_DAMAGED}")
    _check_checksum(raw, document["checksum"])
    try:
        tensors = safetensors.torch.load(raw)
    except Exception as error:  # the library's own errors have no common base
        raise ArtifactError(f"tensors cannot be read ({error}): {_DAMAGED}") from None
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    return document["content"], tensors


def read_content(
    stream: BinaryIO, size: int, *, kind: str, version: int
) -> tuple[dict[str, Any], dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
    """Read only the header of what :func:`pack` wrote: what the file says it holds, whatever its size.

    Everything that :func:`unpack` checks is checked but the checksum and the tensors themselves, which are not read.

    Args:
        stream: positioned at the first byte.
        size: bytes that the stream holds.
        kind: the ``format`` expected.
        version: the newest ``format_version`` understood.

    Returns:
        The content, and number format and shape of every tensor by name.

    Raises:
        ArtifactError: the bytes are not such a file, or a newer one, or too few or too many.
    """
    envelope = _read_envelope(stream, size, kind, version)
    tensors = {name: (DTYPES[entry["dtype"]], tuple(entry["shape"])) for name, entry in envelope.entries.items()}
    return envelope.document["content"], tensors


class _Envelope(NamedTuple):
    """The first bytes of a file, and what they say: raw length and header, the document, tensor entries by name."""

    start: bytes
    header: bytes
    document: dict[str, Any]
    entries: dict[str, Any]


def _read_envelope(stream: BinaryIO, size: int, kind: str, version: int) -> _Envelope:
    """Read the header, check the document and that the tensors fill a file of ``size`` bytes exactly."""
    start = stream.read(8)
    header_bytes = int.from_bytes(start, "little")
    if len(start) < 8 or header_bytes > min(size - 8, MAX_HEADER_BYTES):
        raise ArtifactError(f"header does not fit the file of {size} bytes: {_DAMAGED}")
    raw = stream.read(header_bytes)
    entries = _parse(raw, "header")
    document = _read_document(entries.pop("__metadata__", None), kind, version)
    _check_extents(entries, size - 8 - header_bytes)
    return _Envelope(start, raw, document, entries)


def _parse(raw: bytes | str, what: str) -> dict[str, Any]:
    """Parse a JSON object, whatever the bytes are."""
    try:
        value = parse_json(raw)
    except ValueError:
        raise ArtifactError(f"{what} is not JSON: {_DAMAGED}") from None
    if not isinstance(value, dict):
        raise ArtifactError(f"{what} is not a JSON object: {_DAMAGED}")
    return value


def _read_document(metadata: Any, kind: str, version: int) -> dict[str, Any]:
    """Check the envelope of the document; the version first, so that a newer file is named as such."""
    if not isinstance(metadata, dict) or set(metadata) != {METADATA_KEY} or not isinstance(metadata[METADATA_KEY], str):
        raise ArtifactError(f"no metadata of ddkit in the header: {_DAMAGED}")
    document = _parse(metadata[METADATA_KEY], "metadata")
    found = document.get("format_version")
    if document.get("format") != kind or type(found) is not int or found < 1:
        raise ArtifactError(f"metadata does not name the format '{kind}' and its version: {_DAMAGED}")
    if found > version:
        raise ArtifactError(
            f"format version {found} is newer than this ddkit reads ({version}): "
            "upgrade with `pip install --upgrade ddkit`"
        )
    if set(document) != {"checksum", "content", "format", "format_version"}:
        raise ArtifactError(f"metadata has missing or unknown fields: {_DAMAGED}")
    if not isinstance(document["content"], dict) or not isinstance(document["checksum"], str):
        raise ArtifactError(f"metadata has fields of the wrong type: {_DAMAGED}")
    if canonical_json(document) != metadata[METADATA_KEY]:
        raise ArtifactError(f"metadata is not canonical JSON: {_DAMAGED}")
    return document


def _check_extents(entries: dict[str, Any], data_bytes: int) -> None:
    """Check that the tensors which the header lists fill the rest of the file exactly."""
    if not 0 < len(entries) <= MAX_TENSORS:
        raise ArtifactError(f"header lists {len(entries)} tensors, not 1 to {MAX_TENSORS}: {_DAMAGED}")
    extents = []
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ArtifactError(f"header entry of tensor {name[:80]!r} is malformed: {_DAMAGED}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise ArtifactError(
                f"tensor {name[:80]!r} has an unknown dtype, not one of {', '.join(DTYPES)}: {_DAMAGED}"
            )
        for numbers in (shape, offsets):
            if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n <= data_bytes for n in numbers):
                raise ArtifactError(f"shape or offsets of tensor {name[:80]!r} do not fit the file: {_DAMAGED}")
        wanted = math.prod(shape) * DTYPES[dtype].itemsize if len(shape) <= MAX_DIMENSIONS else -1
        if len(offsets) != 2 or wanted < 1 or offsets[1] - offsets[0] != wanted:
            raise ArtifactError(f"shape and extent of tensor {name[:80]!r} disagree: {_DAMAGED}")
        extents.append((offsets[0], offsets[1]))
    position = 0
    for begin, end in sorted(extents):
        if begin != position:
            raise ArtifactError(f"tensors overlap or leave gaps: {_DAMAGED}")
        position = end
    if position != data_bytes:
        raise ArtifactError(f"the header announces {position} bytes of tensors and {data_bytes} follow: {_DAMAGED}")


def _checksum_position(raw: bytes) -> int:
    """Return where the digits of the checksum start, or -1."""
    mark = raw.find(_CHECKSUM_MARK, 8, 8 + int.from_bytes(raw[:8], "little"))
    return mark + len(_CHECKSUM_MARK) if mark >= 0 else -1


def _check_checksum(raw: bytes, expected: str) -> None:
    """Compare ``expected`` with the SHA-256 of ``raw`` in which the digits of the checksum are zeros."""
    position = _checksum_position(raw)
    if position < 0 or raw[position : position + 64] != expected.encode():
        raise ArtifactError(f"metadata does not start with the checksum: {_DAMAGED}")
    view = memoryview(raw)
    digest = hashlib.sha256(view[:position])
    digest.update(_NO_CHECKSUM.encode())
    digest.update(view[position + 64 :])
    if digest.hexdigest() != expected:
        raise ArtifactError(f"checksum does not match, the content was changed after it was written: {_DAMAGED}")


def _check_tensor(name: str, tensor: Tensor) -> None:
    """Check what both the writer and the reader demand of every tensor."""
    if tensor.dtype not in DTYPES.values():
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES.values())
        raise ArtifactError(f"tensor '{name}' has dtype {tensor.dtype}: convert it to one of {allowed}")
    if tensor.numel() == 0 or tensor.ndim > MAX_DIMENSIONS:
        raise ArtifactError(
            f"tensor '{name}' has shape {tuple(tensor.shape)}: "
            f"stored tensors are not empty and have at most {MAX_DIMENSIONS} dimensions"
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise ArtifactError(f"tensor '{name}' contains NaN or infinity: the run diverged or the file is damaged")
