"""How does a distilled set travel: which arrays a client sends, and which ones a server accepts?"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ddkit.base.container import unpack as unpack_file
from ddkit.codecs.base import shape_of
from ddkit.data.distilled.coding import bytes_of_noise
from ddkit.data.distilled.dataset import FORMAT, FORMAT_VERSION, DistilledDataset
from ddkit.data.distilled.parts import at_rest
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ConfigError, shortened, unknown_name
from ddkit.integrations.federated.flower import Array, ArrayRecord, MetricRecord, RecordDict
from ddkit.integrations.federated.npy import PayloadError, read_array, read_header
from ddkit.integrations.federated.task import Task

#: Number formats of images; a set in a codec travels as ``coded:CODEC``.
WIRES = ("uint8", "float16", "float32")
_CODED = "coded:"

SET, METRICS = "distilled", "metrics"
IMAGES, TARGETS, FILE = "images", "targets", "file"
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


def check_wire(wire: str, shape: tuple[int, int, int]) -> None:
    """Refuse a form of images that there is not, or a codec that cannot hold images of ``shape`` (C, H, W).

    Raises:
        UnknownNameError: no such number format or codec.
        ConfigError: an option of the codec out of range, or images that it cannot hold.
    """
    if wire.startswith(_CODED):
        bytes_of_noise(wire.removeprefix(_CODED), shape)
    elif wire not in WIRES:
        raise unknown_name("wire format", wire, (*WIRES, f"{_CODED}CODEC"))


def pack(distilled: DistilledDataset, counts: list[int], wire: str = "uint8") -> RecordDict:
    """Return the records of a client's reply.

    Images are on the scale where real pixels lie in [0, 1], as bytes (rounded, clipped) or floats (as they are), so
    that nobody's preprocessing matters. Hard labels travel as bytes (two from 257 classes on), soft ones as float16.
    With ``coded:uniform:bits=3`` images and labels travel as the file of a set in that codec, class by class and
    without metadata.

    Args:
        distilled: a set of all K classes of the federation.
        counts: K numbers of real images.
        wire: number format of the images, or ``coded:CODEC``.

    Raises:
        UnknownNameError: no such format.
        ConfigError: labels that are no probabilities.
    """
    check_wire(wire, distilled.shape)
    if distilled.label_kind == "regression":
        raise ConfigError("labels of kind 'regression' are no probabilities: set synthesis.labels to hard or soft")
    if wire.startswith(_CODED):
        arrays = ArrayRecord({FILE: Array(_file(distilled, wire.removeprefix(_CODED)))})
    else:
        images = at_rest(distilled).images.numpy() if wire == "uint8" else distilled.unclipped().numpy().astype(wire)
        labels = distilled.labels.numpy()
        small = "uint8" if distilled.num_classes <= 2**8 else "uint16"
        targets = labels.astype(small if distilled.label_kind == "hard" else "float16")
        arrays = ArrayRecord({IMAGES: Array(images), TARGETS: Array(targets)})
    metrics = MetricRecord({EXAMPLES: int(sum(counts)), COUNTS: [int(count) for count in counts]})
    return RecordDict({SET: arrays, METRICS: metrics})


def _file(distilled: DistilledDataset, codec: str) -> np.ndarray:
    """Return the bytes of a file with the images of a set as a codec keeps them, class by class, ``(B,)``."""
    order = distilled.hard_labels().argsort(stable=True)
    plain = DistilledDataset(
        distilled.unclipped()[order],
        distilled.labels[order],
        label_kind=distilled.label_kind,
        class_names=[str(number) for number in range(distilled.num_classes)],
        preprocessing=Preprocessing.identity(distilled.shape[0]),
    )
    return np.frombuffer(plain.coded(codec).to_bytes(), np.uint8)


def unpack(content: RecordDict, limits: Limits, metadata: dict[str, object] | None = None) -> ClientSet:
    """Check a reply and return what it holds; nothing that it declares is believed or allocated before.

    In this order: exactly the known keys; serialised by ``numpy.save``; bytes within the limit; headers (number
    format, shape, size, see :func:`~ddkit.integrations.federated.npy.read_array`); as many targets as images; at most
    ``max_ipc`` images per class; targets in range, or finite, non-negative rows that sum to 1; pixels finite and in
    range; class counts of real images that are non-negative, cover the classes sent and add up to the examples. Of a
    coded set the shapes that it announces are checked before it is decoded.

    Args:
        content: of the message.
        limits: what is accepted.
        metadata: of the set that is returned.

    Raises:
        PayloadError: the first rule that is broken.
    """
    arrays = _arrays(content, limits)
    images, targets = _decoded(arrays[FILE].data, limits) if FILE in arrays else _numbers(arrays, limits)
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


def _numbers(arrays: ArrayRecord, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Return images, as bytes or floats, and targets of a set that travels as arrays."""
    count_of = limits.task.num_classes
    images = read_array(arrays[IMAGES].data, WIRES, (None, *limits.task.shape), IMAGES)
    if read_header(arrays[TARGETS].data, TARGETS).dtype.kind == "u":
        raw = read_array(arrays[TARGETS].data, ("uint8", "uint16"), (len(images),), TARGETS)
        return images, _hard(raw.astype(np.int64), limits)
    raw = read_array(arrays[TARGETS].data, ("float16", "float32"), (len(images), count_of), TARGETS)
    return images, _soft(raw.astype(np.float64))


def _decoded(data: bytes, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
    """Return float images and targets of a set that travels as a coded file.

    Raises:
        PayloadError: another file, one that announces more images than are allowed, or a damaged one.
    """
    raw = read_array(data, ("uint8",), (None,), FILE).tobytes()
    task = limits.task
    try:
        content, _ = unpack_file(io.BytesIO(raw), len(raw), kind=FORMAT, version=FORMAT_VERSION)
        _require_small(content, limits)
        distilled = DistilledDataset.from_bytes(raw)
    except PayloadError:
        raise
    except Exception as error:  # whatever a stranger's bytes provoke, in whichever library
        raise PayloadError(shortened(f"{FILE} is no coded set: {error}", 300)) from None
    plain = distilled.preprocessing == Preprocessing.identity(task.shape[0]) and distilled.label_kind != "regression"
    if not plain or distilled.num_classes != task.num_classes or distilled.shape != task.shape:
        raise PayloadError(
            f"{FILE} holds images {distilled.shape} of {distilled.num_classes} classes with {distilled.label_kind} "
            f"labels: expected {task.shape} of {task.num_classes} on the scale of pixels"
        )
    labels = distilled.labels.numpy()
    return distilled.images.numpy(), labels if labels.ndim == 1 else _soft(labels.astype(np.float64))


def _require_small(content: Any, limits: Limits) -> None:
    """Refuse a coded set that announces more than the limits allow, before it is decoded."""
    most = limits.max_ipc * limits.task.num_classes
    try:
        tensors, synthesis = content["codec"]["tensors"], content["synthesis"]
        shapes = {name: shape_of(entry) for name, entry in tensors.items()}
    except (KeyError, TypeError, AttributeError):
        raise PayloadError(f"{FILE} is no coded set: send one of coded:CODEC") from None
    images, labels = shapes.get("images", ()), shapes.get("labels", ())
    if synthesis != "pixels" or set(shapes) != {"images", "labels"} or images[1:] != limits.task.shape:
        expected = ", ".join(map(str, ("N", *limits.task.shape)))
        raise PayloadError(f"{FILE} announces {shortened(str(shapes), 80)}: expected images ({expected})")
    if images[0] > most or labels not in ((images[0],), (images[0], limits.task.num_classes)):
        raise PayloadError(f"{FILE} announces {images[0]} images with labels {labels}: at most {most} are allowed")


def _arrays(content: RecordDict, limits: Limits) -> ArrayRecord:
    if (
        set(content) != {SET, METRICS}
        or set(content.array_records) != {SET}
        or set(content.metric_records) != {METRICS}
    ):
        raise PayloadError(f"records {sorted(map(str, content))[:5]}: expected arrays '{SET}' and metrics '{METRICS}'")
    arrays = content.array_records[SET]
    if set(arrays) not in ({IMAGES, TARGETS}, {FILE}):
        raise PayloadError(f"arrays {sorted(map(str, arrays))[:5]}: expected exactly {IMAGES} and {TARGETS}, or {FILE}")
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
