"""Does a condensed graph come back from its file as it was, and is a damaged file refused?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data

from ddkit.base.container import pack
from ddkit.errors import ArtifactError
from ddkit.integrations.graph import GraphCondenser, load, random_families, save
from ddkit.integrations.graph.artifact import FORMAT
from tests.integrations.graph_small import QUICK, condensed, small_graph


def same(a: Data, b: Data) -> bool:
    names = set(a.keys()) | set(b.keys())
    return all(torch.equal(a[n], b[n]) if torch.is_tensor(a[n]) else a[n] == b[n] for n in names)


@pytest.mark.parametrize("method", ["means", "gcond"])
def test_a_graph_comes_back_with_its_provenance(tmp_path: Path, method: str) -> None:
    small = condensed(small_graph(), method, **QUICK.get(method, {}))
    path = save(small, tmp_path / "graph.safetensors")
    again = load(path)
    assert isinstance(again, Data) and same(small, again)
    assert again.validate() and again.num_nodes == small.num_nodes
    assert save(again, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("method", ["random", "doscond"])
def test_a_set_of_graphs_comes_back(tmp_path: Path, method: str) -> None:
    options = {"steps": 2} if method == "doscond" else {}
    made = GraphCondenser(method, graphs_per_class=2, **options).condense(random_families(12, 8))
    again = load(save(made, tmp_path / "set.safetensors"))
    assert isinstance(again, list) and len(again) == 6
    assert all(same(a, b) for a, b in zip(made, again, strict=True))


def test_the_file_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    small = condensed(small_graph())
    tensors = load_file(save(small, tmp_path / "graph.safetensors"))
    assert torch.equal(tensors["x"], small.x) and set(tensors) == {"x", "y"}


@pytest.mark.parametrize("position", [20, -1, 500])
def test_a_changed_byte_is_refused(tmp_path: Path, position: int) -> None:
    path = save(condensed(small_graph()), tmp_path / "graph.safetensors")
    raw = bytearray(path.read_bytes())
    raw[position] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ArtifactError):
        load(path)


def test_a_truncated_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    path = save(condensed(small_graph()), tmp_path / "graph.safetensors")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ArtifactError):
        load(path)
    with pytest.raises(ArtifactError, match="cannot read"):
        load(tmp_path / "none.safetensors")
    torch.save({"x": torch.ones(2)}, tmp_path / "pickled.pt")
    with pytest.raises(ArtifactError):
        load(tmp_path / "pickled.pt")


GOOD = {"kind": "nodes", "nodes": [2], "edges": [1], "weighted": True, "provenance": [{}]}
TENSORS = {
    "x": torch.ones(2, 3),
    "y": torch.tensor([0, 1]),
    "edge_index": torch.tensor([[0], [1]]),
    "edge_weight": torch.ones(1),
}


@pytest.mark.parametrize(
    ("content", "tensors"),
    [
        ({"nodes": [3]}, {}),
        ({"nodes": [2, 0], "edges": [1, 0], "provenance": [{}, {}]}, {}),
        ({"nodes": [-2]}, {}),
        ({"edges": [2]}, {}),
        ({"kind": "edges"}, {}),
        ({"provenance": [1]}, {}),
        ({"weighted": 1}, {}),
        ({"more": 1}, {}),
        ({}, {"edge_index": torch.tensor([[0], [2]])}),
        ({}, {"edge_index": torch.tensor([[0], [-1]])}),
        ({}, {"edge_weight": -torch.ones(1)}),
        ({}, {"edge_weight": torch.ones(2)}),
        ({}, {"y": torch.zeros(3, dtype=torch.int64)}),
        ({}, {"x": torch.ones(2, 3).double()}),
        ({}, {"z": torch.ones(1)}),
        ({}, {"a\nb": torch.ones(1)}),
        ({}, {"y": torch.tensor([0, -1])}),
        ({}, {"y": torch.tensor([0, 2**53])}),
        ({}, {"y": torch.tensor([0, 2**63 - 1])}),
        ({"kind": "a\nb"}, {}),
        ({"nodes": "a\nb"}, {}),
    ],
)
def test_documents_and_tensors_that_contradict_each_other_are_refused(
    tmp_path: Path, content: dict, tensors: dict
) -> None:
    path = tmp_path / "graph.safetensors"
    path.write_bytes(pack(TENSORS, GOOD, kind=FORMAT, version=1))
    assert isinstance(load(path), Data)
    path.write_bytes(pack({**TENSORS, **tensors}, {**GOOD, **content}, kind=FORMAT, version=1))
    with pytest.raises(ArtifactError) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="no such file"):
        load(tmp_path / "pipe")


def test_graphs_that_cannot_be_stored_are_refused(tmp_path: Path) -> None:
    small = condensed(small_graph())
    small.x[0, 0] = torch.nan
    with pytest.raises(ArtifactError, match=r"finite|NaN"):
        save(small, tmp_path / "graph.safetensors")
    with pytest.raises(ArtifactError, match="no graphs"):
        save([], tmp_path / "graph.safetensors")
    for wrong in (None, "graph", [small.x]):
        with pytest.raises(ArtifactError, match="is no condensed graph"):
            save(wrong, tmp_path / "graph.safetensors")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
