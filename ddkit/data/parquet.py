"""How are Parquet files of images read: Hugging Face's layout, a struct {bytes, path} and a label a row."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from ddkit.data.parquet_table import Table, readable
from ddkit.data.raw import EncodedImages, Raw, distinct, encode_labels
from ddkit.data.split_names import chosen_split, extra_named, split_named
from ddkit.data.storage import digest
from ddkit.data.tree import parquet_files
from ddkit.errors import DataError

_CHUNK_ROWS = 512
_CHUNK_BYTES = 2**26


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
            with readable(path), pq.ParquetFile(path) as file:
                average = max(1, path.stat().st_size // max(1, file.metadata.num_rows))
                at_once = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // average))
                for batch in file.iter_batches(at_once, columns=[self.column]):
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


def _files_of_splits(path: Path) -> dict[str, list[Path]]:
    """Return the files of each split; none when no name hints at a split.

    Raises:
        DataError: some files name a split and others do not, or files of several sets or a missing part.
    """
    files = parquet_files(path)
    places = {file: file.relative_to(path) for file in files}
    named = {file: _split_of(place) for file, place in places.items()}
    lost = next((file for file, group in named.items() if group is None), None)
    if lost is not None and any(named.values()):
        known = next(str(places[file]) for file, group in named.items() if group)
        raise DataError(
            f"'{path}' has '{known}', which names a split, and '{places[lost]}', which does not: name all files as in "
            "train-0.parquet and test-0.parquet, or move the others out"
        )
    folders = {tuple(part for part in place.parts[:-1] if _split_of(Path(part)) is None) for place in places.values()}
    if len(folders) > 1:
        sets = sorted(str(Path(path, *parts)) for parts in folders)
        raise DataError(f"'{path}' holds Parquet files of several sets: name one of {', '.join(sets[:5])}")
    _check_complete(path, files)
    splits: dict[str, list[Path]] = {}
    for file, group in named.items():
        splits.setdefault(group or "", []).append(file)
    return splits


def _split_of(place: Path) -> str | None:
    """Return the split that a file's name, else one of its folders, means."""
    names = (place.stem, *reversed(place.parts[:-1]))
    found = (split.group if (split := split_named(name)) else extra_named(name) for name in names)
    return next((group for group in found if group), None)


def _check_complete(path: Path, files: list[Path]) -> None:
    parts: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        match = re.fullmatch(r"(.*)-(\d{1,9})-of-(\d{1,9})", file.stem)
        if match:
            parts.setdefault((file.parent, match[1], int(match[3])), set()).add(int(match[2]))
    for (_, name, count), there in parts.items():
        if len(there) != count:
            raise DataError(
                f"'{path}' has {len(there)} of the {count} files '{name}-...-of-{count:05}.parquet': get all"
            )


def read_parquet(path: Path, split: str) -> Raw:
    """Read one split of a Parquet file or of a folder of them.

    In a folder the files of a split are named after it, in any case and form (``train-*``, ``digits_Test.parquet``),
    or lie in a folder of that name; "test" is the official test split, else the only other one beside "train". A file
    on its own, and a folder whose files name no split, is split 80/20 by a fixed seed, which a warning says. Class
    names come from the schema metadata ``huggingface`` of the training files, else from the training labels.

    Raises:
        DataError: no such split, files that can be read in two ways, no image or label column, or an unreadable file.
    """
    splits = {"": [path]} if path.is_file() else _files_of_splits(path)
    if "" in splits:
        whole = "name the files of a folder train-*.parquet and test-*.parquet"
        return _read_files(splits[""], splits[""]).lone_part(split, str(path), whole)
    names = ", ".join(file.name for files in splits.values() for file in files[:3])
    if "train" not in splits:
        raise DataError(
            f"'{path}' has no files 'train-*.parquet': it has {names}; add them or rename those for training"
        )
    group = chosen_split({key: files[0].name for key, files in splits.items()}, split, str(path))
    if group is None:
        raise DataError(f"'{path}' has no files '{split}-*.parquet': it has {names}; add them or name another split")
    return _read_files(splits[group], splits["train"])


def _read_files(files: list[Path], train: list[Path]) -> Raw:
    tables = [Table(path) for path in dict.fromkeys((*files, *train))]
    first = tables[0]
    for other in tables[1:]:
        first.check_alike(other)
    by_path = {table.path: table for table in tables}
    chosen = [by_path[path] for path in files]
    labels = np.concatenate([table.labels() for table in chosen])
    if not len(labels):
        raise DataError(f"'{files[0]}' has no rows: give a file with images")
    names = by_path[train[0]].class_names
    if names is None:
        seen = labels if train == files else np.concatenate([by_path[path].labels() for path in train])
        known = distinct(seen, str(train[0]))
        names = tuple(str(value) for value in known)
        encoded = encode_labels(labels, known, str(files[0]))
    else:
        encoded = torch.from_numpy(labels.astype(np.int64))
        if not 0 <= int(encoded.min()) <= int(encoded.max()) < len(names):
            raise DataError(
                f"'{files[0]}' has labels from {int(encoded.min())} to {int(encoded.max())} but "
                f"{len(names)} class names: labels must number the class names from 0"
            )
    return Raw(ParquetImages(files, first.image, [table.rows for table in chosen]), encoded, names)
