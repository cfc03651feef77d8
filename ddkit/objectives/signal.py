"""The only door through which real data enter an objective."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.augment import Augmentation, Draws
from ddkit.data import RealData
from ddkit.networks import Network
from ddkit.networks.training import padded
from ddkit.objectives.class_gradients import class_gradients, freeze_batch_norm
from ddkit.streams import Streams

#: Most real images per forward pass: few enough for the cache of a CPU.
REAL_CHUNK = 256


class Signal(ABC):
    """What an objective may ask of the real data.

    A privacy-preserving signal answers with clipped and noised values and counts every query; a robust one answers for
    perturbed images. Objectives never see a real image, so none is written twice.
    """

    def setup(self, real: RealData, streams: Streams, augmentation: Augmentation, batch: int) -> None:
        """Receive the data, the random streams, the augmentation and the real images per class and query."""
        self.real = real
        self.streams = streams
        self.augmentation = augmentation
        self.batch = batch

    @abstractmethod
    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Return the mean feature of a batch of each class.

        Args:
            network: feature extractor.
            classes: (G,) int64.
            draws: augmentation parameters, one row per class of ``classes``.

        Returns:
            (G, D), without a graph.
        """

    @abstractmethod
    def gradients(
        self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str], class_chunk: int
    ) -> list[Tensor]:
        """Return the gradient of the loss on a batch of each class.

        Args:
            network: where.
            classes: (G,) int64.
            draws: augmentation parameters, one row per class of ``classes``.
            names: weights to differentiate.
            class_chunk: classes differentiated together.

        Returns:
            one tensor (G, *weight shape) per name, without a graph.
        """

    @abstractmethod
    def refresh_statistics(self, network: Network) -> None:
        """Let batch norm layers see one batch of real images of all classes, then freeze them."""

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on (an accountant's ledger, for instance)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class RealSignal(Signal):
    """The real data as they are: a class-balanced mini-batch per query, without replacement inside a class."""

    def _sample(self, classes: Tensor, draws: Draws, n: int) -> tuple[Tensor, Tensor, Tensor]:
        images, labels = self.real.sample(classes, n, self.streams("real"))
        position = torch.empty(self.real.num_classes, dtype=torch.int64)
        position[classes] = torch.arange(len(classes))
        group = position.to(labels.device)[labels]
        with torch.no_grad():
            images = self.augmentation.apply(images, draws, group)
        return images, labels, group

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Return the class means over a batch, accumulated in the network's number format.

        The batch streams through the network in equal chunks, the last one padded, so that memory stays bounded and one
        shape is compiled. With batch norm all images pass at once, as their statistics are shared.
        """
        images, _, group = self._sample(classes, draws, self.batch)
        one_hot = F.one_hot(group.to(network.device), len(classes)).to(network.dtype)
        shares = one_hot / one_hot.sum(0)
        chunks = 1 if network.has_batch_norm else math.ceil(len(images) / REAL_CHUNK)
        size = math.ceil(len(images) / chunks)
        means = torch.zeros((), device=network.device, dtype=network.dtype)
        with torch.no_grad():
            for part, share in zip(images.split(size), shares.split(size), strict=True):
                # A matrix product, as index_add_ on a GPU sums in another order every time.
                means = means + share.T @ network.features(padded(part, size))[: len(part)]
        return means

    def gradients(
        self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str], class_chunk: int
    ) -> list[Tensor]:
        """Return the class gradients over a batch, ``class_chunk`` classes at a time."""
        images, labels, group = self._sample(classes, draws, self.batch)
        sizes = torch.bincount(group.cpu(), minlength=len(classes)).tolist()
        image_list, label_list = images.split(sizes), labels.to(network.device).split(sizes)
        parts = [
            class_gradients(
                network,
                image_list[start : start + class_chunk],
                label_list[start : start + class_chunk],
                names,
                differentiable=False,
            )
            for start in range(0, len(classes), class_chunk)
        ]
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def refresh_statistics(self, network: Network) -> None:
        """One train-mode pass of 16 real images per class, then batch norm is frozen (the authors' procedure)."""
        if not network.has_batch_norm:
            return
        images, _ = self.real.sample(range(self.real.num_classes), 16, self.streams("statistics"))
        network.module.train()
        with torch.no_grad():
            network.module(network.prepare(images))
        freeze_batch_norm(network)
