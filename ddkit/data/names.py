"""By which name are the settings and figures of a dataset looked up?"""

from __future__ import annotations

import re
from pathlib import PurePath

_SAME = {"tinyimagenet200": "tinyimagenet"}


def known_as(name: str) -> str:
    """Return the plain name of a dataset that was named by a word or a path.

    >>> known_as("sets/CIFAR-10.npz")
    'cifar10'

    Args:
        name: such as ``mnist``, ``sets/fashion_mnist.parquet`` or ``/photos/tiny-imagenet-200``.
    """
    plain = re.sub(r"[\s_-]", "", PurePath(name).stem.lower())
    return _SAME.get(plain, plain)
