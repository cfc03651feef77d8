"""What does a file of Planetoid hold? Its pickle is interpreted within bounds, and nothing in it is run or believed.

Every class is replaced by a record of this module, which does nothing when it is built. Before that the operations of
the pickle are counted, as a few bytes can ask for gigabytes (a memo of 2^31 places) or for a stack of any depth (the
hash of nested tuples). What the records say is checked before NumPy and SciPy are given it: SciPy writes outside its
memory for a column number that a matrix does not have.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from ddkit.errors import DataError

#: Bytes of a file, operations, tuples, and entries of a dense matrix; Planetoid has at most 11 MB, 0.3, and 12 million.
MOST_BYTES = 2**26
MOST_OPERATIONS = 2**20
MOST_TUPLES = 1000
MOST_ENTRIES = 2**26

_OPERATIONS = (
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1",
    "BINFLOAT", "SHORT_BINSTRING", "BINSTRING", "SHORT_BINUNICODE", "BINUNICODE", "EMPTY_TUPLE", "EMPTY_LIST",
    "EMPTY_DICT", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "BINPUT",
    "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD",
)  # fmt: skip
_NUMBERS = ("f4", "f8", "i4", "i8", "u1", "b1")


class _Record:
    """Stands for something of a file that is no number, text or list; keeps what the file says of it."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Record):
    pass


class _Format(_Record):
    pass


class _Matrix(_Record):
    pass


class _Rebuilt(_Record):
    """Stands for the function that makes an empty array."""

    def __new__(cls, *arguments: Any) -> Any:
        return _Array()


class _Neighbours(dict[int, Any]):
    """Stands for ``defaultdict(list)``."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        raise DataError("gives a dictionary attributes, which no file of Planetoid does: copy it again")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Format,
    ("numpy.core.multiarray", "_reconstruct"): _Rebuilt,
    ("scipy.sparse.csr", "csr_matrix"): _Matrix,
    ("collections", "defaultdict"): _Neighbours,
    ("__builtin__", "list"): _Record,
}


class _Interpreter(pickle.Unpickler):
    """Interprets a pickle; no name of a file reaches the import system."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the harmless stand-in of a class."""
        if (module, name) not in _KNOWN:
            named = f"{module}.{name}"[:80]
            raise DataError(f"names {named!r}, which no file of Planetoid does: it may be an attack, delete it")
        return _KNOWN[module, name]


def read_array(path: Path) -> NDArray[np.float32]:
    """Return the matrix of a file (rows, columns), dense and finite.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    return _read(path, _matrix)


def read_neighbours(path: Path) -> dict[int, list[int]]:
    """Return the neighbours of every node that a file names; the numbers may be any.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    return _read(path, _checked_neighbours)


def read_order(path: Path) -> list[int]:
    """Return the node numbers of a text file, one a line.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    return _read(path, lambda order: order, _whole_numbers)


def _whole_numbers(raw: bytes) -> list[int]:
    words = raw.split()
    strange = [word for word in words if not (word.isdigit() and len(word) < 10)]
    if strange:
        raise DataError(f"holds {strange[0][:20]!r} where a node number should be: copy it again")
    return [int(word) for word in words]


def _read(path: Path, check: Any, parse: Any = None) -> Any:
    try:
        if not path.is_file():
            raise DataError("is missing or not a file: copy it again")
        with path.open("rb") as stream:
            raw = stream.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise DataError("is larger than any file of Planetoid: copy it again")
        return check((parse or _interpreted)(raw))
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}; copy it again") from None
    except DataError as error:
        raise DataError(f"'{path}' {error}") from None
    except Exception as error:  # a damaged file can end in any of the errors of the interpreter
        raise DataError(f"'{path}' is damaged ({type(error).__name__}): copy it again") from None


def _interpreted(raw: bytes) -> Any:
    """Return what a pickle makes, once its operations are known to stay small."""
    tuples = count = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(raw), 1):
        if operation.name not in _OPERATIONS:
            raise DataError(f"uses {operation.name}, which no file of Planetoid does: it may be an attack, delete it")
        tuples += operation.name.startswith("TUPLE")
        if count > MOST_OPERATIONS or tuples > MOST_TUPLES:
            raise DataError("has more parts than any file of Planetoid: copy it again")
        if operation.name == "LONG_BINPUT" and argument is not None and argument > MOST_OPERATIONS:
            raise DataError(f"numbers a part {argument}, more than it can have: it may be an attack, delete it")
    return _Interpreter(io.BytesIO(raw), encoding="latin1").load()


def _checked_neighbours(value: Any) -> dict[int, list[int]]:
    if not isinstance(value, dict):
        raise DataError("holds no neighbours of nodes: copy it again")
    if not all(type(own) is list for own in value.values()) or sum(map(len, value.values())) > MOST_OPERATIONS:
        raise DataError(f"does not hold lists of at most {MOST_OPERATIONS} neighbours: copy it again")
    for own in (value, *value.values()):
        if not all(type(node) is int for node in own):
            raise DataError("names a node by something that is no whole number: copy it again")
    return value


def _matrix(record: Any) -> NDArray[np.float32]:
    """Return the array, or the dense form of the sparse matrix, that a record describes."""
    with np.errstate(over="ignore"):
        dense = (_dense(record) if isinstance(record, _Matrix) else _array(record)).astype(np.float32)
    if dense.ndim != 2 or not dense.size:
        raise DataError(f"holds numbers of shape {dense.shape} instead of a matrix: copy it again")
    if not np.isfinite(dense).all():
        raise DataError("holds numbers that are not finite: copy it again")
    return np.ascontiguousarray(dense)


def _dense(record: _Matrix) -> NDArray[Any]:
    state = record.state if isinstance(record.state, dict) else {}
    data, columns, pointers = (_array(state.get(name)) for name in ("data", "indices", "indptr"))
    shape = _shape(state.get("_shape"))
    if len(shape) != 2 or shape[0] * shape[1] > MOST_ENTRIES:
        raise DataError(f"holds a sparse matrix of shape {shape}, larger than Planetoid's: copy it again")
    if any(part.ndim != 1 for part in (data, columns, pointers)) or {columns.dtype.kind, pointers.dtype.kind} != {"i"}:
        raise DataError("holds a sparse matrix with places that are no whole numbers: copy it again")
    ascending = len(pointers) == shape[0] + 1 and pointers[0] == 0 and not (pointers[1:] < pointers[:-1]).any()
    if not ascending or not pointers[-1] <= len(columns) == len(data):
        raise DataError("holds a sparse matrix whose rows do not fit its entries: copy it again")
    if len(columns) and not (columns.min() >= 0 and columns.max() < shape[1]):
        wrong = columns.min() if columns.min() < 0 else columns.max()
        raise DataError(f"names column {wrong} of a matrix with {shape[1]} columns: copy it again")
    return csr_matrix((data, columns, pointers), shape=shape).toarray()


def _array(record: Any) -> NDArray[Any]:
    state = record.state if isinstance(record, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Format):
        raise DataError("holds something else where an array should be: copy it again")
    _, shape, kind, fortran, raw = state
    code = kind.arguments[0] if kind.arguments else None
    if type(code) is not str or code not in _NUMBERS:
        raise DataError(f"holds numbers of another format than {', '.join(_NUMBERS)}: copy it again")
    order = kind.state[1] if isinstance(kind.state, tuple) and len(kind.state) > 1 else None
    if order not in ("<", ">", "=", "|"):
        raise DataError("holds numbers of an unknown order of bytes: copy it again")
    number = np.dtype(code).newbyteorder(order if order in "<>" else "=")
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    sizes = _shape(shape)
    if not isinstance(raw, bytes) or int(np.prod(sizes, dtype=object)) * number.itemsize != len(raw):
        raise DataError(f"holds numbers that do not fill their shape {sizes}: copy it again")
    return np.frombuffer(raw, number).reshape(sizes, order="F" if fortran else "C")


def _shape(value: Any) -> tuple[int, ...]:
    """Return one or two sizes."""
    sized = isinstance(value, tuple) and 1 <= len(value) <= 2
    if not sized or not all(type(size) is int and 0 <= size <= MOST_ENTRIES for size in value):
        raise DataError("holds an array whose shape is not one or two sizes: copy it again")
    return value
