"""How are the files of Planetoid (Cora, CiteSeer, PubMed) read without unpickling and without writing beside them?

The authors published pickles. Here they are interpreted with every class replaced by a record of this module, which
does nothing when it is built: a file can make numbers, texts, lists and records, and nothing else.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from ddkit.data.storage import data_root
from ddkit.errors import DataError, unknown_name
from ddkit.integrations.graph.host import Data

SETS = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph")
_LARGEST = 2**28


class _Record:
    """Stands for an array, a number format or a sparse matrix of a file; keeps what the file says of it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Record):
    pass


class _Format(_Record):
    pass


class _Matrix(_Record):
    pass


class _Neighbours(dict[int, Any]):
    """Stands for ``defaultdict(list)``."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()


def _rebuilt(*arguments: Any) -> _Array:
    return _Array()


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Format,
    ("numpy.core.multiarray", "_reconstruct"): _rebuilt,
    ("scipy.sparse.csr", "csr_matrix"): _Matrix,
    ("collections", "defaultdict"): _Neighbours,
    ("__builtin__", "list"): list,
}


class _Interpreter(pickle.Unpickler):
    """Interprets a pickle; no name of a file reaches the import system."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the harmless stand-in of a class."""
        if (module, name) not in _KNOWN:
            raise DataError(f"names {module}.{name}, which no file of Planetoid does: it may be an attack, delete it")
        return _KNOWN[module, name]


def planetoid(name: str, root: Path | str | None = None) -> Data:
    """Return Cora, CiteSeer or PubMed with the public split, as PyG's ``Planetoid`` does; nothing is downloaded.

    Args:
        name: ``cora``, ``citeseer`` or ``pubmed``.
        root: folder that holds ``Planetoid/Cora/raw/ind.cora.x`` and so on, or ``Cora/raw/...``; None for $DDKIT_DATA.

    Raises:
        DataError: a file is missing or is not what it should be.
    """
    if name.lower() not in SETS:
        raise unknown_name("Planetoid set", name, SETS)
    folder = _folder(name.lower(), data_root(root))
    parts = {part: _read(folder / f"ind.{name.lower()}.{part}") for part in _PARTS}
    order = _test_order(folder / f"ind.{name.lower()}.test.index")
    try:
        return _assemble(parts, order)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"the files in '{folder}' do not fit together ({error}): copy them again") from None


def _folder(name: str, root: Path) -> Path:
    for folder in (root / "Planetoid" / SETS[name] / "raw", root / SETS[name] / "raw"):
        if (folder / f"ind.{name}.x").is_file():
            return folder
    raise DataError(
        f"'{root}' has no Planetoid/{SETS[name]}/raw/ind.{name}.x: put the eight ind.{name}.* files there, or name "
        f"their folder by data_root or DDKIT_DATA"
    )


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"'{path}' is larger than any file of Planetoid: copy it again")
        value = _Interpreter(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        return value if isinstance(value, dict) else _numbers(value)
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}; copy it again") from None
    except DataError as error:
        raise DataError(f"'{path}' {error}") from None
    except Exception as error:  # a damaged file can end in any of the errors of the interpreter
        raise DataError(f"'{path}' is damaged ({type(error).__name__}: {error}): copy it again") from None


def _numbers(record: Any) -> Any:
    """Return the array or the dense form of the matrix that a record describes."""
    if isinstance(record, _Matrix):
        state = dict(record.state)
        parts = (_numbers(state["data"]), _numbers(state["indices"]), _numbers(state["indptr"]))
        return csr_matrix(parts, shape=state["_shape"]).toarray()
    _, shape, kind, fortran, raw = record.state
    code = kind.arguments[0]
    if code not in ("f4", "f8", "i4", "i8", "u1", "b1"):
        raise DataError(f"holds numbers of format {code!r}: copy it again")
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    order = kind.state[1] if kind.state[1] in "<>" else "="
    return np.frombuffer(raw, np.dtype(code).newbyteorder(order)).reshape(shape, order="F" if fortran else "C")


def _test_order(path: Path) -> Tensor:
    try:
        return torch.tensor([int(line) for line in path.read_text(encoding="ascii").split()])
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}; copy it again") from None


def _assemble(parts: dict[str, Any], order: Tensor) -> Data:
    """Put test rows, which the files keep in another order and without isolated nodes, in their places."""
    known = len(parts["allx"])
    count = max(int(order.max()) + 1, known + len(parts["tx"]))
    x = torch.zeros(count, parts["allx"].shape[1])
    scores = torch.zeros(count, parts["ally"].shape[1])
    for whole, first, last in ((x, "allx", "tx"), (scores, "ally", "ty")):
        whole[:known] = torch.from_numpy(np.ascontiguousarray(parts[first], dtype=np.float32))
        whole[order] = torch.from_numpy(np.ascontiguousarray(parts[last], dtype=np.float32))
    pairs = [(source, target) for source, own in parts["graph"].items() for target in own]
    edges = torch.tensor(pairs, dtype=torch.int64).T
    edges = edges[:, edges[0] != edges[1]]
    keys = torch.cat([edges[0] * count + edges[1], edges[1] * count + edges[0]]).unique()
    data = Data(x=x, edge_index=torch.stack([keys // count, keys % count]), y=scores.argmax(1))
    labelled = len(parts["y"])
    for name, nodes in (
        ("train", torch.arange(labelled)),
        ("val", torch.arange(labelled, labelled + 500)),
        ("test", order),
    ):
        mask = torch.zeros(count, dtype=torch.bool)
        mask[nodes] = True
        data[f"{name}_mask"] = mask
    return data
