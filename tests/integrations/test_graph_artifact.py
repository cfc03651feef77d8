"""Does a condensed graph come back from its file as it was, and is a damaged file refused?"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch_geometric.data import Data

from ddkit.base.container import pack, unpack
from ddkit.errors import ArtifactError, ConfigError, DDKitError
from ddkit.integrations.graph import GraphCondenser, coded, load, random_families, save, stored_bytes
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


CODECS = ["float32", "float16", "uniform:bits=4", "uniform:bits=3,group=image"]


def plain(graph: Data) -> Data:
    """Return a graph without its coding."""
    made = graph.clone()
    del made.coding
    return made


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("method", ["means", "gcond"])
def test_a_coded_graph_is_what_its_file_decodes_to_in_fewer_bytes(tmp_path: Path, method: str, codec: str) -> None:
    small = condensed(small_graph(), method, **QUICK.get(method, {}))
    held = coded(small, codec)
    assert isinstance(held, Data)
    path = save(held, tmp_path / "coded.safetensors")
    again = load(path)
    assert isinstance(again, Data) and same(plain(held), plain(again)) and stored_bytes(again) == stored_bytes(held)
    assert save(again, tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    kept = load_file(path)
    assert sum(tensor.nbytes for tensor in kept.values()) == stored_bytes(held) == held.provenance["bytes"]
    assert "coded.0.y.symbols" not in kept and held.provenance["codec"] == codec
    assert torch.equal(held.y, small.y) and edges(held) == edges(small)
    far = float((held.x - small.x).abs().max())
    assert far == 0 if codec == "float32" else 0 < far < float(small.x.max() - small.x.min()) / 4
    assert stored_bytes(held) < stored_bytes(small)


def edges(graph: Data) -> set[tuple[int, int]]:
    return {(int(a), int(b)) for a, b in graph.edge_index.T.tolist()}


def test_sets_of_graphs_are_coded_one_by_one(tmp_path: Path) -> None:
    made = GraphCondenser("random", graphs_per_class=2).condense(random_families(12, 8))
    held = coded(made, "float16")
    again = load(save(held, tmp_path / "set.safetensors"))
    assert isinstance(again, list) and len(again) == 6
    for before, one, other in zip(made, held, again, strict=True):
        assert same(plain(one), plain(other)) and edges(before) == edges(one) and torch.equal(before.y, one.y)
        assert stored_bytes(one) < stored_bytes(before)


def test_an_uncoded_graph_is_written_as_format_1(tmp_path: Path) -> None:
    raw = save(condensed(small_graph()), tmp_path / "graph.safetensors").read_bytes()
    assert b'\\"format_version\\":1' in raw and b'\\"codec\\"' not in raw


def test_edges_of_large_graphs_come_back(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, 700, (2, 40), generator=generator)
    graph = Data(x=torch.rand(700, 2, generator=generator), edge_index=places, y=torch.arange(700) % 9)
    held = coded(graph, "uniform:bits=8")
    assert isinstance(held, Data) and edges(held) == edges(graph) and torch.equal(held.y, graph.y)
    rows = held.edge_index[0] * 700 + held.edge_index[1]
    assert bool((rows.diff() >= 0).all()) and held.edge_index.shape == (2, 40)


def test_a_coded_graph_that_was_changed_is_not_saved(tmp_path: Path) -> None:
    held = coded(condensed(small_graph()), "uniform:bits=4")
    assert isinstance(held, Data)
    held.x[0, 0] += 1
    with pytest.raises(ArtifactError, match="changed or mixed after they were coded: code them anew"):
        save(held, tmp_path / "graph.safetensors")
    with pytest.raises(ArtifactError, match="changed or mixed"):
        save([*coded([small_graph_of_set()], "float16"), small_graph_of_set()], tmp_path / "graph.safetensors")


def small_graph_of_set() -> Data:
    return Data(x=torch.rand(3, 2), edge_index=torch.tensor([[0, 1], [1, 0]]), y=torch.tensor([1]))


@pytest.mark.parametrize(
    ("codec", "words"),
    [
        ("uniforn:bits=3", "did you mean 'uniform'"),
        ("uniform:bits=9", r"codec.bits=9 must lie in \[1, 8\]"),
        ("palette", "palette is for images"),
        ("dct", "dct .* is for images"),
    ],
)
def test_a_codec_that_cannot_hold_a_graph_is_refused(codec: str, words: str) -> None:
    with pytest.raises(DDKitError, match=words):
        coded(condensed(small_graph()), codec)


def test_numbers_that_float16_cannot_hold_are_refused() -> None:
    graph = condensed(small_graph())
    graph.x = graph.x * 1e9
    with pytest.raises(ConfigError, match="float16 ends at 65504: use codec float32"):
        coded(graph, "float16")


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, torch.Tensor]], Any], str]] = {
    "no codec": (lambda c, t: c.update(codec=3), "codec is not described"),
    "too few graphs": (lambda c, t: c["codec"].update(graphs=[]), "codec is not described for 1 graphs"),
    "entries that are none": (lambda c, t: c["codec"]["graphs"][0].update(x=3), "codec is not described"),
    "no features": (lambda c, t: c["codec"]["graphs"][0].pop("x"), "unknown tensor"),
    "a strange tensor": (lambda c, t: t.update({"coded.9.x": torch.zeros(1)}), "unknown tensor 'coded.9.x'"),
    "an uncoded tensor": (lambda c, t: t.update(x=torch.zeros(1)), "unknown tensor 'x'"),
    "more nodes": (lambda c, t: c.update(nodes=[c["nodes"][0] + 1]), "do not make"),
    "a gigantic shape": (
        lambda c, t: c["codec"]["graphs"][0]["x"].update(shape=[2**30, 1, 2**30]),
        "coded bytes announce",
    ),
    "as many edges as announced": (
        lambda c, t: (
            c.update(edges=[10**9]),
            c["codec"]["graphs"][0]["edge_index"].update(shape=[4, 10**9]),
            c["codec"]["graphs"][0]["edge_weight"].update(shape=[1, 1, 10**9]),
        ),
        "coded bytes announce",
    ),
    "more digits": (lambda c, t: c["codec"]["graphs"][0]["edge_index"].update(shape=[9, c["edges"][0]]), "do not make"),
    "other edges": (lambda c, t: c["codec"]["graphs"][0]["edge_index"].update(kind="uniform"), "not as gaps"),
    "nodes that are not there": (
        lambda c, t: (
            t.update({"coded.0.edge_index.symbols": torch.full((c["edges"][0],), 255, dtype=torch.uint8)}),
            c["codec"]["graphs"][0]["edge_index"].update(
                shape=[1, c["edges"][0]], coder="raw", order="images", packed=False
            ),
        ),
        "names a node that its graph does not have",
    ),
    "an unknown kind": (lambda c, t: c["codec"]["graphs"][0]["x"].update(kind="mine"), "registers codec 'mine'"),
    "cut symbols": (
        lambda c, t: t.update({"coded.0.x.symbols": t["coded.0.x.symbols"][:-3]}),
        "symbols|bytes",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_coded_file_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    change, words = HOSTILE[case]
    small = condensed(small_graph(), "gcond", **QUICK["gcond"])
    raw = save(coded(small, "uniform:bits=4,coder=zlib"), tmp_path / "coded.safetensors").read_bytes()
    content, tensors = unpack(io.BytesIO(raw), len(raw), kind=FORMAT, version=2)
    change(content, tensors)
    (tmp_path / "bad.safetensors").write_bytes(pack(tensors, content, kind=FORMAT, version=2))
    with pytest.raises(ArtifactError, match=words) as caught:
        load(tmp_path / "bad.safetensors")
    assert "\n" not in str(caught.value)
