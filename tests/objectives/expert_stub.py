"""Expert trajectories in memory: the least that trajectory matching asks of a network source."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.networks import Network, NetworkSource
from ddkit.networks.flat import FlatNetwork
from ddkit.synthesis import Synthesizer


@dataclass(frozen=True)
class StubSegment:
    """A piece of a trajectory."""

    start: Tensor
    target: Tensor
    expert: int
    epoch: int


class StubExperts(NetworkSource):
    """Trajectories given as a tensor (experts, epochs + 1, P); a walk of random directions without one."""

    def __init__(self, trajectories: Tensor | None = None, count: int = 2, epochs: int = 6) -> None:
        self.trajectories, self.shape = trajectories, (count, epochs)
        self.asked: list[tuple[int, int]] = []

    def setup(self, context) -> None:  # type: ignore[no-untyped-def]
        super().setup(context)
        if self.trajectories is None:
            generator = torch.Generator().manual_seed(5)
            first = torch.cat([p.detach().flatten() for p in self.network.module.parameters()])
            steps = 0.02 * torch.randn(*self.shape, len(first), generator=generator, dtype=self.network.dtype)
            walk = torch.cat([torch.zeros_like(steps[:, :1]), steps.cumsum(1)], dim=1)
            self.trajectories = first + walk

    @property
    def count(self) -> int:
        assert self.trajectories is not None
        return self.trajectories.shape[0]

    @property
    def epochs(self) -> int:
        assert self.trajectories is not None
        return self.trajectories.shape[1] - 1

    def require_epochs(self, last: int) -> None:
        if last > self.epochs:
            raise ConfigError(f"experts of {self.epochs} epochs, {last} are needed")

    def weights(self, expert: int, epoch: int) -> Tensor:
        assert self.trajectories is not None
        return self.trajectories[expert, epoch]

    def segment(self, max_start: int, length: int) -> StubSegment:
        generator = self.streams("experts")
        expert = int(torch.randint(self.count, (1,), generator=generator))
        epoch = int(torch.randint(max_start, (1,), generator=generator))
        self.asked.append((expert, epoch))
        return StubSegment(self.weights(expert, epoch), self.weights(expert, epoch + length), expert, epoch)

    def current(self) -> Network:
        raise AssertionError("trajectory matching does not take networks one by one")

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None: ...


def train_experts(network: Network, data: RealData, *, count: int, epochs: int, lr: float, batch: int) -> Tensor:
    """Train experts by plain SGD on real data: (count, epochs + 1, P)."""
    flat, generator = FlatNetwork(network), torch.Generator().manual_seed(0)
    everything = network.prepare(data.batch(torch.arange(len(data))))
    trajectories = []
    for expert in range(count):
        network.reset(expert)
        theta = torch.cat([p.detach().flatten() for p in network.module.parameters()])
        checkpoints = [theta]
        for _ in range(epochs):
            for rows in torch.randperm(len(data), generator=generator).split(batch):
                theta = theta - lr * flat.loss.gradient(theta, everything[rows], data.labels[rows])
            checkpoints.append(theta)
        trajectories.append(torch.stack(checkpoints))
    return torch.stack(trajectories)
