"""Which columns of a Parquet file hold images and labels, and what are the classes called?"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ddkit.data.decoding import one_line
from ddkit.data.storage import check_memory
from ddkit.errors import DataError

_IMAGE_COLUMNS = ("image", "img")
_LABEL_COLUMNS = ("label", "labels", "fine_label")
_LONGEST_LABEL = 1000
_OTHER_LABELS = ("coarse_label", "target", "class", "category")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what damaged files raise into one DataError."""
    try:
        yield
    except DataError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise DataError(f"cannot read Parquet file '{path}': {one_line(error)}; copy or download it again") from error


class Table:
    """One Parquet file of images: its columns, and the labels in it.

    Attributes:
        path: the file.
        rows: number of rows.
        image: name of the image column.
        label: name of the label column.

    Raises:
        DataError: the file cannot be read, or its columns are not clear.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path):
            metadata = pq.read_metadata(path)
            self.schema = metadata.schema.to_arrow_schema()
            self.rows = metadata.num_rows
            columns = list(self.schema.names)
        if self.rows > path.stat().st_size:
            raise DataError(f"'{path}' claims {self.rows} rows, more than it has bytes: copy or download it again")
        self.image = self._only_column(columns, _IMAGE_COLUMNS, "image")
        self.label = self._only_column(columns, _LABEL_COLUMNS, "label")
        others = [name for name in columns if name in _OTHER_LABELS]
        if others:
            warnings.warn(f"'{path}': labels are taken from '{self.label}', not from '{others[0]}'", stacklevel=2)
        kind = self.schema.field(self.image).type
        if not _is_encoded(kind):
            raise DataError(f"column '{self.image}' of '{path}' is {kind}: give image files as bytes")

    def _only_column(self, columns: list[str], names: tuple[str, ...], what: str) -> str:
        found = [name for name in columns if name in names]
        listed = ", ".join(columns)[:500] or "none"
        if not found:
            raise DataError(f"'{self.path}' has no {what} column: name it {' or '.join(names)} (it has {listed})")
        if len(found) > 1:
            raise DataError(f"'{self.path}' has several {what} columns, {', '.join(found)}: keep the one that is meant")
        return found[0]

    def check_alike(self, other: Table) -> None:
        """Refuse a file of the same set with other columns or class names.

        Raises:
            DataError: naming both files.
        """
        for what in ("image", "label", "kind", "class_names"):
            mine, its = getattr(self, what), getattr(other, what)
            if mine != its and None not in (mine, its):
                raise DataError(
                    f"'{self.path}' and '{other.path}' differ in {what.replace('_', ' ')} ({_shortened(mine)} and "
                    f"{_shortened(its)}): write both the same way"
                )

    @property
    def kind(self) -> str:
        """What labels are: "integers" or "strings".

        Raises:
            DataError: something else.
        """
        kind = self.schema.field(self.label).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_integer(kind):
            return "integers"
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return "strings"
        raise self._no_labels(kind)

    def _no_labels(self, kind: pa.DataType) -> DataError:
        column = f"label column '{self.label}' of '{self.path}'"
        return DataError(f"{column} is {kind} or has nulls: give integers or strings")

    def labels(self) -> np.ndarray:
        """Return the labels ``(N,)``, integers or strings.

        Raises:
            DataError: labels of another type, nulls, or fewer than the file says.
        """
        check_memory(8 * self.rows, f"the labels of '{self.path}'")
        strings = self.kind == "strings"
        with readable(self.path):
            # As a dictionary, a long text that every row repeats is held once.
            table = pq.read_table(self.path, columns=[self.label], read_dictionary=[self.label] if strings else None)
            values = table.column(0)
            if values.null_count:
                raise self._no_labels(values.type)
            parts = [self._plain(chunk) for chunk in values.chunks]
        array = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        if len(array) != self.rows:
            raise DataError(f"'{self.path}' has {len(array)} labels in {self.rows} rows: copy or download it again")
        return array

    def _plain(self, chunk: pa.Array) -> np.ndarray:
        if not pa.types.is_dictionary(chunk.type):
            return chunk.to_numpy(zero_copy_only=False)
        words = chunk.dictionary.to_pylist()
        if None in words:
            raise self._no_labels(chunk.type)
        longest = max((len(str(word)) for word in words), default=0)
        if longest > _LONGEST_LABEL:
            raise DataError(f"a label of '{self.path}' has {longest} letters: give at most {_LONGEST_LABEL}")
        known = np.array(words, dtype=str if self.kind == "strings" else np.int64)
        return known[chunk.indices.to_numpy(zero_copy_only=False)]

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names in the Hugging Face schema metadata; None without, or for string labels.

        Raises:
            DataError: metadata that cannot be read.
        """
        text = (self.schema.metadata or {}).get(b"huggingface")
        if text is None or self.kind == "strings":
            return None
        try:
            content: Any = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"the metadata 'huggingface' of '{self.path}', which name the classes, cannot be read: "
                f"{one_line(error)}; write the file again"
            ) from error
        for key in ("info", "features", self.label, "names"):
            content = content.get(key) if isinstance(content, dict) else None
        return tuple(str(name) for name in content) if isinstance(content, list) and content else None


def _shortened(value: object) -> str:
    return " ".join(str(value).split())[:100]


def _is_encoded(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        position = kind.get_field_index("bytes")
        return position >= 0 and _is_encoded(kind.field(position).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
