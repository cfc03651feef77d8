"""Are damaged, hostile and contradictory files of Planetoid refused in one line, before memory is taken for them?"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddkit.errors import DataError
from ddkit.integrations.graph import planetoid
from tests.integrations.graph_planetoid import (
    FEATURES,
    KNOWN,
    LABELLED,
    NODES,
    TEST,
    Named,
    Raw,
    array,
    parts,
    pickled,
    sparse,
    write,
)

ROWS = np.ones((LABELLED, FEATURES))
LABELS = np.eye(3, dtype=np.int32)[np.arange(KNOWN) % 3]


def columns(*numbers: int, **changes: Any) -> dict[str, Any]:
    """A sparse matrix with all its entries in the first row, at these columns."""
    entries = {
        "data": array(np.ones(len(numbers), dtype=np.float32)),
        "indices": array(np.array(numbers, dtype=np.int32)),
        "indptr": array(np.array([0] + [len(numbers)] * LABELLED, dtype=np.int32)),
    }
    return {"x": sparse(ROWS, **{**entries, **changes})}


def neighbours(of_node_0: Any) -> dict[str, Any]:
    """A graph whose first node has these neighbours."""
    return {"graph": {**parts()["graph"], 0: of_node_0}}


def order_from(*numbers: int) -> dict[str, Any]:
    """An order of test nodes that starts with these numbers."""
    order = [*numbers, *range(KNOWN, NODES)][:TEST]
    return {"test.index": "\n".join(map(str, order)).encode()}


COPIES = b"c__builtin__\nlist\nq\x01]q\x02" + b"h\x01h\x02\x85Rq\x02" * 50
REFUSED: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "column beyond": (lambda: columns(0, 12), "names column 12 of a matrix with 12 columns"),
    "column far beyond": (lambda: columns(0, 200_000_000), "names column 200000000"),
    "negative column": (lambda: columns(0, -7), "names column -7"),
    "columns of fractions": (lambda: columns(0, indices=array(np.zeros(1, dtype=np.float32))), "no whole numbers"),
    "fewer rows than told": (
        lambda: columns(0, indptr=array(np.array([0, 1], dtype=np.int32))),
        "rows do not fit its entries",
    ),
    "rows that go back": (
        lambda: columns(0, 1, indptr=array(np.array([0, 2, 1, 2, 2, 2, 2], dtype=np.int32))),
        "rows do not fit its entries",
    ),
    "more entries than there are": (
        lambda: columns(0, indptr=array(np.array([0] + [9] * LABELLED, dtype=np.int32))),
        "rows do not fit its entries",
    ),
    "fewer values than columns": (
        lambda: columns(0, 1, data=array(np.ones(1, dtype=np.float32))),
        "rows do not fit its entries",
    ),
    "a matrix of 10^12 entries": (lambda: columns(0, _shape=(10**6, 10**6)), "larger than Planetoid's"),
    "a negative shape": (lambda: columns(0, _shape=(-6, 12)), "not one or two sizes"),
    "no shape": (lambda: columns(0, _shape=None), "not one or two sizes"),
    "no state": (lambda: {"x": Named("scipy.sparse.csr", "csr_matrix", (), new=True)}, "where an array should be"),
    "a matrix within itself": (lambda: {"x": sparse(ROWS, data=sparse(ROWS))}, "where an array should be"),
    "numbers for a matrix": (lambda: {"x": 3}, "where an array should be"),
    "a list of rows": (lambda: {"y": [[1, 0, 0]]}, "where an array should be"),
    "objects for numbers": (lambda: {"ally": array(LABELS, code="O8")}, "of another format"),
    "an order of no bytes": (lambda: {"ally": array(LABELS, order="?")}, "order of bytes"),
    "fewer bytes than told": (lambda: {"ally": array(LABELS, shape=(KNOWN, 4))}, "do not fill their shape"),
    "a vector of labels": (lambda: {"ally": array(LABELS[:, 0])}, "instead of a matrix"),
    "labels that are not finite": (lambda: {"ally": array(np.full((KNOWN, 3), np.nan))}, "not finite"),
    "two labels a node": (lambda: {"ally": array(np.ones_like(LABELS))}, "does not mark one class"),
    "fewer labels than nodes": (lambda: {"ally": array(LABELS[:-1])}, f"allx has {KNOWN} rows and ally {KNOWN - 1}"),
    "other features": (lambda: {"tx": sparse(np.ones((TEST, 5)))}, "tx has 5 columns and allx 12"),
    "too few nodes to validate on": (
        lambda: {"x": sparse(np.ones((30, FEATURES))), "y": array(LABELS[:30])},
        "30 labelled and 500 validation nodes",
    ),
    "a test node far beyond": (lambda: order_from(400_000), "test.index names node 400000"),
    "a test node that is labelled": (lambda: order_from(0), "test.index names node 0"),
    "a test node twice": (lambda: order_from(KNOWN), f"names {TEST - 1} nodes for the {TEST} rows"),
    "too few test nodes": (lambda: {"test.index": str(KNOWN).encode()}, f"names 1 nodes for the {TEST} rows"),
    "words for test nodes": (lambda: {"test.index": b"1708\n-3"}, "b'-3' where a node number should be"),
    "a test node of many digits": (lambda: {"test.index": b"9" * 10**5}, "where a node number should be"),
    "a neighbour beyond": (lambda: neighbours([NODES]), f"graph names node {NODES} of {NODES} nodes"),
    "a negative neighbour": (lambda: neighbours([-1]), "graph names node -1"),
    "a neighbour beyond int64": (lambda: neighbours([2**70]), "graph names node 1180591620717411303"),
    "a neighbour by name": (lambda: neighbours(["one"]), "no whole number"),
    "neighbours without list": (lambda: neighbours(1), "lists of at most"),
    "a list for the graph": (lambda: {"graph": [0, 1]}, "no neighbours of nodes"),
    "one list for very many nodes": (
        lambda: {"graph": Raw(_body_of_shared_list(3000, 3000))},
        "lists of at most",
    ),
    "a memo of 2^31 places": (lambda: {"x": Raw(b"]r\xff\xff\xff\x7f")}, "numbers a part"),
    "a string of 2^31 bytes": (lambda: {"x": Raw(b"T\xff\xff\xff\x7fabc")}, "damaged"),
    "tuples within tuples": (lambda: {"graph": {0: Raw(b")" + b"\x85" * 5000)}}, "more parts than any file"),
    "operations without end": (lambda: {"graph": Raw(b"]0" * 10 + b"]")}, "uses POP"),
    "very many operations": (lambda: {"graph": Raw(b"(" + b"]" * 2**20 + b"l")}, "more parts than any file"),
    "copies of a list": (lambda: {"graph": Raw(COPIES)}, "no neighbours"),
    "a class that is no part of Planetoid": (lambda: {"x": Named("os", "system", ("true",))}, "'os.system'"),
    "a name of two lines": (lambda: {"x": Raw(b"\x8c\x03a\nb\x8c\x01c\x93")}, "'a\\\\nb.c'"),
    "attributes for a dictionary": (
        lambda: {"graph": Named("collections", "defaultdict", (), {"x": 1})},
        "gives a dictionary attributes",
    ),
    "half a file": (lambda: {"allx": pickled(parts()["allx"])[:900]}, "damaged"),
    "an empty file": (lambda: {"allx": b""}, "damaged"),
}


def _body_of_shared_list(nodes: int, length: int) -> bytes:
    """A dictionary of many nodes that all have the same neighbours, kept once."""
    shared = b"](" + b"K\x01" * length + b"eq\x01"
    rest = b"".join(b"J" + struct.pack("<i", node) + b"h\x01" for node in range(1, nodes))
    return b"}(K\x00" + shared + rest + b"u"


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_hold_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    root = write(tmp_path, {**parts(), **change()})
    with pytest.raises(DataError, match=message) as error:
        planetoid("citeseer", root)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400
    assert str(root) in str(error.value)


def test_isolated_test_nodes_are_read_as_pyg_reads_them(tmp_path: Path) -> None:
    from torch_geometric.io import read_planetoid_data

    write(tmp_path, parts())
    expected = read_planetoid_data(str(tmp_path / "CiteSeer" / "raw"), "citeseer")
    found = planetoid("citeseer", tmp_path)
    assert found.num_nodes == NODES and found.validate()
    for name in ("x", "y", "train_mask", "val_mask", "test_mask"):
        assert torch.equal(found[name], expected[name]), name
    assert torch.equal(found.coalesce().edge_index, expected.coalesce().edge_index)


def test_features_are_counts_or_divided_by_their_sums_as_pyg_does(tmp_path: Path) -> None:
    from torch_geometric.transforms import NormalizeFeatures

    raw = planetoid("citeseer", write(tmp_path, parts()))
    assert raw.x.unique().tolist() == [0.0, 1.0]
    found = planetoid("citeseer", tmp_path, normalise=True)
    assert torch.equal(found.x, NormalizeFeatures()(raw.clone()).x)
    assert float(found.x.sum(1).max()) == pytest.approx(1.0)


def test_a_pipe_a_folder_and_a_huge_file_are_no_files_of_planetoid(tmp_path: Path) -> None:
    raw = write(tmp_path, parts()) / "CiteSeer" / "raw"
    for part in ("allx", "test.index"):
        path = raw / f"ind.citeseer.{part}"
        kept = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(DataError, match="missing or not a file"):
            planetoid("citeseer", tmp_path)
        path.unlink()
        path.mkdir()
        with pytest.raises(DataError, match="missing or not a file"):
            planetoid("citeseer", tmp_path)
        path.rmdir()
        with path.open("wb") as stream:
            stream.truncate(2**26 + 1)
        with pytest.raises(DataError, match="larger than any file"):
            planetoid("citeseer", tmp_path)
        path.write_bytes(kept)
    assert planetoid("citeseer", tmp_path).num_nodes == NODES
