"""How does a condensed graph become few bytes: features and weights by a codec, edges as gaps, labels as counts?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddkit.codecs import Coded, decode, encode, lossless
from ddkit.codecs.base import raw_bytes, shape_of
from ddkit.codecs.labels import decode_labels, encode_labels
from ddkit.data.distilled.coding import Coding, codec_of
from ddkit.data.distilled.limits import most_numbers
from ddkit.errors import DAMAGED, ArtifactError, ConfigError

#: Bytes of the largest gap between edges, and class numbers that are told apart.
_DIGITS, _CLASSES = 4, 2**16


def code_graph(tensors: Mapping[str, Tensor], codec: str) -> Coding:
    """Return the coded form of a graph.

    Features (n, F) share one range, or one a node with ``group=image``; weights share one. Edges are the gaps between
    their places in the n x n adjacency, so that they come back in the order of its rows; they and the labels lose
    nothing.

    Args:
        tensors: ``x``, ``y``, and ``edge_index`` with or without ``edge_weight`` if there are edges.
        codec: a name of :data:`ddkit.codecs.registry` with its options, such as ``uniform:bits=4``.

    Raises:
        UnknownNameError: no such codec.
        ConfigError: an option out of range, features that the codec cannot hold, or too many nodes or classes.
    """
    chosen, x, y = codec_of(codec), tensors["x"], tensors["y"]
    classes = int(y.max()) + 1
    if classes > _CLASSES or len(x) > 2 ** (4 * _DIGITS):
        raise ConfigError(
            f"{len(x)} nodes of class numbers below {classes} are too many to be coded: {_CLASSES} are the most"
        )
    parts = {"x": encode(chosen, x[:, None]), "y": encode_labels(y, classes, probabilities=False)}
    if "edge_index" in tensors:
        places = tensors["edge_index"][0] * len(x) + tensors["edge_index"][1]
        order = places.argsort(stable=True)
        parts["edge_index"] = _gaps(places[order])
        if "edge_weight" in tensors:
            parts["edge_weight"] = encode(chosen, tensors["edge_weight"][order][None, None])
    return Coding(codec, parts)


def decode_graph(coding: Coding, nodes: int, edges: int) -> dict[str, Tensor]:
    """Return what :func:`code_graph` coded, its edges in the order of their rows.

    Raises:
        ArtifactError: coded tensors that make no sense, that would take too much memory, or that make other numbers
            of nodes and edges.
    """
    entries = {name: coded.entry for name, coded in coding.tensors.items()}
    shapes = {name: shape_of(entry) for name, entry in entries.items()}
    announced, most = sum(map(math.prod, shapes.values())), max(most_numbers(coding.nbytes), coding.nbytes)
    if announced > most:
        raise ArtifactError(f"{coding.nbytes:,} coded bytes announce {announced:,} numbers, {most:,} are the most")
    x = shapes.get("x", ())
    fits = len(x) == 3 and x[:2] == (nodes, 1) and "y" in shapes
    if edges:
        gaps = shapes.get("edge_index", ())
        fits = fits and len(gaps) == 2 and gaps[0] <= _DIGITS and gaps[1] == edges
        fits = fits and shapes.get("edge_weight", (1, 1, edges)) == (1, 1, edges)
    if not fits or not set(shapes) <= ({"x", "y", "edge_index", "edge_weight"} if edges else {"x", "y"}):
        raise ArtifactError(f"coded tensors do not make {nodes} nodes and {edges} edges: {DAMAGED}")
    counts = entries["y"].get("counts")
    classes = len(counts) if isinstance(counts, list) else 256
    tensors = {
        "x": decode(entries["x"], coding.tensors["x"].parts)[:, 0],
        "y": decode_labels(entries["y"], coding.tensors["y"].parts, classes),
    }
    if edges:
        places = _places(coding.tensors["edge_index"])
        tensors["edge_index"] = torch.stack([places // nodes, places % nodes])
        if "edge_weight" in shapes:
            weight = decode(entries["edge_weight"], coding.tensors["edge_weight"].parts)
            tensors["edge_weight"] = weight[0, 0].clamp(min=0)  # a clipped range may start below 0
    return tensors


def _gaps(places: Tensor) -> Coded:
    """Return ascending whole numbers as their differences, one row of bytes a digit."""
    gaps = places.diff(prepend=places.new_zeros(1))
    digits = max(1, math.ceil(int(gaps.max()).bit_length() / 8))
    symbols = torch.stack([(gaps >> (8 * digit)) & 255 for digit in range(digits)]).to(torch.uint8)
    stream = lossless.encode(symbols, 8)
    return Coded({"kind": "gaps", "shape": list(symbols.shape), **stream.entry()}, {"symbols": stream.tensor()})


def _places(coded: Coded) -> Tensor:
    if coded.entry.get("kind") != "gaps":
        raise ArtifactError(f"edges are coded as {str(coded.entry.get('kind'))[:40]!r}, not as gaps: {DAMAGED}")
    symbols = lossless.decode(raw_bytes(coded.parts, "symbols"), coded.entry, shape_of(coded.entry), 8).long()
    return sum((row << (8 * digit) for digit, row in enumerate(symbols)), symbols.new_zeros(())).cumsum(0)


def contents(codings: list[Coding]) -> dict[str, Any]:
    """Return what a file keeps of coded graphs as JSON."""
    return {"name": codings[0].codec, "graphs": [coding.content()["tensors"] for coding in codings]}


def codings_of(content: Any, tensors: Mapping[str, Tensor], graphs: int) -> list[Coding]:
    """Return the codings that a file holds, one a graph.

    Args:
        content: what :func:`contents` returned.
        tensors: ``NUMBER.NAME.PART``.
        graphs: number of graphs.

    Raises:
        ArtifactError: another content, or parts that belong to no graph.
    """
    named = isinstance(content, dict) and set(content) == {"name", "graphs"} and isinstance(content["name"], str)
    entries = content["graphs"] if named and isinstance(content["graphs"], list) else []
    mappings = all(isinstance(own, dict) and all(isinstance(one, dict) for one in own.values()) for own in entries)
    if not mappings or len(entries) != graphs:
        raise ArtifactError(f"the codec is not described for {graphs} graphs: {DAMAGED}")
    own: list[dict[str, Tensor]] = [{} for _ in range(graphs)]
    for key, part in tensors.items():
        number, _, name = key.removeprefix("coded.").partition(".")
        if not key.startswith("coded.") or not number.isdecimal() or int(number) >= graphs:
            raise ArtifactError(f"unknown tensor {key[:60]!r} in a coded file: {DAMAGED}")
        own[int(number)][name] = part
    return [Coding.of(content["name"], each, parts) for each, parts in zip(entries, own, strict=True)]
