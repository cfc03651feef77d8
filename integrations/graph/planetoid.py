"""How do the files of Planetoid (Cora, CiteSeer, PubMed) become a graph with the public split, without a download?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddkit.data.storage import data_root
from ddkit.errors import DataError, unknown_name
from ddkit.integrations.graph.host import Data
from ddkit.integrations.graph.planetoid_files import MOST_ENTRIES, read_array, read_neighbours, read_order

SETS = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
#: Nodes after the labelled ones that validate.
VALIDATION = 500

_Arrays = dict[str, NDArray[np.float32]]


def planetoid(name: str, root: Path | str | None = None, *, normalise: bool = False) -> Data:
    """Return Cora, CiteSeer or PubMed with the public split, as PyG's ``Planetoid`` does; nothing is downloaded.

    Args:
        name: ``cora``, ``citeseer`` or ``pubmed``.
        root: folder that holds ``Planetoid/Cora/raw/ind.cora.x`` and so on, or ``Cora/raw/...``; None for $DDKIT_DATA.
        normalise: divide every row of x by its sum, as PyG's ``NormalizeFeatures`` and every published figure of
            condensation do; otherwise x is as in the files (word counts of Cora and CiteSeer).

    Raises:
        DataError: a file is missing or is not what it should be.
    """
    if str(name).lower() not in SETS:
        raise unknown_name("Planetoid set", name, SETS)
    stem = f"ind.{name.lower()}"
    folder = _folder(name.lower(), data_root(root))
    arrays = {part: read_array(folder / f"{stem}.{part}") for part in ("x", "tx", "allx", "y", "ty", "ally")}
    neighbours = read_neighbours(folder / f"{stem}.graph")
    order = read_order(folder / f"{stem}.test.index")
    try:
        data = _assemble(arrays, neighbours, order)
    except DataError as error:
        raise DataError(f"the files in '{folder}' do not fit together, {error}: copy them again") from None
    if normalise:
        data.x = data.x / data.x.sum(1, keepdim=True).clamp(min=1.0)
    return data


def _folder(name: str, root: Path) -> Path:
    for folder in (root / "Planetoid" / SETS[name] / "raw", root / SETS[name] / "raw"):
        if (folder / f"ind.{name}.x").is_file():
            return folder
    raise DataError(
        f"'{root}' has no Planetoid/{SETS[name]}/raw/ind.{name}.x: put the eight ind.{name}.* files there, or name "
        f"their folder by data_root or DDKIT_DATA"
    )


def _assemble(arrays: _Arrays, neighbours: dict[int, list[int]], order: list[int]) -> Data:
    """Put test rows, which the files keep in another order and without isolated nodes, in their places."""
    count = _checked_count(arrays, neighbours, order)
    known, labelled, test = len(arrays["allx"]), len(arrays["y"]), torch.tensor(order)
    x = torch.zeros(count, arrays["allx"].shape[1])
    scores = torch.zeros(count, arrays["ally"].shape[1])
    for whole, first, last in ((x, "allx", "tx"), (scores, "ally", "ty")):
        whole[:known] = torch.from_numpy(arrays[first])
        whole[test] = torch.from_numpy(arrays[last])
    data = Data(x=x, edge_index=_edges(neighbours, count), y=scores.argmax(1))
    for name, nodes in (
        ("train", torch.arange(labelled)),
        ("val", torch.arange(labelled, labelled + VALIDATION)),
        ("test", test),
    ):
        mask = torch.zeros(count, dtype=torch.bool)
        mask[nodes] = True
        data[f"{name}_mask"] = mask
    return data


def _checked_count(arrays: _Arrays, neighbours: dict[int, list[int]], order: list[int]) -> int:
    """Return N, once rows, columns and node numbers of all files agree and no memory is taken beyond theirs."""
    for rows, columns in (("x", "y"), ("tx", "ty"), ("allx", "ally")):
        if len(arrays[rows]) != len(arrays[columns]):
            raise DataError(f"{rows} has {len(arrays[rows])} rows and {columns} {len(arrays[columns])}")
    for first, others in (("allx", ("x", "tx")), ("ally", ("y", "ty"))):
        for other in others:
            if arrays[other].shape[1] != arrays[first].shape[1]:
                raise DataError(f"{other} has {arrays[other].shape[1]} columns and {first} {arrays[first].shape[1]}")
    if any(((own != 0) & (own != 1)).any() or (own.sum(1) > 1).any() for own in (arrays[p] for p in ("ally", "ty"))):
        raise DataError("a row of ally or ty does not mark one class")
    known, labelled = len(arrays["allx"]), len(arrays["y"])
    if labelled + VALIDATION > known:
        raise DataError(f"{labelled} labelled and {VALIDATION} validation nodes are more than the {known} of allx")
    if len(order) != len(arrays["tx"]) or len(set(order)) != len(order):
        raise DataError(f"test.index names {len(set(order))} nodes for the {len(arrays['tx'])} rows of tx")
    # Isolated test nodes have no row of tx, but the graph names them.
    count = max(known + len(order), len(neighbours))
    strange = [node for node in order if not known <= node < count]
    if strange:
        raise DataError(f"test.index names node {strange[0]}, which is not among the test nodes {known} to {count - 1}")
    if count * arrays["allx"].shape[1] > MOST_ENTRIES:
        raise DataError(f"{count} nodes with {arrays['allx'].shape[1]} features are more than any set of Planetoid has")
    return count


def _edges(neighbours: dict[int, list[int]], count: int) -> Tensor:
    """Return edges (2, E) in both directions, ordered, without self loops."""
    pairs = [(source, target) for source, own in neighbours.items() for target in own if source != target]
    strange = [node for pair in pairs for node in pair if not 0 <= node < count]
    if strange:
        raise DataError(f"graph names node {str(strange[0])[:20]} of {count} nodes")
    edges = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    keys = torch.cat([edges[0] * count + edges[1], edges[1] * count + edges[0]]).unique()
    return torch.stack([keys // count, keys % count])
