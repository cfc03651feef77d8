"""Files of Planetoid as Python 2 wrote them, made small: what a test wants to change in them is one argument away."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

FEATURES, CLASSES, LABELLED, KNOWN, TEST, NODES = 12, 3, 6, 520, 30, 554


@dataclass(frozen=True)
class Named:
    """A class or function of a pickle, called with arguments and given a state where they are not None."""

    module: str
    name: str
    arguments: tuple[Any, ...] | None = None
    state: Any = None
    new: bool = False


@dataclass(frozen=True)
class Raw:
    """Operations as they are."""

    code: bytes


def pickled(value: Any) -> bytes:
    """Return a pickle of protocol 2 with the operations that the files of Planetoid use."""
    return b"\x80\x02" + _body(value) + b"."


def _body(value: Any) -> bytes:
    if isinstance(value, Raw):
        return value.code
    if isinstance(value, Named):
        code = f"c{value.module}\n{value.name}\n".encode()
        if value.arguments is not None:
            code += _body(value.arguments) + (b"\x81" if value.new else b"R")
        return code if value.state is None else code + _body(value.state) + b"b"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        small = -(2**31) <= value < 2**31
        return b"J" + struct.pack("<i", value) if small else b"\x8a" + bytes([len(raw)]) + raw
    if isinstance(value, str):
        value = value.encode("latin1")
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    inside = value.items() if isinstance(value, dict) else value
    parts = [part for pair in inside for part in pair] if isinstance(value, dict) else inside
    start, end = {tuple: (b"(", b"t"), list: (b"](", b"e"), dict: (b"}(", b"u")}[type(value)]
    return start + b"".join(_body(part) for part in parts) + end


def array(values: Any, **changes: Any) -> Named:
    """Return an array as the files keep it; ``shape``, ``code``, ``order`` and ``raw`` can say something else."""
    values = np.ascontiguousarray(values)
    told = {"shape": values.shape, "code": values.dtype.str[1:], "order": values.dtype.str[0], "raw": values.tobytes()}
    told |= changes
    kind = Named("numpy", "dtype", (told["code"], 0, 1), (3, told["order"], None, None, None, -1, -1, 0))
    made = (Named("numpy", "ndarray"), (0,), "b")
    return Named("numpy.core.multiarray", "_reconstruct", made, (1, told["shape"], kind, False, told["raw"]))


def sparse(values: Any, **changes: Any) -> Named:
    """Return a sparse matrix as the files keep it; parts of its state can be something else."""
    matrix = csr_matrix(np.asarray(values, dtype=np.float32))
    state = {name: array(getattr(matrix, name)) for name in ("data", "indices", "indptr")}
    return Named("scipy.sparse.csr", "csr_matrix", (), {**state, "_shape": matrix.shape, **changes}, new=True)


def parts(seed: int = 0) -> dict[str, Any]:
    """Return the content of the eight files by their endings: 554 nodes, four of them isolated and no rows of tx."""
    random = np.random.default_rng(seed)
    x = (random.random((KNOWN + TEST, FEATURES)) < 0.3).astype(np.float32)
    y = np.eye(CLASSES, dtype=np.int32)[random.integers(CLASSES, size=KNOWN + TEST)]
    y[:LABELLED] = np.eye(CLASSES, dtype=np.int32)[np.arange(LABELLED) % CLASSES]
    order = KNOWN + random.permutation(NODES - KNOWN)[:TEST]
    order[0] = NODES - 1 if NODES - 1 not in order else order[0]
    edges: dict[int, list[int]] = {node: [] if node in order or node < KNOWN else [node] for node in range(NODES)}
    for source in (*range(KNOWN), *order.tolist()):
        target = int(random.integers(KNOWN))
        edges[source].append(target)
        edges[target].append(source)
    return {
        "x": sparse(x[:LABELLED]),
        "tx": sparse(x[KNOWN:]),
        "allx": sparse(x[:KNOWN]),
        "y": array(y[:LABELLED]),
        "ty": array(y[KNOWN:]),
        "ally": array(y[:KNOWN]),
        "graph": edges,
        "test.index": "".join(f"{node}\n" for node in order).encode(),
    }


def write(root: Path, content: dict[str, Any], name: str = "citeseer", folder: str = "CiteSeer") -> Path:
    """Write ``root/CiteSeer/raw/ind.citeseer.*``; bytes are written as they are, other values are pickled."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part, value in content.items():
        (raw / f"ind.{name}.{part}").write_bytes(value if isinstance(value, bytes) else pickled(value))
    return root
