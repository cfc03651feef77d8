"""Which real images of an online stream are replayed until they are distilled?"""

from __future__ import annotations

from collections import Counter

import torch

from ddkit.errors import ConfigError
from ddkit.integrations.continual.incoming import Arrival
from ddkit.integrations.continual.keys import Key, counted


class Window:
    """A sample of what has arrived since it was last taken, never larger than the room that it gets.

    It is uniform within a class, and as many are kept of each as there are, or its share of the room.

    Args:
        limit: images at most, and after how many arrived ones it is full.
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
        """Take in images: each gets a random key, and those with the largest of their class stay (reservoir sampling).

        Args:
            arrival: the images.
            generator: of the keys.
            room: for how many images there is room.
        """
        self.seen.update(arrival.keys)
        self.arrivals += 1
        self._keys = torch.cat([self._keys, torch.rand(len(arrival.labels), generator=generator)])
        self.kept = arrival if self.kept is None else self.kept.joined(arrival)
        self.trim(room)

    def trim(self, room: int) -> None:
        """Keep no more than ``room`` images: the first of every class by their keys, then the second, and so on."""
        if self.kept is None:
            return
        index = (self._ranks() + 1 - self._keys.double()).argsort()[: min(self.limit, room)].sort().values
        self.kept, self._keys = self.kept.of(index), self._keys[index]

    def first(self, count: int) -> Arrival | None:
        """Return ``count`` images of each class, or all that are kept of it."""
        return None if self.kept is None else self.kept.of((self._ranks() < count).nonzero().squeeze(1))

    def _ranks(self) -> torch.Tensor:
        """Return the place of each image within its class by its key, ``(n,)`` int64 from 0."""
        assert self.kept is not None
        ranks, taken, classes = torch.zeros(len(self._keys), dtype=torch.int64), Counter[Key](), self.kept.keys
        for place in self._keys.argsort(descending=True).tolist():
            ranks[place] = taken[classes[place]]
            taken[classes[place]] += 1
        return ranks

    def sample(self) -> tuple[Arrival, Counter[Key]]:
        """Return the sample and how many images of each of its classes it stands for."""
        assert self.kept is not None
        return self.kept, counted(set(self.kept.keys), self.seen)  # of a class may be none

    def clear(self) -> None:
        """Forget the sample."""
        self.put(None, Counter(), 0)

    def put(self, kept: Arrival | None, seen: Counter[Key], arrivals: int) -> None:
        """Take back a sample that was saved; the images of a class count as drawn uniformly.

        They get the largest keys that as many as were seen can be expected to have, which are evenly spaced.
        """
        self.kept, self.seen, self.arrivals = kept, seen, arrivals
        self._keys = torch.zeros(0 if kept is None else len(kept.labels))
        taken = Counter[Key]()
        for place, key in enumerate([] if kept is None else kept.keys):
            taken[key] += 1
            self._keys[place] = 1 - taken[key] / (seen[key] + 1)
