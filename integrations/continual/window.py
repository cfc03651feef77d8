"""Which real images of an online stream are replayed until they are distilled?"""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.integrations.continual.incoming import Arrival
from ddkit.integrations.continual.keys import Key, counted


class Window:
    """A uniform sample of what has arrived since it was last taken, never larger than the room that it gets.

    Args:
        limit: images at most, and after how many arrived ones it is full.

    Raises:
        ConfigError: a limit below 1.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ConfigError(f"window={limit} images: give at least 1")
        self.limit = limit
        self.kept: Arrival | None = None
        self.seen: Counter[Key] = Counter()
        self.arrivals = 0
        self._keys = torch.zeros(0)

    @property
    def full(self) -> bool:
        """Whether as many images have arrived as it may hold at most."""
        return sum(self.seen.values()) >= self.limit

    def add(self, arrival: Arrival, generator: torch.Generator, room: int) -> None:
        """Take in images: each gets a random key, and the ``room`` with the largest stay (reservoir sampling)."""
        self.seen.update(arrival.keys)
        self.arrivals += 1
        self._keys = torch.cat([self._keys, torch.rand(len(arrival.labels), generator=generator)])
        self.kept = arrival if self.kept is None else self.kept.joined(arrival)
        self.trim(room)

    def trim(self, room: int) -> None:
        """Keep no more than ``room`` images."""
        if self.kept is None:
            return
        index = self._keys.topk(min(self.limit, room, len(self._keys))).indices.sort().values
        self.kept, self._keys = self.kept.of(index), self._keys[index]

    def sample(self) -> tuple[Arrival, Counter[Key]]:
        """Return the sample and how many images of each of its classes it stands for."""
        assert self.kept is not None
        return self.kept, counted(set(self.kept.keys), self.seen)  # of a rare class no image may be left

    def clear(self) -> None:
        """Forget the sample."""
        self.put(None, Counter(), 0)

    def put(self, kept: Arrival | None, seen: Counter[Key], arrivals: int) -> None:
        """Take back a sample that was saved; its images count as drawn uniformly."""
        self.kept, self.seen, self.arrivals = kept, seen, arrivals
        self._keys = _keys_after(sum(seen.values()), 0 if kept is None else len(kept.labels))


def _keys_after(seen: int, kept: int) -> Tensor:
    """Return keys of ``kept`` images that are the largest of ``seen``: evenly spaced, as expected of such keys."""
    if not kept:
        return torch.zeros(0)
    return 1 - (torch.arange(kept) + 1) / (seen + 1)
