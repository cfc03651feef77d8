"""Matching networks with known initial weights: the same ones at every step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ddkit.networks.network import Network
from ddkit.networks.options import require_at_least
from ddkit.networks.sources import NetworkSource, registry
from ddkit.synthesis import Synthesizer

if TYPE_CHECKING:
    from ddkit.objectives import Context


@registry.register("fixed")
class FixedNetworks(NetworkSource):
    """A network that is reset to the same initial weights at every step (DD's fixed or known initialisation).

    What is learned for one initialisation looks like noise and does not transfer to others: such a set is to be trained
    on with the very weights, which is why its card names their seeds (and its recipe the seed, where there is one).

    Args:
        count: initial weights, one of which is drawn at every step.

    Raises:
        ConfigError: a count below 1.
    """

    def __init__(self, count: int = 1) -> None:
        require_at_least(1, count=count)
        self.count = count

    def setup(self, context: Context) -> None:
        """Draw the seeds of all initial weights."""
        super().setup(context)
        self.seeds = [self.streams.integer("fixed-networks") for _ in range(self.count)]
        self.drawn = self.count

    def current(self) -> Network:
        """Return the network with one of the initial weights."""
        number = 0
        if self.count > 1:
            number = int(torch.randint(self.count, (1,), generator=self.streams("networks")))
        self.network.reset(self.seeds[number])
        return self.network

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Count the step."""
        self.served += 1

    def metadata(self) -> dict[str, Any]:
        """Return the seeds from which ``model`` builds the initial weights."""
        return {"seeds": list(self.seeds), "model": self.network.spec.canonical()}

    def state_dict(self) -> dict[str, Any]:
        """Return the seeds and the number of steps."""
        return {"seeds": list(self.seeds), "served": self.served}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved seeds."""
        self.seeds, self.served = [int(seed) for seed in state["seeds"]], int(state["served"])
