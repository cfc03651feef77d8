"""Small image files and arrays for the tests of data sources."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddkit.errors import DataError


def pixels(count: int, height: int = 6, width: int = 5, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Random images (N, H, W, C), or (N, H, W) for one channel."""
    shape = (count, height, width, channels) if channels > 1 else (count, height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2)).copy())


def write_folder(root: Path, classes: dict[str, np.ndarray], form: str = "png") -> Path:
    for name, images in classes.items():
        (root / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(root / name / f"{number:04d}.{form}")
    return root


def write_parquet(
    path: Path,
    images: list[Any],
    labels: list[Any],
    *,
    columns: tuple[str, str] = ("image", "label"),
    names: list[str] | None = None,
    row_group_size: int = 4,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = [
        {"bytes": image, "path": f"{i}.png"} if isinstance(image, bytes) else image for i, image in enumerate(images)
    ]
    table = pa.table({columns[0]: values, columns[1]: labels})
    if names:
        features = {columns[0]: {"_type": "Image"}, columns[1]: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path, row_group_size=row_group_size)
    return path


def refused(message: str, action: Callable[[], Any]) -> None:
    with pytest.raises(DataError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)
