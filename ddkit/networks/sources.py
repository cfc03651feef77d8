"""Where the matching network of each outer step comes from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ddkit.base.progress import Report
from ddkit.base.ranges import Count, Rate
from ddkit.base.registry import Registry
from ddkit.errors import ConfigError
from ddkit.networks.network import Network
from ddkit.networks.setting import Setting
from ddkit.networks.training import require_finite, train_epochs
from ddkit.synthesis.base import Synthesizer

registry: Registry[type[NetworkSource]] = Registry("network source", "ddkit.networks", "networks")


class NetworkSource(ABC):
    """Hands the objective a network for every outer step.

    The engine calls :meth:`setup` once, the objective calls :meth:`current` in every outer step, the engine calls
    :meth:`after_step` once the synthetic data have been updated.
    """

    #: Seed of the initial weights where every step starts from the same ones.
    known_start: int | None = None
    #: Networks drawn so far and outer steps that the present one has served, see :meth:`age`.
    drawn: int = 0
    served: int = 0
    #: Networks that are alive at once and take turns.
    in_turn: int = 1

    def setup(self, setting: Setting) -> None:
        """Receive the module whose weights this source replaces, the random streams and the signal.

        Nothing is computed here: what takes time is done when the first network is asked for.
        """
        self.setting = setting
        self.drawn, self.served = 0, 0
        self.network = setting.network
        self.streams = setting.streams
        self.augmentation = setting.augmentation

    def prepare(self, report: Report) -> None:
        """Do what takes long before the first step; called once after :meth:`setup`, on a resumed run as well.

        Args:
            report: told how far it is.
        """

    @abstractmethod
    def current(self) -> Network:
        """Return the network of this outer step."""

    def age(self) -> tuple[int, int]:
        """Return the number of the present network, from 0, and how many outer steps it has served before this one.

        Valid between :meth:`current` and :meth:`after_step`; a warm-up or a curriculum follows it.
        """
        return self.drawn - 1, self.served

    @abstractmethod
    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """React to an updated synthetic set; ``last`` says that no further outer step follows.

        Raises:
            DivergedError: a weight is not finite any more.
        """

    def last(self) -> Network:
        """Return the network at the end of the training run of which the present one is an early stage.

        Valid between :meth:`current` and :meth:`after_step`; the present network is gone then.
        """
        raise self.without_a_last()

    def without_a_last(self) -> ConfigError:
        """Return the error for an objective that asks for :meth:`last` where there is none."""
        return ConfigError(
            f"networks={type(self).__name__} has no network at the end of a training run: use networks=pool, or "
            f"objective.ce_network=same"
        )

    def observe(self, gradient: Tensor, *, images: int, error: float) -> None:
        """Receive what an objective learnt about the network of this outer step; nothing is done with it here.

        An objective that looks one or more inner steps ahead has the gradient at the present weights anyway. A source
        whose network advances with the synthetic data takes its own step with it in :meth:`after_step`.

        Args:
            gradient: (P,) of the loss on synthetic images at the network's weights, in ``module.parameters()`` order.
            images: synthetic images of that loss.
            error: share of real images that the network gets wrong after its inner steps.
        """

    def recipe_changes(self, synthesizer: Synthesizer) -> dict[str, Any]:
        """Return fields of the evaluation recipe that follow from how the networks were trained.

        Args:
            synthesizer: what is learned; a number of steps is a number of epochs of its images.
        """
        return {}

    @property
    def at_once(self) -> int:
        """How many networks see every image of an outer step, for cost estimates; 0 for a kernel without any."""
        return 1

    def life(self) -> int | None:
        """Return how many outer steps a network serves; None where that is not known beforehand."""
        return None

    def metadata(self) -> dict[str, Any]:
        """Return what the artifact's card says about the networks (how often a cap was hit, for instance)."""
        return {}

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Images that go forward and backward per outer step for the upkeep of networks (for cost estimates).

        What is done once per run, however many steps it has, does not count.
        """
        return 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on with the same networks."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


@registry.register("fresh")
class FreshNetworks(NetworkSource):
    """New random networks (distribution matching).

    Args:
        serve: outer steps that each of them serves.
    """

    serve = 1  # for sources derived from this one

    def __init__(self, serve: Count = 1) -> None:
        self.serve = serve

    def current(self) -> Network:
        """Return the network, with newly drawn weights where it has not served yet."""
        if self.served == 0:
            self.network.reset(self.streams.integer("networks"))
            self.drawn += 1
        return self.network

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Count the step."""
        self.served = (self.served + 1) % self.serve

    def life(self) -> int:
        """``serve`` outer steps."""
        return self.serve

    def state_dict(self) -> dict[str, Any]:
        """Return how many networks were drawn and, of one that goes on serving, its age and weights."""
        going_on = {"served": self.served, "weights": self.network.snapshot()} if self.served else {}
        return {"drawn": self.drawn, **going_on}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same network."""
        self.drawn, self.served = int(state["drawn"]), int(state.get("served", 0))
        if self.served:
            self.network.module.load_state_dict(state["weights"])


@registry.register("synthetic-trained")
class SyntheticTrainedNetworks(NetworkSource):
    """A random network that is trained on the synthetic set in ``outer_loop`` stages and then replaced.

    The inner loop of dataset condensation (Zhao, Mopuri and Bilen 2021, Algorithm 1). As in the authors' program the
    network is not trained after the last outer step of its life.

    Args:
        outer_loop: stages before a new network is drawn.
        inner_epochs: epochs on the synthetic set between two stages.
        lr: learning rate of plain SGD.
        batch_size: synthetic images per SGD step.
        updates: outer steps per stage (10 in PSG, whose real batches are not by class).
    """

    def __init__(
        self,
        outer_loop: Count = 1,
        inner_epochs: Count = 1,
        lr: Rate = 0.01,
        batch_size: Count = 256,
        updates: Count = 1,
    ) -> None:
        self.outer_loop, self.inner_epochs, self.updates = outer_loop, inner_epochs, updates
        self.lr, self.batch_size = lr, batch_size

    def current(self) -> Network:
        """Return the network, newly drawn at the start of each outer loop."""
        if self.served == 0:
            self.network.reset(self.streams.integer("networks"))
            self.drawn += 1
        return self.network

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Train the network on the updated synthetic set unless its life ends here."""
        self.served = (self.served + 1) % self.life()
        if self.served == 0 or self.served % self.updates or last:
            return
        with torch.no_grad():
            images, targets = synthesizer()
        train_epochs(
            self.network,
            images.detach(),
            targets.detach(),
            epochs=self.inner_epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            generator=self.streams("inner-training"),
        )
        require_finite(self.network, "the synthetic set", f"lower networks.lr (now {self.lr}) or optimiser.lr")

    def life(self) -> int:
        """``outer_loop * updates`` outer steps."""
        return self.outer_loop * self.updates

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Images trained on per outer step, averaged over the life of a network."""
        return self.inner_epochs * len(synthesizer) * (self.outer_loop - 1) / (self.outer_loop * self.updates)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the outer loop and, in the middle of one, the weights."""
        state: dict[str, Any] = {"drawn": self.drawn, "served": self.served}
        if self.served:
            state["weights"] = self.network.snapshot()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on in the middle of an outer loop."""
        self.drawn, self.served = int(state["drawn"]), int(state.get("served", 0))
        if self.served:
            self.network.module.load_state_dict(state["weights"])
