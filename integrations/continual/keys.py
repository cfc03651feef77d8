"""Which class is it, in a stream whose tasks may number their classes anew?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ddkit.base.streams import derive_seed

#: (task label, class number): a class number that comes with two task labels is two classes.
Key = tuple[int, int]


def text_of(key: Key) -> str:
    """Return a key as text: ``3`` for class 3 of task 0, ``2/3`` for that of task 2."""
    task, label = key
    return f"{task}/{label}" if task else str(label)


def words_of(key: Key) -> str:
    """Return a key for messages."""
    task, label = key
    return f"class {label} of task {task}" if task else f"class {label}"


def numbers_restart(keys: Collection[Key]) -> bool:
    """Say whether a class number comes with several task labels."""
    return len({label for _, label in keys}) < len(keys)


def numbered(keys: Collection[Key]) -> dict[Key, int]:
    """Return a number for each class that no other has: its own, plus K for each task where numbers restart."""
    restart = numbers_restart(keys)
    stride = max((label for _, label in keys), default=0) + 1
    return {(task, label): label + (stride * task if restart else 0) for task, label in keys}


def drawn(keys: Collection[Key], count: int, seed: int) -> set[Key]:
    """Return ``count`` of the classes, drawn so that one that is left out stays out while others arrive."""
    return set(sorted(keys, key=lambda key: derive_seed(seed, "place", *key))[:count])


def counted(keys: Collection[Key], counts: Counter[Key]) -> Counter[Key]:
    """Return the counts of some of the classes."""
    return Counter({key: count for key, count in counts.items() if key in keys})
