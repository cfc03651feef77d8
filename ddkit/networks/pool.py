"""Matching networks from a pool of snapshots taken along training runs on real data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddkit.base.ranges import Count
from ddkit.errors import ConfigError
from ddkit.networks.network import Network
from ddkit.networks.real_training import RealTraining
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.networks.training import still
from ddkit.synthesis.base import Synthesizer

#: Most real images drawn, preprocessed and held at once.
_DRAWN_IMAGES = 2048


@registry.register("pool")
class TrainedPool(NetworkSource):
    r"""One of a fixed pool of networks at various stages of training on real data, drawn for every outer step.

    Networks of IT-GAN (Zhao and Bilen 2022, arXiv 2204.07513), which matches features of trained networks. There the
    pool holds networks above an accuracy; here, so that no accuracy has to be known beforehand, it holds ``stages``
    snapshots of each of ``runs`` training runs, evenly spaced from the untrained network to the last step.

    The pool is trained when the first network is asked for. Checkpoints hold the snapshots themselves (runs * stages
    copies of the weights) instead of a seed from which to train them again: a resumed run then asks the signal nothing
    twice, which a private signal would have to account for, and waits for nothing.

    With ``blend`` (DANCE, Zhang et al. 2024, IJCAI; NCFM, Wang et al. 2025, CVPR, arXiv 2502.20653) every step has a
    network of its own, on the line between the first and the last snapshot of a run drawn uniformly:

    .. math:: \theta = u\,\theta_0 + (1 - u)\,\theta_T, \qquad u \sim U(0, 1)

    Args:
        runs: training runs.
        stages: snapshots of each run, at least 2; exactly 2 with ``blend``.
        steps: SGD steps of a run, at least ``stages - 1``.
        batch_size: real images per SGD step.
        lr: learning rate of SGD.
        momentum: of SGD.
        weight_decay: L2 penalty.
        augmentation: strategy of the training, parameters drawn per image; None for that of the matching, ``none``
            for none.
        cutmix: probability of CutMix per batch.
        blend: whether the weights of a step lie between the snapshots of a run.

    Raises:
        ConfigError: an option out of range, or a strategy that does not exist.
    """

    def __init__(
        self,
        runs: Count = 3,
        stages: int = 4,
        steps: Count = 300,
        batch_size: int = 64,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        augmentation: str | None = None,
        cutmix: float = 0.0,
        blend: bool = False,
    ) -> None:
        if stages < 2:
            raise ConfigError(f"networks.stages={stages} must be at least 2: for untrained networks use networks=fresh")
        if steps < stages - 1:
            raise ConfigError(
                f"networks.steps={steps} is too few for networks.stages={stages} different snapshots: train for at "
                f"least {stages - 1} steps or lower networks.stages"
            )
        if blend and stages != 2:
            raise ConfigError(
                f"networks.stages={stages} with networks.blend=true: blended networks lie between the first and the "
                f"last snapshot of a run, so set networks.stages=2"
            )
        self.runs, self.stages, self.steps, self.blend = runs, stages, steps, blend
        self.count, self.number = runs * stages, 0
        self.training = RealTraining(batch_size, lr, momentum, weight_decay, cutmix, augmentation)

    def setup(self, setting: Setting) -> None:
        """Receive the network, the streams and the signal; the pool is empty yet."""
        super().setup(setting)
        self.training.setup(setting)
        self.snapshots: list[dict[str, Tensor]] = []

    def current(self) -> Network:
        """Return the network with the weights of one snapshot, or with those between two, drawn uniformly."""
        self.drawn += 1
        generator = self.streams("networks")
        if not self.blend:
            return self.select(int(torch.randint(self.count, (1,), generator=generator)))
        first = 2 * int(torch.randint(self.runs, (1,), generator=generator))
        share = float(torch.rand(1, generator=generator))
        network = self.select(first)
        with torch.no_grad():
            for name, value in network.module.state_dict().items():
                if value.is_floating_point():
                    value.copy_(torch.lerp(self.snapshots[first + 1][name], value, share))
        return network

    def select(self, number: int) -> Network:
        """Return the network with the weights of snapshot ``number``."""
        if not self.snapshots:
            self.snapshots = [snapshot for _ in range(self.runs) for snapshot in self._run()]
        self.network.module.load_state_dict(self.snapshots[number])
        self.number = number
        return self.network

    def last(self) -> Network:
        """Return the network with the last snapshot of the run from which the present one was taken."""
        return self.select(self.number - self.number % self.stages + self.stages - 1)

    @property
    def keys(self) -> range:
        """The numbers of the snapshots, which stay."""
        return range(self.count)

    @property
    def key(self) -> int:
        """The number of the present snapshot."""
        return self.number

    def _run(self) -> list[dict[str, Tensor]]:
        """Train one network and return its snapshots, the untrained one first."""
        self.network.reset(self.streams.integer("pool"))
        velocity = still(self.network)
        snapshots, done = [self.network.snapshot()], 0
        for stage in range(1, self.stages):
            goal = stage * self.steps // (self.stages - 1)
            while done < goal:
                at_once = min(goal - done, max(1, _DRAWN_IMAGES // self.training.batch_size))
                done += self.training.run(at_once * self.training.batch_size, velocity)
            snapshots.append(self.network.snapshot())
        return snapshots

    def life(self) -> int:
        """One outer step, as another network is drawn for each."""
        return 1

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Leave the pool as it is."""

    def state_dict(self) -> dict[str, Any]:
        """Return the snapshots and how many times one was drawn."""
        return {"drawn": self.drawn, "snapshots": list(self.snapshots)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same pool."""
        snapshots = [dict(snapshot) for snapshot in state["snapshots"]]
        if len(snapshots) not in (0, self.runs * self.stages):
            raise ValueError(f"{len(snapshots)} snapshots are no pool of {self.runs * self.stages}")
        self.drawn, self.snapshots = int(state["drawn"]), snapshots
