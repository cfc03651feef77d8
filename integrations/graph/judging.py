"""How is one network trained on a condensed graph and tested on the real one?"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.streams import default_draws, derive_seed
from ddkit.errors import ConfigError
from ddkit.integrations.graph.models import Build, GraphInput, build
from ddkit.integrations.graph.task import NodeTask


@dataclass(frozen=True)
class Training:
    """How networks are trained; the defaults are those of the GCond paper.

    Args:
        epochs: full-batch Adam steps; the learning rate falls to a tenth after half of them.
        lr: learning rate.
        weight_decay: L2 penalty of all weights.
        hidden: width.
        dropout: of hidden units.
        validate_every: epochs between two looks at the validation nodes of the real graph.
    """

    epochs: int = 600
    lr: float = 0.01
    weight_decay: float = 5e-4
    hidden: int = 256
    dropout: float = 0.5
    validate_every: int = 5

    def __post_init__(self) -> None:
        for name in ("epochs", "hidden", "validate_every"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name}={value!r} must be a whole number of at least 1")
        for name, low, high in (("lr", 0.0, math.inf), ("weight_decay", 0.0, math.inf), ("dropout", 0.0, 1.0)):
            value = getattr(self, name)
            number = isinstance(value, Real) and not isinstance(value, bool)
            if not number or not low <= value < high or (name == "lr" and value == 0):
                least = "above 0" if name == "lr" else "at least 0"
                raise ConfigError(f"{name}={value!r} must be a number {least} and below {high:g}")


def train_and_select(
    network: nn.Module,
    plan: Training,
    loss: Callable[[], Tensor],
    look: Callable[[], tuple[float | None, float]],
    validates: bool,
) -> tuple[float | None, float]:
    """Train a network by full-batch Adam and return the test accuracy of the selected and of the last epoch.

    Args:
        network: what is trained.
        plan: how.
        loss: of the network on what it is trained on.
        look: returns validation accuracy, which alone decides, and test accuracy, which is kept for the chosen epoch;
            called in evaluation mode.
        validates: whether there is anything to validate on; otherwise no epoch is selected.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=plan.lr, weight_decay=plan.weight_decay, fused=True)
    best, selected, test = -1.0, None, 0.0
    for epoch in range(plan.epochs):
        if epoch == plan.epochs // 2:
            optimiser.param_groups[0]["lr"] = plan.lr / 10
        network.train()
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        if epoch + 1 == plan.epochs or (validates and (epoch + 1) % plan.validate_every == 0):
            network.eval()
            validation, test = look()
            if validation is not None and validation > best:
                best, selected = validation, test
    return selected, test


@dataclass(frozen=True)
class Judge:
    """Trains one network on a graph and tests it on the real one.

    Args:
        graph: what it is trained on.
        labels: (n,) int64 class rows; -1 counts not.
        real: the real graph; test nodes of classes that were dropped are always wrong.
        plan: how it is trained.
    """

    graph: GraphInput
    labels: Tensor
    real: NodeTask
    plan: Training

    @functools.cached_property
    def known(self) -> Tensor:
        """(n,) bool: which labels count."""
        return self.labels >= 0

    @functools.cached_property
    def target(self) -> GraphInput:
        """The real graph as networks see it."""
        return GraphInput(self.real.x, self.real.edge_index, self.real.edge_weight)

    def run(self, job: tuple[str | Build, int]) -> tuple[float | None, float, float, str]:
        """Return the test accuracy of the selected and the last epoch, seconds, and which edges the model saw."""
        begun = time.process_time()
        with default_draws(job[1]):
            network = build(job[0], self.real.x.shape[1], self.real.num_classes, self.plan.hidden, self.plan.dropout)
            selected, last = train_and_select(
                network,
                self.plan,
                lambda: self._loss(network),
                lambda: self._accuracies(network),
                len(self.real.val) > 0,
            )
        edges = (
            "none" if isinstance(job[0], str) and job[0] == "mlp" else "weighted" if network.weighted else "unweighted"
        )
        count = self.graph.edge_index.shape[1] if edges == "weighted" else self.graph.plain_edges.shape[1]
        return selected, last, time.process_time() - begun, edges if count else "none"

    def _loss(self, network: nn.Module) -> Tensor:
        return F.cross_entropy(network(self.graph)[self.known], self.labels[self.known])

    @torch.no_grad()
    def _accuracies(self, network: nn.Module) -> tuple[float | None, float]:
        right = network(self.target).argmax(1) == self.real.y
        validation = float(right[self.real.val].float().mean()) if len(self.real.val) else None
        return validation, float(right[self.real.test].float().mean())


def network_seed(seed: int, number: int) -> int:
    """Return the seed of the initial weights and the dropout of network ``number``."""
    return derive_seed(seed, "network", number)
