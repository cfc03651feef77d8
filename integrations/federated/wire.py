"""How does a distilled set travel: which arrays a client sends, and which ones a server accepts?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.parts import at_rest
from ddkit.errors import ConfigError, unknown_name
from ddkit.integrations.federated.flower import Array, ArrayRecord, MetricRecord, RecordDict
from ddkit.integrations.federated.npy import PayloadError, read_array, read_header
from ddkit.integrations.federated.task import Task

Wire = Literal["uint8", "float16", "float32"]
WIRES: tuple[str, ...] = get_args(Wire)

SET, METRICS = "distilled", "metrics"
IMAGES, TARGETS = "images", "targets"
EXAMPLES, COUNTS = "num-examples", "class-counts"

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
#: Tolerance of the sum of a soft label's row, which travels as float16.
ROW_SUM = 1e-2
#: Largest number of images of a class that a client may claim.
MOST_EXAMPLES = 2**40


@dataclass(frozen=True)
class Limits:
    """What a server accepts from one client and round.

    Args:
        task: what the federation learns.
        max_bytes: bytes of the arrays.
        max_ipc: images per class; a soft label counts for its largest entry.
        low: smallest pixel on the scale where real ones lie in [0, 1]; floats only, bytes cannot exceed it.
        high: largest one.
    """

    task: Task
    max_bytes: int
    max_ipc: int
    low: float = -1.0
    high: float = 2.0


@dataclass(frozen=True)
class ClientSet:
    """What a client sent, checked.

    Args:
        distilled: its set, in the task's preprocessing.
        counts: K numbers of real images, one per class, as the client says.
    """

    distilled: DistilledDataset
    counts: tuple[int, ...]


def bytes_of(size: int | str) -> int:
    """Return a number of bytes from an integer or a text such as ``"2MB"`` (decimal units).

    Raises:
        ConfigError: another text, or nothing positive.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(B|KB|MB|GB)?\s*", str(size).upper())
    number = int(float(match[1]) * _UNITS[match[2] or "B"]) if match else 0
    if number < 1:
        raise ConfigError(f"size {size!r} is not a number of bytes: write for instance 2000000 or '2MB'")
    return number


def check_wire(wire: str) -> None:
    """Refuse a number format of images that is not of ``WIRES``."""
    if wire not in WIRES:
        raise unknown_name("wire format", wire, WIRES)


def pack(distilled: DistilledDataset, counts: list[int], wire: Wire = "uint8") -> RecordDict:
    """Return the records of a client's reply.

    Images are on the scale where real pixels lie in [0, 1], as bytes (rounded, clipped) or floats (as they are), so
    that nobody's preprocessing matters. Hard labels travel as bytes (two from 257 classes on), soft ones as float16.

    Args:
        distilled: a set of all K classes of the federation.
        counts: K numbers of real images.
        wire: number format of the images.

    Raises:
        UnknownNameError: no such format.
        ConfigError: labels that are no probabilities.
    """
    check_wire(wire)
    if distilled.label_kind == "regression":
        raise ConfigError("labels of kind 'regression' are no probabilities: set synthesis.labels to hard or soft")
    images = at_rest(distilled).images.numpy() if wire == "uint8" else distilled.unclipped().numpy().astype(wire)
    labels = distilled.labels.numpy()
    small = "uint8" if distilled.num_classes <= 2**8 else "uint16"
    targets = labels.astype(small if distilled.label_kind == "hard" else "float16")
    arrays = ArrayRecord({IMAGES: Array(images), TARGETS: Array(targets)})
    metrics = MetricRecord({EXAMPLES: int(sum(counts)), COUNTS: [int(count) for count in counts]})
    return RecordDict({SET: arrays, METRICS: metrics})


def unpack(content: RecordDict, limits: Limits, metadata: dict[str, object] | None = None) -> ClientSet:
    """Check a reply and return what it holds; nothing that it declares is believed or allocated before.

    In this order: exactly the known keys; serialised by ``numpy.save``; bytes within the limit; headers (number
    format, shape, size, see :func:`~ddkit.integrations.federated.npy.read_array`); as many targets as images; at most
    ``max_ipc`` images per class; targets in range, or finite, non-negative rows that sum to 1; pixels finite and in
    range; class counts of real images that are non-negative, cover the classes sent and add up to the examples.

    Args:
        content: of the message.
        limits: what is accepted.
        metadata: of the set that is returned.

    Raises:
        PayloadError: the first rule that is broken.
    """
    arrays = _arrays(content, limits)
    count_of = limits.task.num_classes
    images = read_array(arrays[IMAGES].data, WIRES, (None, *limits.task.shape), IMAGES)
    if read_header(arrays[TARGETS].data, TARGETS).dtype.kind == "u":
        raw = read_array(arrays[TARGETS].data, ("uint8", "uint16"), (len(images),), TARGETS)
        targets = _hard(raw.astype(np.int64), limits)
    else:
        raw = read_array(arrays[TARGETS].data, ("float16", "float32"), (len(images), count_of), TARGETS)
        targets = _soft(raw.astype(np.float64))
    labels = targets if targets.ndim == 1 else targets.argmax(axis=1)
    _check_quota(labels, limits)
    if images.dtype != np.uint8:
        low, high = float(images.min()), float(images.max())  # NaN and infinity fail the comparison
        if not (limits.low <= low and high <= limits.high):
            raise PayloadError(f"images range from {low:.3g} to {high:.3g}: allowed is {limits.low} to {limits.high}")
    counts = _counts(content, labels, limits)
    task = limits.task
    pixels = torch.from_numpy(images)
    distilled = DistilledDataset(
        pixels if images.dtype == np.uint8 else task.preprocessing.apply(pixels.float()),
        torch.from_numpy(targets),
        label_kind="hard" if targets.ndim == 1 else "soft",
        class_names=task.class_names,
        preprocessing=task.preprocessing,
        metadata=metadata or {},
    )
    return ClientSet(distilled, counts)


def _arrays(content: RecordDict, limits: Limits) -> ArrayRecord:
    if (
        set(content) != {SET, METRICS}
        or set(content.array_records) != {SET}
        or set(content.metric_records) != {METRICS}
    ):
        raise PayloadError(f"records {sorted(map(str, content))[:5]}: expected arrays '{SET}' and metrics '{METRICS}'")
    arrays = content.array_records[SET]
    if set(arrays) != {IMAGES, TARGETS}:
        raise PayloadError(f"arrays {sorted(map(str, arrays))[:5]}: expected exactly {IMAGES} and {TARGETS}")
    for name, array in arrays.items():
        if array.stype != "numpy.ndarray":
            raise PayloadError(f"{name} is serialised as {str(array.stype)[:40]!r}: only numpy.ndarray is read")
    size = sum(len(array.data) for array in arrays.values())
    if size > limits.max_bytes:
        raise PayloadError(f"{size} bytes are more than max_bytes_per_client={limits.max_bytes}")
    return arrays


def _hard(labels: np.ndarray, limits: Limits) -> np.ndarray:
    classes = limits.task.num_classes
    if int(labels.max()) >= classes:
        raise PayloadError(f"label {int(labels.max())} is out of range: there are {classes} classes")
    return labels


def _soft(rows: np.ndarray) -> np.ndarray:
    """Check rows of probabilities; return them as float32, scaled to the sum of 1 that float16 may miss."""
    if not np.isfinite(rows).all() or float(rows.min()) < 0:
        raise PayloadError("targets hold NaN, infinity or negative numbers: rows are probabilities")
    sums = rows.sum(axis=1, keepdims=True)
    miss = float(np.abs(sums - 1).max())
    if miss > ROW_SUM:
        raise PayloadError(f"a row of targets misses the sum of 1 by {miss:.3g}: rows are probabilities")
    return (rows / sums).astype(np.float32)


def _check_quota(labels: np.ndarray, limits: Limits) -> None:
    most = np.bincount(labels, minlength=limits.task.num_classes)
    if int(most.max()) > limits.max_ipc:
        raise PayloadError(f"{int(most.max())} images of class {int(most.argmax())}: at most max_ipc={limits.max_ipc}")


def _counts(content: RecordDict, labels: np.ndarray, limits: Limits) -> tuple[int, ...]:
    metrics = content.metric_records[METRICS]
    counts = metrics.get(COUNTS)
    if set(metrics) != {EXAMPLES, COUNTS} or not isinstance(counts, list) or len(counts) != limits.task.num_classes:
        raise PayloadError(f"metrics must be exactly '{EXAMPLES}' and one '{COUNTS}' per class")
    whole = [count for count in counts if isinstance(count, int) and 0 <= count <= MOST_EXAMPLES]
    if len(whole) != len(counts):
        raise PayloadError(f"'{COUNTS}' must be whole numbers from 0 to {MOST_EXAMPLES}")
    if any(whole[label] < 1 for label in np.unique(labels).tolist()):
        raise PayloadError("images of a class of which the client claims to have none")
    if metrics[EXAMPLES] != sum(whole):
        raise PayloadError(f"'{EXAMPLES}' is not the sum of '{COUNTS}', {sum(whole)}")
    return tuple(whole)
