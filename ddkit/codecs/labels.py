"""Labels in few bytes: classes in order cost nothing, rows take a byte a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ddkit.codecs import lossless
from ddkit.codecs.base import Coded, number, only, raw_bytes, shape_of
from ddkit.codecs.uniform import Uniform
from ddkit.errors import DAMAGED, ArtifactError, ConfigError

#: Smallest probability whose logarithm is kept.
_LEAST = 1e-8


def encode_labels(labels: Tensor, classes: int, *, probabilities: bool) -> Coded:
    """Return coded labels.

    Class numbers that ascend are kept as their counts, in the header; others in the fewest bits that tell the classes
    apart. Rows are kept in 8 bits a class between the ends of the row: logarithms of probabilities, whose rows sum to 1
    again when decoded, or the numbers themselves.

    Args:
        labels: (N,) int64 or (N, K) float32.
        classes: K.
        probabilities: whether rows are probabilities.
    """
    shape = list(labels.shape)
    if labels.ndim == 1:
        counts = torch.bincount(labels, minlength=classes)
        if torch.equal(torch.arange(classes).repeat_interleave(counts), labels):
            return Coded({"kind": "classes", "shape": shape, "counts": counts.tolist()}, {})
        if classes > 256:
            raise ConfigError(f"labels of {classes} classes in no order do not fit a byte: sort the images by class")
        bits = max(1, (classes - 1).bit_length())
        stream = lossless.encode(labels.to(torch.uint8), bits)
        return Coded({"kind": "classes", "shape": shape, "bits": bits, **stream.entry()}, {"symbols": stream.tensor()})
    rows = labels.clamp(min=_LEAST).log() if probabilities else labels
    coded = Uniform(8, "image").fit(rows[:, None]).encode(rows[:, None])
    return Coded({"kind": "rows", "shape": shape, "probabilities": probabilities, **coded.entry}, coded.parts)


def decode_labels(entry: Mapping[str, Any], parts: Mapping[str, Tensor], classes: int) -> Tensor:
    """Return the labels that :func:`encode_labels` coded.

    Raises:
        ArtifactError: entry and parts contradict each other or the number of classes.
    """
    shape, kind = shape_of(entry), entry.get("kind")
    probabilities = entry.get("probabilities")
    if kind == "rows" and len(shape) == 2 and shape[1] == classes and isinstance(probabilities, bool):
        rows = Uniform.decode({**entry, "shape": [shape[0], 1, classes]}, parts)[:, 0]
        return rows.softmax(1) if probabilities else rows
    if kind != "classes" or len(shape) != 1:
        raise ArtifactError(f"coded labels of {shape} do not fit {classes} classes: {DAMAGED}")
    counts = entry.get("counts")
    only(parts, *(() if counts is not None else ("symbols",)))
    if counts is None:
        bits = number(entry, "bits", 1, 8)
        return lossless.decode(raw_bytes(parts, "symbols"), entry, shape, bits).long()
    whole = isinstance(counts, list) and all(type(count) is int and 0 <= count <= shape[0] for count in counts)
    if not whole or len(counts) != classes or sum(counts) != shape[0]:
        raise ArtifactError(
            f"counts of {str(counts)[:60]} images a class do not make {shape[0]} of {classes}: {DAMAGED}"
        )
    return torch.arange(classes).repeat_interleave(torch.tensor(counts))
