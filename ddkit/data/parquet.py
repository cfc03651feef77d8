"""How are Parquet files of images read: Hugging Face's layout, a struct {bytes, path} and a label a row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ddkit.data.decoding import one_line
from ddkit.data.raw import EncodedImages, Raw, aliases, distinct, encode_labels
from ddkit.data.storage import digest
from ddkit.errors import DataError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_CHUNK = 512


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read Parquet file '{path}': {one_line(error)}; copy or download it again") from error


class ParquetImages(EncodedImages):
    """The image column of Parquet files, read a batch of rows at a time.

    Args:
        files: in order.
        column: name of the image column.
        counts: rows of each file.
        rows: int64, ascending: which rows of all files one after the other; None for all.
    """

    def __init__(self, files: Sequence[Path], column: str, counts: Sequence[int], rows: Tensor | None = None) -> None:
        self.files, self.column, self.counts = tuple(files), column, tuple(counts)
        self.rows = torch.arange(sum(counts)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, index: Tensor) -> ParquetImages:
        return ParquetImages(self.files, self.column, self.counts, self.rows[index])

    def chunks(self) -> Iterator[list[tuple[str, bytes | Path]]]:
        rows = self.rows.numpy()
        offset = 0
        for path in self.files:
            with _readable(path), pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_CHUNK, columns=[self.column]):
                    first, last = np.searchsorted(rows, [offset, offset + len(batch)])
                    wanted = rows[first:last] - offset
                    offset += len(batch)
                    if len(wanted):
                        yield _items(batch.column(0).take(pa.array(wanted)), path, offset - len(batch) + wanted)

    def key(self) -> str:
        stats = ((path.resolve(), path.stat()) for path in self.files)
        names = (f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)
        return digest(*names, self.column, self.rows)


def _items(column: Any, path: Path, rows: np.ndarray) -> list[tuple[str, bytes | Path]]:
    values = column.field("bytes") if pa.types.is_struct(column.type) else column
    if values.null_count:
        raise DataError(f"'{path}' has rows without image bytes: store the images inside the file")
    return [(f"{path}, row {row}", value) for row, value in zip(rows.tolist(), values.to_pylist(), strict=True)]


def parquet_files(path: Path) -> list[Path]:
    """Return the Parquet files of a folder, sorted: those in it, else those one level below it."""
    return sorted(path.glob("*.parquet")) or sorted(path.glob("*/*.parquet"))


def _of_split(files: list[Path], names: tuple[str, ...]) -> list[Path]:
    for name in names:
        found = [f for f in files if f.stem == name or f.name.startswith((f"{name}-", f"{name}_", f"{name}."))]
        found = found or [f for f in files if f.parent.name == name]
        if found:
            return found
    return []


def read_parquet(path: Path, split: str) -> Raw:
    """Read one split of a Parquet file or of a folder of them.

    In a folder the files of a split are named ``<split>-*``, or lie in a folder of that name; "test" is also
    sought as "validation", "val" or "valid". A file on its own, and a folder whose files name no split, is
    split 80/20 by a fixed seed. Class names come from the schema metadata ``huggingface``, else from the
    training labels.

    Raises:
        DataError: no such split, no image or label column, or an unreadable file.
    """
    files = [path] if path.is_file() else parquet_files(path)
    train = _of_split(files, ("train",)) if path.is_dir() else []
    if not train:
        return _read_files(files, None).lone_part(split, str(path))
    chosen = _of_split(files, aliases(split))
    if not chosen:
        names = ", ".join(file.name for file in files[:5])
        raise DataError(f"'{path}' has no files '{split}-*.parquet': it has {names}; add them or name another split")
    return _read_files(chosen, train)


def _read_files(files: list[Path], train: list[Path] | None) -> Raw:
    counts = []
    for path in files:
        with _readable(path):
            counts.append(pq.read_metadata(path).num_rows)
    with _readable(files[0]):
        schema = pq.read_schema(files[0])
    image = _column(schema, _IMAGE_COLUMNS, "image", files[0])
    label = _column(schema, _LABEL_COLUMNS, "label", files[0])
    if not _is_encoded(schema.field(image).type):
        raise DataError(f"column '{image}' of '{files[0]}' is {schema.field(image).type}: give image files as bytes")
    labels = _labels(files, label)
    names = _class_names(schema, label)
    if names is None:
        known = distinct(labels if train in (None, files) else _labels(train or [], label))
        names = tuple(str(value) for value in known)
        encoded = encode_labels(labels, known, str(files[0]))
    else:
        encoded = torch.from_numpy(labels.astype(np.int64))
        if len(encoded) and not 0 <= int(encoded.min()) <= int(encoded.max()) < len(names):
            raise DataError(
                f"'{files[0]}' has labels from {int(encoded.min())} to {int(encoded.max())} but "
                f"{len(names)} class names: labels must number the class names from 0"
            )
    if not len(encoded):
        raise DataError(f"'{files[0]}' has no rows: give a file with images")
    return Raw(ParquetImages(files, image, counts), encoded, names)


def _column(schema: pa.Schema, names: tuple[str, ...], what: str, path: Path) -> str:
    for name in names:
        if name in schema.names:
            return name
    raise DataError(
        f"'{path}' has no {what} column: name it {' or '.join(names)} (it has {', '.join(schema.names) or 'none'})"
    )


def _is_encoded(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _is_encoded(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _labels(files: list[Path], column: str) -> np.ndarray:
    parts = []
    for path in files:
        with _readable(path):
            values = pq.read_table(path, columns=[column]).column(0)
        if pa.types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        kind = values.type
        if values.null_count or not (
            pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
        ):
            raise DataError(f"label column '{column}' of '{path}' is {kind} or has nulls: give integers or strings")
        parts.append(values.to_numpy() if pa.types.is_integer(kind) else np.array(values.to_pylist(), dtype=str))
    return np.concatenate(parts)


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Return the class names in the Hugging Face schema metadata; None without, or for string labels."""
    if not pa.types.is_integer(schema.field(label).type):
        return None
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) and names else None
