"""A network that lives on: it advances with the synthetic data and starts anew once it stops improving."""

from __future__ import annotations

import copy
import math
import warnings
from collections import deque
from typing import Any

import torch
from torch import Tensor

from ddkit.base.ranges import Count, Rate
from ddkit.errors import ConfigError
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.networks.training import require_finite
from ddkit.synthesis.base import Synthesizer

#: Lives whose mean length says for how long a new network is trained on the result.
COUNTED_LIVES = 3


@registry.register("online")
class OnlineNetwork(NetworkSource):
    """One network, trained in turns with the synthetic data (LD; Bohdal et al. 2020, arXiv 2006.08572, Algorithm 1).

    After every outer step the network takes one step of Adam with the gradient on the synthetic images that the
    objective handed to :meth:`observe`. Nothing is restarted in between, which is what LD changes in DD.

    Restart: the error on real images is averaged over the last ``gap`` steps. Once this average has not improved for
    more than ``gap`` steps, the steps up to its minimum are noted, and a new network with a new Adam takes over;
    labels and their optimiser go on.

    The mean of the last three noted ages (the present age before the first restart) is for how many steps a network is
    to be trained on the result, see :meth:`recipe_changes`. The published choice between results of different epochs by
    their accuracy on held-out real images is what ``--holdout`` does in general.

    Args:
        lr: learning rate of Adam.
        gap: outer steps, G.
    """

    def __init__(self, lr: Rate = 0.001, gap: Count = 50) -> None:
        self.lr, self.gap = lr, gap

    def setup(self, setting: Setting) -> None:
        """Receive the network; its first weights are drawn when they are asked for."""
        super().setup(setting)
        self.ages: list[int] = []
        self.batch = 0
        self.over = True
        self._observed: tuple[Tensor, float] | None = None
        self._forget()

    def _forget(self) -> None:
        self.optimiser = torch.optim.Adam(self.network.module.parameters(), lr=self.lr)
        self.errors: deque[float] = deque(maxlen=self.gap)
        self.best, self.best_age = math.inf, 0
        self.served = 0

    def current(self) -> Network:
        """Return the network, newly drawn in the first step and after a restart."""
        if self.over:
            self.network.reset(self.streams.integer("networks"))
            self._forget()
            self.drawn, self.over = self.drawn + 1, False
        return self.network

    def observe(self, gradient: Tensor, *, images: int, error: float) -> None:
        """Keep the gradient for :meth:`after_step` and the error for the restart rule."""
        self.batch = images
        self._observed = (gradient.detach(), error)

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Take one step of Adam; decide whether the life of this network ends."""
        if self._observed is None:
            raise ConfigError(
                "networks=online advances with the gradient that an objective hands over, and this one does not: use "
                "objective=meta or objective=ridge, or networks=synthetic-trained"
            )
        gradient, error = self._observed
        self._observed = None
        weights = list(self.network.module.parameters())
        for weight, part in zip(weights, gradient.split([w.numel() for w in weights]), strict=True):
            weight.grad = part.view_as(weight).to(weight)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        require_finite(self.network, "the synthetic set", f"lower networks.lr (now {self.lr})")
        self.served += 1
        self._judge(error)
        if last and not self.ages:
            warnings.warn(
                f"the online network was never restarted within {self.setting.steps} steps, so its age of "
                f"{self.best_age or self.served} says how long to train on the result: run more steps, or lower "
                f"networks.gap (now {self.gap})",
                stacklevel=2,
            )

    def _judge(self, error: float) -> None:
        """Update the moving average; note the age at its minimum where that is too long ago."""
        self.errors.append(error)
        if len(self.errors) < self.gap:
            return
        average = sum(self.errors) / self.gap
        if average < self.best:
            self.best, self.best_age = average, self.served
        elif self.served - self.best_age > self.gap:
            self.ages.append(self.best_age)
            self.over = True

    @property
    def training_steps(self) -> int:
        """N, steps for which a new network is to be trained on the result: the mean of the last three noted ages."""
        lives = self.ages[-COUNTED_LIVES:]
        return sum(lives) // len(lives) if lives else self.served

    def recipe_changes(self, synthesizer: Synthesizer) -> dict[str, Any]:
        """Return the epochs that make up N steps, and the batch size of the network's own steps."""
        if not self.batch:
            return {}
        size = min(self.batch, len(synthesizer))
        per_epoch = math.ceil(len(synthesizer) / size)
        return {"epochs": max(1, round(self.training_steps / per_epoch)), "batch_size": size}

    def metadata(self) -> dict[str, Any]:
        """Return how many networks there were, the ages of the last of them, and N."""
        return {"networks": self.drawn, "ages": self.ages[-COUNTED_LIVES:], "training_steps": self.training_steps}

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, Adam's moments and the statistics of the restart rule."""
        return {
            "drawn": self.drawn,
            "served": self.served,
            "ages": list(self.ages),
            "batch": self.batch,
            "over": self.over,
            "errors": list(self.errors),
            "best": [self.best] if math.isfinite(self.best) else [],
            "best_age": self.best_age,
            "weights": self.network.snapshot(),
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same network."""
        self._forget()
        self.drawn, self.served, self.batch = int(state["drawn"]), int(state["served"]), int(state["batch"])
        self.over, self.best_age = bool(state["over"]), int(state["best_age"])
        self.ages = [int(age) for age in state["ages"]]
        self.errors.extend(state["errors"])
        self.best = float(state["best"][0]) if state["best"] else math.inf
        self.network.module.load_state_dict(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
