"""What trained experts say about synthetic images: soft labels of trajectory matching."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.networks.flat import FlatNetwork
from ddkit.networks.network import Network
from ddkit.networks.training import padded
from ddkit.objectives.trajectory_source import TrajectorySource
from ddkit.synthesis.base import Synthesizer
from ddkit.synthesis.labels import AssignedLabels

#: Images per forward pass of an expert.
_CHUNK = 256


class ExpertLabels:
    """Assigns softmax probabilities of experts, at temperature 1 and without augmentation (Cui et al. 2023, Sec. 3.3).

    Args:
        flat: the experts' network.
        network: the same, for the preparation of images.
        source: of the experts' weights.
        epoch: whose weights label a whole set.
        synthesizer: whose labels are assigned.

    Raises:
        ConfigError: labels that cannot be assigned.
    """

    def __init__(
        self, flat: FlatNetwork, network: Network, source: TrajectorySource, epoch: int, synthesizer: Synthesizer
    ) -> None:
        if not isinstance(synthesizer.labels, AssignedLabels):
            raise ConfigError(
                "objective.soft_labels lets experts label the synthetic images, which needs synthesis.labels=assigned: "
                "set it, or objective.soft_labels=none"
            )
        self.flat, self.network, self.source, self.epoch = flat, network, source, epoch
        self.labels = synthesizer.labels

    def label(self, theta: Tensor, index: Tensor, images: Tensor) -> Tensor:
        """Assign and return what one expert says.

        Args:
            theta: its weights (P,).
            index: (n,) int64 decoded indices of the images.
            images: (n, C, H, W); no gradient reaches them.

        Returns:
            probabilities (n, K), as stored.
        """
        size = min(_CHUNK, len(self.labels.probabilities))
        parts = self.network.prepare(images.detach()).split(size)
        rows = [self.flat.logits(theta, padded(part, size))[: len(part)].softmax(1) for part in parts]
        self.labels.assign(index, torch.cat(rows))
        return self.labels(index)

    @torch.no_grad()
    def label_all(self, synthesizer: Synthesizer) -> None:
        """Assign every decoded image the mean over all experts of their probabilities at ``epoch``."""
        index = torch.arange(len(synthesizer), device=synthesizer.classes.device)
        size = min(_CHUNK, len(index))
        parts = [self.network.prepare(synthesizer(part)[0]) for part in index.split(size)]
        total = torch.zeros(len(index), synthesizer.num_classes, device=self.network.device, dtype=self.network.dtype)
        for expert in range(self.source.count):
            theta = self.source.weights(expert, self.epoch).to(self.network.device, self.network.dtype)
            rows = [self.flat.logits(theta, padded(part, size))[: len(part)].softmax(1) for part in parts]
            total += torch.cat(rows)
        self.labels.assign(index, total / self.source.count)

    @contextmanager
    def final(self, synthesizer: Synthesizer) -> Iterator[None]:
        """Let the present images carry the labels of :meth:`label_all` for a while."""
        kept = self.labels.probabilities.clone()
        try:
            self.label_all(synthesizer)
            yield
        finally:
            self.labels.probabilities.copy_(kept)
