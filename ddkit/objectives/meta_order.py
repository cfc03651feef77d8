"""On which synthetic images does a student of meta-learning train in each inner step?"""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor

from ddkit.errors import ConfigError, unknown_name
from ddkit.synthesis.base import Synthesizer

Order = Literal["fixed", "random", "shuffled"]
ORDERS: tuple[str, ...] = ("fixed", "random", "shuffled")


class InnerOrder:
    """The batches of T inner steps, as indices of decoded images.

    - ``fixed``: the decoded images of every class that has any are cut into S runs of ``per_class`` consecutive ones;
      step t trains on run t mod S of each class (DD).
    - ``random``: ``per_class`` images of each class, drawn anew for every step, without replacement within one (RTP).
    - ``shuffled``: chunks of a permutation of all images, see
      :meth:`~ddkit.synthesis.Synthesizer.inner_batches`.

    Batches are class-major.

    Args:
        order: one of the above.
        steps: T.
        per_class: k, images of each class per step. None: as many as an outer step of another objective looks at; with
            ``fixed`` the next divisor of their number for which T steps see all of them.
        size: images per step of ``shuffled``; None as in ``inner_batches``.
        batches: S of ``fixed``, instead of ``per_class``: it stays right where a code is decoded into several images.
            Where it does not divide their number, the largest divisor up to it is taken, with a warning.

    Raises:
        ConfigError: an unknown order, or an option that it does not have.
    """

    def __init__(
        self, order: Order, steps: int, per_class: int | None, size: int | None, batches: int | None = None
    ) -> None:
        if order not in ORDERS:
            raise unknown_name("order of inner batches", order, ORDERS)
        if order == "shuffled" and per_class is not None:
            raise ConfigError(
                f"objective.batch_per_class={per_class} with objective.order=shuffled, whose batches may hold any "
                f"number of each class: set objective.batch_syn instead"
            )
        if order != "shuffled" and size is not None:
            raise ConfigError(
                f"objective.batch_syn={size} with objective.order={order}, whose batches hold equally many images of "
                f"each class: set objective.batch_per_class instead, or objective.order=shuffled"
            )
        if batches is not None and (order != "fixed" or per_class is not None):
            raise ConfigError(
                f"objective.batches={batches} says into how many batches objective.order=fixed cuts the images: leave "
                f"it out with another order or with objective.batch_per_class"
            )
        self.order, self.steps, self.per_class, self.size = order, steps, per_class, size
        self.count = batches

    def check(self, synthesizer: Synthesizer) -> None:
        """Refuse what does not divide or leaves images out; warn where fewer images than asked for are drawn."""
        decoded = synthesizer.decoded_per_class
        if self.count is not None and decoded % self.count:
            runs = self.runs(synthesizer)
            warnings.warn(
                f"objective.batches={self.count} does not divide the {decoded} decoded images of a class: {runs} "
                f"batch{'es' * (runs != 1)} of {decoded // runs} of each are used",
                stacklevel=2,
            )
        if self.order == "fixed":
            count = self.taken(synthesizer)
            if decoded % count:
                raise ConfigError(
                    f"objective.batch_per_class={count} does not divide the {decoded} decoded images of a class: "
                    f"choose a divisor, or objective.order=random"
                )
            if decoded // count > self.steps:
                raise ConfigError(
                    f"objective.inner_steps={self.steps} would never reach all {decoded // count} runs of {count} "
                    f"images of a class: use {decoded // count} or more inner steps, a larger "
                    f"objective.batch_per_class, or objective.order=random"
                )
        elif self.order == "random" and self.per_class is not None and self.per_class > decoded:
            warnings.warn(
                f"objective.batch_per_class={self.per_class}, but a class has {decoded} decoded images: all of them "
                f"are used in every inner step",
                stacklevel=2,
            )
        elif self.order == "shuffled":
            self.batch_size(synthesizer)

    def taken(self, synthesizer: Synthesizer) -> int:
        """Return k, the images of each class per step of ``fixed`` and ``random``."""
        decoded = synthesizer.decoded_per_class
        if self.order == "random":
            return min(decoded, self.per_class or synthesizer.batch_per_class)
        if self.count is not None:
            return decoded // max(number for number in range(1, self.count + 1) if decoded % number == 0)
        return self.per_class or self._divisor(decoded, synthesizer.batch_per_class)

    def _divisor(self, decoded: int, most: int) -> int:
        """Return the largest divisor up to ``most`` for which all images are seen, or else the smallest such one."""
        enough = [k for k in range(1, decoded + 1) if decoded % k == 0 and decoded // k <= self.steps]
        return max((k for k in enough if k <= most), default=enough[0])

    def runs(self, synthesizer: Synthesizer) -> int:
        """Return S, after how many steps of ``fixed`` the batches repeat."""
        return synthesizer.decoded_per_class // self.taken(synthesizer)

    def batch_size(self, synthesizer: Synthesizer) -> int:
        """Return the images of one step; the synthesizer refuses a size that it does not have."""
        if self.order == "shuffled":
            return len(synthesizer.inner_batches(1, self.size, torch.Generator())[0])
        return self.taken(synthesizer) * (len(synthesizer) // synthesizer.decoded_per_class)

    def batches(self, synthesizer: Synthesizer, generator: torch.Generator) -> list[Tensor]:
        """Return the decoded indices of every step: T tensors (n,) int64 on the CPU.

        Args:
            synthesizer: whose images.
            generator: on the CPU; ``fixed`` draws nothing.
        """
        if self.order == "shuffled":
            return synthesizer.inner_batches(self.steps, self.size, generator)
        rows = torch.arange(len(synthesizer)).view(-1, synthesizer.decoded_per_class)
        taken = self.taken(synthesizer)
        if self.order == "fixed":
            runs = [run.flatten() for run in rows.split(taken, dim=1)]
            return [runs[number % len(runs)] for number in range(self.steps)]
        drawn = [torch.rand(rows.shape, generator=generator).argsort(dim=1)[:, :taken] for _ in range(self.steps)]
        return [rows.gather(1, columns).flatten() for columns in drawn]
