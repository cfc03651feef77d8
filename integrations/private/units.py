"""What does a guarantee hide: one record, or one group of records (a patient, a user)? Are there hidden groups?"""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddkit.data.real import RealData
from ddkit.errors import ConfigError

RECORD = "one record (image and label)"
_CHUNK = 1024


def unit_of(name: str | None) -> str:
    """Return the unit of privacy in words.

    Args:
        name: what a group of records is, such as ``patient``; None where every record is a unit of its own.
    """
    return RECORD if name is None else f"one {name} with all its records"


def numbered(groups: Any, records: int) -> Tensor:
    """Return the group numbers (N,) int64, from 0 without gaps, of group names or numbers.

    Args:
        groups: one hashable per record, such as a patient's number or a user's name; a sequence, array or tensor.
        records: N.

    Raises:
        ConfigError: not one group for every record.
    """
    listed = groups.tolist() if hasattr(groups, "tolist") else groups
    if isinstance(listed, str | bytes) or not hasattr(listed, "__len__") or len(listed) != records:
        size = f"{len(listed)} entries" if hasattr(listed, "__len__") else type(groups).__name__
        raise ConfigError(f"groups has {size} for {records} records: give the group of every record, in their order")
    numbers: dict[Any, int] = {}
    try:
        units = [numbers.setdefault(name, len(numbers)) for name in listed]
    except TypeError:
        raise ConfigError("groups must hold a name or a number for every record, such as that of a patient") from None
    if any(name is None or name != name for name in numbers):
        raise ConfigError("groups has records without a group: give every record one, if need be one of its own")
    return torch.tensor(units, dtype=torch.int64)


def copies(real: RealData, units: Tensor) -> int:
    """Return in how many units the most frequent image occurs, whatever its labels; 1 where all images differ.

    It reads the records without noise: for those who hold them, never for a release.
    """
    digests = np.empty(len(real), dtype="V16")
    for start in range(0, len(real), _CHUNK):
        images = real.images[start : start + _CHUNK].cpu().numpy()
        for place, image in enumerate(images, start):
            digests[place] = np.void(hashlib.blake2b(image.tobytes(), digest_size=16).digest())
    _, same = np.unique(digests, return_inverse=True)
    pairs = np.unique(np.stack([same.ravel(), units.numpy()]), axis=1)
    return int(np.bincount(pairs[0]).max())


def warn_about_copies(real: RealData, units: Tensor, unit: str) -> None:
    """Warn where one image is in several units, each of which the guarantee hides by itself only."""
    count = copies(real, units)
    if count > 1:
        warnings.warn(
            f"the same image is in {count} records of different units of privacy ({unit}): for whoever is behind it "
            f"epsilon is {count} times as large, and delta larger still; remove copies, or make records that belong "
            f"together one group",
            stacklevel=4,
        )
