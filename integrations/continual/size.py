"""How much may the memory hold, and how many images of a class is that?"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from ddkit.data.distilled.budget import Budget
from ddkit.errors import ConfigError


class MaxSize(int):
    """A number of images that Avalanche's plugins compare with their ``mem_size``.

    They do so by an assertion without words, which fails with the default of 200 where ``mem_size`` was forgotten.

    Raises:
        ConfigError: a plugin of Avalanche found another number.
    """

    def __eq__(self, other: object) -> bool:
        equal = int(self) == other
        if not equal and str(sys._getframe(1).f_globals.get("__name__")).startswith("avalanche."):
            raise ConfigError(
                f"the plugin has mem_size={other}, the memory max_size={int(self)}: give it mem_size=buffer.max_size, "
                f"or let distilled_replay(buffer) make it"
            )
        return equal

    __hash__ = int.__hash__


@dataclass(frozen=True)
class Size:
    """The size of a memory, in images or in bytes.

    Args:
        images: images (or codes) in all; None when bytes are given.
        bytes: bytes in all, labels and decoders included; None when images are given.
        num_classes: K classes among which the memory is divided from the start; None to divide it among the
            classes seen so far.

    Raises:
        ConfigError: neither or both sizes, or fewer images than classes.
    """

    images: int | None
    bytes: int | None
    num_classes: int | None

    def __post_init__(self) -> None:
        if (self.images is None) == (self.bytes is None):
            raise ConfigError("give the size of the memory once: max_size images or max_bytes")
        if self.num_classes is not None and self.num_classes < 1:
            raise ConfigError(f"num_classes={self.num_classes}: give at least 1, or None to divide by the classes seen")
        self._check(self.num_classes or 1)

    def _check(self, classes: int) -> None:
        if self.images is not None and self.images < classes:
            raise ConfigError(
                f"max_size={self.images} does not hold one image for each of {classes} classes: "
                f"give at least max_size={classes}"
            )

    def quota(self, seen: int, group: int, bytes_of: Callable[[int], int]) -> int:
        """Return how many images (or codes) each class may keep.

        Args:
            seen: number of classes seen so far.
            group: number of classes that are stored together.
            bytes_of: bytes of a group with n images per class, increasing in n.

        Raises:
            ConfigError: not one image per class fits; the smallest size that does is named.
        """
        classes = max(seen, self.num_classes or 0)
        if self.images is not None:
            self._check(classes)
            return self.images // classes
        assert self.bytes is not None
        share = self.bytes * group // classes
        if bytes_of(1) > share:
            raise ConfigError(
                f"max_bytes={self.bytes} does not hold one image for each of {classes} classes, of "
                f"{-(-bytes_of(1) // group)} bytes each: give at least {-(-bytes_of(1) * classes // group)} bytes"
            )
        low, high = 1, 2
        while bytes_of(high) <= share:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if bytes_of(middle) <= share else (low, middle)
        return low

    def places(self, each: int) -> int:
        """Return how many classes can have an image, of ``each`` bytes with its label."""
        return self.images if self.images is not None else (self.bytes or 0) // each

    def room(self, stored: Budget, each: int) -> int:
        """Return how many images of ``each`` bytes fit beside what is stored."""
        if self.images is not None:
            return max(0, self.images - stored.images)
        return max(0, (self.bytes or 0) - stored.bytes) // each

    def share(self, seen: int, each: int) -> int:
        """Return how many images of ``each`` bytes are the share of one of ``seen`` classes, which may be none."""
        classes = max(seen, self.num_classes or 0)
        return self.images // classes if self.images is not None else (self.bytes or 0) // classes // each
