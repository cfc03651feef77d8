"""Matching networks with known initial weights: the same ones at every step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddkit.base.ranges import Count, Whole
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.synthesis.base import Synthesizer


@registry.register("fixed")
class FixedNetworks(NetworkSource):
    """A network that is reset to the same initial weights at every step (DD's fixed or known initialisation).

    What is learned for one initialisation looks like noise and does not transfer to others: such a set is to be trained
    on with the very weights, which is why its card names their seeds (and its recipe the seed, where there is one).
    Large learned rates make the outcome jump where a unit of the student switches on or off: on digits (IPC 1, MLP, 180
    late steps of three seeds) two outcomes were more than 8 points below the median of their run, once 16, right beside
    good ones. A result that is chosen on held-out images (``--holdout``) avoids them.

    Args:
        count: initial weights, one of which is drawn at every step.
        refresh: outer steps after which the oldest of them are replaced by new ones; 0 to keep them.
    """

    def __init__(self, count: Count = 1, refresh: Whole = 0) -> None:
        self.count, self.refresh = count, refresh
        #: Which of the initial weights the network has at present.
        self.number = 0

    def setup(self, setting: Setting) -> None:
        """Draw the seeds of all initial weights."""
        super().setup(setting)
        self.seeds = [self.streams.integer("fixed-networks") for _ in range(self.count)]
        self.drawn = self.count
        #: The weights drawn last and their seed: copying them is faster than drawing them again.
        self._held: tuple[int, dict[str, Tensor]] | None = None
        self.number = 0

    @property
    def known_start(self) -> int | None:  # type: ignore[override]
        """The seed of the initial weights, where there is one."""
        return self.seeds[0] if self.count == 1 and not self.refresh else None

    def current(self) -> Network:
        """Return the network with one of the initial weights."""
        number = 0
        if self.count > 1:
            number = int(torch.randint(self.count, (1,), generator=self.streams("networks")))
        return self.select(number)

    def select(self, number: int) -> Network:
        """Return the network with the initial weights ``number``, for a signal that answers for all of them at once."""
        self.number = number
        seed = self.seeds[number]
        if self._held is not None and self._held[0] == seed:
            self.network.module.load_state_dict(self._held[1])
        else:
            self.network.reset(seed)
            self._held = seed, self.network.snapshot()
        return self.network

    @property
    def keys(self) -> list[int]:
        """The seeds of the initial weights."""
        return self.seeds

    @property
    def key(self) -> int:
        """The seed of the present network."""
        return self.seeds[self.number]

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Count the step; replace the oldest weights where that is due."""
        self.served += 1
        if self.refresh and self.served % self.refresh == 0:
            oldest = (self.served // self.refresh - 1) % self.count
            self.seeds[oldest] = self.streams.integer("fixed-networks")
            self.drawn += 1

    def metadata(self) -> dict[str, Any]:
        """Return the seeds from which ``model`` builds the initial weights."""
        return {"seeds": list(self.seeds), "model": self.network.spec.canonical()}

    def state_dict(self) -> dict[str, Any]:
        """Return the seeds and the number of steps."""
        return {"seeds": list(self.seeds), "served": self.served}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved seeds."""
        seeds = [int(seed) for seed in state["seeds"]]
        if len(seeds) != self.count:
            raise ValueError(f"{len(seeds)} seeds are not those of {self.count} networks")
        self.seeds, self.served = seeds, int(state["served"])
