"""Matching networks that are trained on real data between outer steps."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ddkit.base.ranges import Count, Whole
from ddkit.networks.network import Network
from ddkit.networks.real_training import RealTraining
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.networks.training import still
from ddkit.synthesis.base import Synthesizer


@dataclass
class _Member:
    """One network: its number, the outer steps it has served, and its weights while it waits for its turn."""

    number: int = -1
    served: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    velocity: list[Tensor] = field(default_factory=list)


@registry.register("real-trained")
class RealTrainedNetworks(NetworkSource):
    r"""Networks trained on real data, never on the synthetic set (IDC: Kim et al. 2022, ICML; survey Eq. 27).

    .. math:: \theta \leftarrow \theta - \eta \nabla_\theta \mathrm{CE}(B_T, \theta)

    After each of its outer steps but the last one of its life, a network is trained for one segment: one epoch over
    ``images`` real images, drawn anew without replacement. Momentum goes on from segment to segment.

    Deviation: the authors keep one network at a time (``pool=1``). With more, they take turns, and network i begins
    ``i * life // pool`` segments ahead, so that the ages of a few neighbouring steps spread over a whole life as those
    of a whole life do with one network. The head start is paid once, in the first ``pool`` steps.

    Args:
        life: outer steps that a network serves before a new one replaces it (the authors' inner loop).
        images: real images per segment (all of a smaller dataset).
        batch_size: real images per SGD step.
        lr: learning rate of SGD.
        momentum: of SGD.
        weight_decay: L2 penalty.
        cutmix: probability of CutMix per batch.
        augmentation: strategy of the training, parameters drawn per image; None for that of the matching, ``none``
            for none.
        pretrain_epochs: epochs over the whole real data before a network's first use, which hold all its images,
            preprocessed, in memory.
        pool: networks that take turns.

    Raises:
        ConfigError: an option out of range, or a strategy that does not exist.
    """

    def __init__(
        self,
        life: Count = 100,
        images: Count = 2000,
        batch_size: int = 64,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        cutmix: float = 0.5,
        augmentation: str | None = "color+crop",
        pretrain_epochs: Whole = 0,
        pool: Count = 1,
    ) -> None:
        self.steps, self.images, self.pretrain_epochs = life, images, pretrain_epochs
        self.pool = self.in_turn = pool
        self.training = RealTraining(batch_size, lr, momentum, weight_decay, cutmix, augmentation)

    def setup(self, setting: Setting) -> None:
        """Receive the network, the streams and the signal; no network has been drawn yet."""
        super().setup(setting)
        self.training.setup(setting)
        self.members = [_Member() for _ in range(self.pool)]
        self.turn = 0

    def current(self) -> Network:
        """Return the network whose turn it is, newly drawn at the start of its life."""
        member = self.members[self.turn]
        if member.weights:
            self.network.module.load_state_dict(member.weights)
        else:
            self._begin(member)
        return self.network

    def _begin(self, member: _Member) -> None:
        self.network.reset(self.streams.integer("networks"))
        member.number, member.velocity = self.drawn, still(self.network)
        self.drawn += 1
        if self.pretrain_epochs:
            self.training.run(sys.maxsize, member.velocity, self.pretrain_epochs)
        if member.number < self.pool:
            member.served = member.number * self.steps // self.pool
            for _ in range(member.served):
                self.training.run(self.images, member.velocity)

    def age(self) -> tuple[int, int]:
        """Return the number of the present network and its age in outer steps, the head start included."""
        member = self.members[self.turn]
        return member.number, member.served

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Train the network just used for a segment unless its life ends here; the synthetic set plays no part."""
        member = self.members[self.turn]
        member.served += 1
        if member.served == self.steps:
            self.members[self.turn] = _Member()
        else:
            if not last:
                self.training.run(self.images, member.velocity)
            member.weights = self.network.snapshot()
        self.turn = (self.turn + 1) % self.pool

    def life(self) -> int:
        """The option ``life``; the head start of a pool's first members shortens theirs."""
        return self.steps

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Real images trained on per outer step, averaged over the life of a network; pretraining is left out."""
        return self.images * (self.steps - 1) / self.steps

    def state_dict(self) -> dict[str, Any]:
        """Return whose turn it is, and of every living network its weights, velocity and age."""
        members = [
            {
                "number": member.number,
                "served": member.served,
                "weights": member.weights,
                "velocity": [v.clone() for v in member.velocity],
            }
            for member in self.members
        ]
        return {"drawn": self.drawn, "turn": self.turn, "members": members}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same networks."""
        self.drawn, self.turn = int(state["drawn"]), int(state["turn"])
        if len(state["members"]) != self.pool or not 0 <= self.turn < self.pool:
            raise ValueError(f"{len(state['members'])} networks, of which number {self.turn} is next, are no pool")
        self.members = []
        for saved in state["members"]:
            member = _Member(int(saved["number"]), int(saved["served"]), dict(saved["weights"]))
            if saved["velocity"]:
                # Into tensors laid out like the weights: kernels may round differently on another memory layout.
                member.velocity = still(self.network)
                torch._foreach_copy_(member.velocity, list(saved["velocity"]))
            self.members.append(member)
