"""Save and load the state of a run: nested dictionaries of tensors and plain values, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from ddkit.base import container
from ddkit.base.files import write_atomically
from ddkit.errors import ArtifactError, CheckpointError, shortened

KIND = "ddkit.checkpoint"
VERSION = 1


def flatten(state: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split nested dictionaries and lists into tensors by number and a JSON-able structure that refers to them."""
    tensors: dict[str, Tensor] = {}

    def visit(value: Any) -> dict[str, Any]:
        if isinstance(value, Tensor):
            key = str(len(tensors))
            tensors[key] = value
            return {"tensor": key}
        if isinstance(value, dict):  # as pairs: keys of optimiser states are integers, which JSON turns into text
            return {"items": [[key, visit(item)] for key, item in value.items()]}
        if isinstance(value, list | tuple):
            return {"list": [visit(item) for item in value]}
        if value is None or isinstance(value, bool | int | float | str):
            return {"value": value}
        raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")

    return tensors, visit(state)


def restore(tensors: dict[str, Tensor], structure: dict[str, Any]) -> Any:
    """Reverse :func:`flatten`; tuples come back as lists."""
    ((kind, value),) = structure.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "items":
        return {key: restore(tensors, item) for key, item in value}
    if kind == "list":
        return [restore(tensors, item) for item in value]
    return value


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` to ``path`` atomically.

    Raises:
        CheckpointError: the file cannot be written, or the state holds what no file can (a NaN, for instance); the
            previous checkpoint is untouched.
    """
    tensors, structure = flatten(state)
    try:
        content = container.pack(tensors, structure, kind=KIND, version=VERSION)
    except ArtifactError as error:
        raise CheckpointError(f"cannot save the state of this run: {error}") from None
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint back.

    Raises:
        CheckpointError: the file is missing, truncated, damaged or of a newer format.
    """
    try:
        with path.open("rb") as stream:
            structure, tensors = container.unpack(stream, path.stat().st_size, kind=KIND, version=VERSION)
        return dict(restore(tensors, structure))
    except (OSError, ArtifactError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"cannot read checkpoint '{path}' ({shortened(str(error), 400)}): start again with another --out, or "
            f"restore the file"
        ) from None
