"""How is a condensed graph kept: one checked ``.safetensors`` file without pickle, for one graph or several?

Tensors: ``x`` (n, F) and ``y``, of all graphs one after the other; ``edge_index`` (2, E) and ``edge_weight`` (E,), if
there are edges; node numbers count within their own graph. Content: ``kind`` (``nodes`` or ``graphs``), ``nodes`` and
``edges`` of every graph, ``weighted`` and the ``provenance`` of every graph. The envelope, its checksum and what a
reader refuses are those of :mod:`ddkit.base.container`.

Format 2 is of coded graphs: tensors ``coded.<graph>.<name>.<part>`` in place of these, and ``codec`` in the content
(:mod:`ddkit.integrations.graph.coded`). Others are written in format 1, as ever.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddkit.base.container import pack, unpack
from ddkit.base.files import write_atomically
from ddkit.data.distilled.coding import Coding
from ddkit.errors import ArtifactError
from ddkit.integrations.graph.coded import code_graph, codings_of, contents, decode_graph
from ddkit.integrations.graph.host import Data

FORMAT = "ddkit.condensed-graph"
#: Of graphs that are stored as they are, and of coded ones.
PLAIN_VERSION, FORMAT_VERSION = 1, 2
#: Labels are compared as float64.
MOST_LABELS = 2**53


def save(condensed: Data | Sequence[Data], path: Path | str) -> Path:
    """Write a condensed graph, or the graphs of a condensed set; equal content gives equal bytes.

    Raises:
        ArtifactError: it cannot be stored (no graphs, NaN, features of unequal width).
        CheckpointError: the disk is full or the folder cannot be written; nothing was changed.
    """
    content, tensors = _stored(condensed)
    version = PLAIN_VERSION
    codings: list[Any] = [getattr(graph, "coding", None) for graph in _listed(condensed)]
    if any(coding is not None for coding in codings):
        made = _decoded(content, codings) if None not in codings and len({one.codec for one in codings}) == 1 else {}
        if set(made) != set(tensors) or any(not torch.equal(tensors[name], own) for name, own in made.items()):
            raise ArtifactError("graphs were changed or mixed after they were coded: code them anew")
        content, version = {**content, "codec": contents(codings)}, FORMAT_VERSION
        tensors = {
            f"coded.{number}.{name}": part for number, one in enumerate(codings) for name, part in one.parts().items()
        }
    raw = pack(tensors, content, kind=FORMAT, version=version)
    return write_atomically(path, lambda temporary: temporary.write_bytes(raw))


def coded(condensed: Data | Sequence[Data], codec: str) -> Data | list[Data]:
    """Return a condensed graph, or the graphs of a condensed set, in fewer bytes: what a codec keeps, decoded.

    Features and edge weights go through the codec and change slightly; labels and edges, now in the order of their
    rows, do not. :func:`save` writes the coded form, and ``provenance["bytes"]`` counts it.

    >>> small = coded(condense(graph), "uniform:bits=4")

    Args:
        condensed: what ``condense()`` returned.
        codec: a name of :data:`ddkit.codecs.registry` with its options.

    Raises:
        UnknownNameError: no such codec.
        ConfigError: an option out of range, or features that the codec cannot hold.
        ArtifactError: no graph that could be stored.
    """
    content, _ = _stored(condensed)
    single = isinstance(condensed, Data)
    codings = [code_graph(_stored(graph if single else [graph])[1], codec) for graph in _listed(condensed)]
    told = [
        {**own, "bytes": coding.nbytes, "codec": codec}
        for own, coding in zip(content["provenance"], codings, strict=True)
    ]
    return _made({**content, "provenance": told}, _decoded(content, codings), codings)


def _listed(condensed: Data | Sequence[Data]) -> list[Any]:
    return list(condensed) if isinstance(condensed, list | tuple) else [condensed]


def _decoded(content: Mapping[str, Any], codings: Sequence[Coding]) -> dict[str, Tensor]:
    """Return the tensors of format 1 of coded graphs."""
    made = [
        decode_graph(coding, nodes, edges)
        for coding, nodes, edges in zip(codings, content["nodes"], content["edges"], strict=True)
    ]
    tensors = _joined({name: [own[name] for own in made] for name in ("x", "y")}, 0)
    wired = [own for own in made if "edge_index" in own]
    if wired:
        tensors |= _joined({"edge_index": [own["edge_index"] for own in wired]}, 1)
        weights = [own["edge_weight"] for own in wired if "edge_weight" in own]
        tensors |= _joined({"edge_weight": weights}, 0) if weights else {}
    return tensors


def _stored(condensed: Data | Sequence[Data]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return content and tensors of format 1, checked."""
    graphs = _listed(condensed)
    if not all(isinstance(graph, Data) for graph in graphs):
        raise ArtifactError(f"a {type(condensed).__name__} is no condensed graph: give what condense() returned")
    if not graphs:
        raise ArtifactError("there are no graphs to save: condense some first")
    weights = [getattr(graph, "edge_weight", None) for graph in graphs]
    weighted = all(weight is not None for weight in weights)
    if any(weight is not None for weight in weights) and not weighted:
        raise ArtifactError("some graphs have edge weights and some have none: give all or none")
    tensors = _joined({"x": [g.x for g in graphs], "y": [g.y for g in graphs]}, 0)
    if any(graph.edge_index.numel() for graph in graphs):
        tensors |= _joined({"edge_index": [g.edge_index for g in graphs]}, 1)
        tensors |= _joined({"edge_weight": weights}, 0) if weighted else {}
    content = {
        "kind": "nodes" if isinstance(condensed, Data) else "graphs",
        "nodes": [len(graph.x) for graph in graphs],
        "edges": [graph.edge_index.shape[1] for graph in graphs],
        "weighted": weighted,
        "provenance": [getattr(graph, "provenance", {}) for graph in graphs],
    }
    _check(content, tensors)
    return content, tensors


def _joined(parts: Mapping[str, Sequence[Any]], dim: int) -> dict[str, Tensor]:
    try:
        return {name: torch.cat([part.detach().cpu() for part in own], dim) for name, own in parts.items()}
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ArtifactError(f"the graphs cannot be stored together ({str(error).splitlines()[0]})") from None


def load(path: Path | str) -> Data | list[Data]:
    """Read back and verify what :func:`save` wrote: one graph, or a list.

    Raises:
        ArtifactError: not such a file, or one that was truncated, changed or written by a newer version.
    """
    path = Path(path)
    try:
        if not path.is_file():  # opening a pipe would wait for its other end
            raise ArtifactError(f"cannot read '{path}': there is no such file; check the path")
        with path.open("rb") as stream:
            content, tensors = unpack(stream, path.stat().st_size, kind=FORMAT, version=FORMAT_VERSION)
    except OSError as error:
        raise ArtifactError(f"cannot read '{path}': {error.strerror}; check the path") from None
    codings = None
    try:
        if isinstance(content, dict) and "codec" in content:
            codec = content.pop("codec")
            _check_content(content)
            codings = codings_of(codec, tensors, len(content["nodes"]))
            tensors = _decoded(content, codings)
        _check(content, tensors)
    except ArtifactError as error:
        raise ArtifactError(f"'{path}': {error}") from None
    return _made(content, tensors, codings)


def _made(content: dict[str, Any], tensors: dict[str, Tensor], codings: Sequence[Coding] | None) -> Data | list[Data]:
    graphs = _graphs(content, tensors)
    for graph, coding in zip(graphs, codings or (), strict=codings is not None):
        graph.coding = coding
    return graphs[0] if content["kind"] == "nodes" else graphs


def _graphs(content: dict[str, Any], tensors: dict[str, Tensor]) -> list[Data]:
    edges = tensors.get("edge_index", torch.empty(2, 0, dtype=torch.int64)).split(content["edges"], dim=1)
    weights = tensors.get("edge_weight", torch.empty(0)).split(content["edges"]) if content["weighted"] else None
    labels = tensors["y"].split(content["nodes"] if content["kind"] == "nodes" else 1)
    graphs = []
    for place, (x, own) in enumerate(zip(tensors["x"].split(content["nodes"]), edges, strict=True)):
        graph = Data(x=x.clone(), edge_index=own.clone(), y=labels[place].clone())
        if weights is not None:
            graph.edge_weight = weights[place].clone()
            graph.edge_attr = graph.edge_weight[:, None]
        if content["kind"] == "nodes":
            graph.train_mask = torch.ones(len(x), dtype=torch.bool)
        graph.num_nodes = len(x)
        graph.provenance = content["provenance"][place]
        graphs.append(graph)
    return graphs


def _check_content(content: Any) -> None:
    """Check the document alone."""
    if not isinstance(content, dict) or set(content) != {"kind", "nodes", "edges", "weighted", "provenance"}:
        raise ArtifactError("the document is not that of a condensed graph")
    nodes, edges = content["nodes"], content["edges"]
    counted = all(isinstance(own, list) and all(type(n) is int and n >= 0 for n in own) for own in (nodes, edges))
    told = content["provenance"]
    if not counted or not nodes or len(edges) != len(nodes) or min(nodes) < 1:
        raise ArtifactError("nodes and edges are not the counts of graphs with nodes: write the file anew")
    if not isinstance(told, list) or len(told) != len(nodes) or not all(isinstance(own, dict) for own in told):
        raise ArtifactError("the provenance is not one mapping a graph")
    single = content["kind"] == "nodes"
    if (
        content["kind"] not in ("nodes", "graphs")
        or (single and len(nodes) != 1)
        or type(content["weighted"]) is not bool
    ):
        raise ArtifactError(f"kind {str(content['kind'])[:20]!r} with {len(nodes)} graphs is unknown")


def _check(content: Any, tensors: dict[str, Tensor]) -> None:
    """Check that document and tensors agree and that edges name nodes of their own graph."""
    _check_content(content)
    nodes, edges, single = content["nodes"], content["edges"], content["kind"] == "nodes"
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "y": (torch.int64, (nodes[0] if single else len(nodes),)),
    }
    if sum(edges):
        wanted["edge_index"] = (torch.int64, (2, sum(edges)))
        if content["weighted"]:
            wanted["edge_weight"] = (torch.float32, (sum(edges),))
    if set(tensors) != {"x", *wanted}:
        found = ", ".join(repr(name[:20]) for name in sorted(tensors)[:8])
        raise ArtifactError(f"holds the tensors {found} instead of {', '.join(sorted({'x', *wanted}))}")
    x = tensors["x"]
    if x.dtype != torch.float32 or x.dim() != 2 or len(x) != sum(nodes) or not bool(torch.isfinite(x).all()):
        raise ArtifactError(f"features {tuple(x.shape)} {x.dtype} are not {sum(nodes)} finite float32 rows")
    for name, (dtype, shape) in wanted.items():
        if tensors[name].dtype != dtype or tuple(tensors[name].shape) != shape:
            raise ArtifactError(f"{name} is {tuple(tensors[name].shape)} {tensors[name].dtype}, not {shape} {dtype}")
    wrong = tensors["y"][(tensors["y"] < 0) | (tensors["y"] >= MOST_LABELS)]
    if len(wrong):
        raise ArtifactError(f"y holds {int(wrong[0])}, which is no class: classes are numbered from 0 and below 2^53")
    if not sum(edges):
        return
    limits = torch.tensor(nodes).repeat_interleave(torch.tensor(edges))
    if bool((tensors["edge_index"] < 0).any() or (tensors["edge_index"] >= limits).any()):
        raise ArtifactError("edge_index names a node that its graph does not have")
    if content["weighted"] and not bool((tensors["edge_weight"] >= 0).all()):
        raise ArtifactError("edge_weight holds a negative or missing weight")
