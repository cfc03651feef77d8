"""The only door through which real data enter an objective."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.augment import Augmentation, Draws
from ddkit.config import DistillConfig
from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.networks import Network
from ddkit.networks.training import padded
from ddkit.objectives.class_gradients import class_gradients, freeze_batch_norm
from ddkit.registry import Registry
from ddkit.streams import Streams

#: Most real images per forward pass: few enough for the cache of a CPU.
REAL_CHUNK = 256


registry: Registry[type[Signal]] = Registry("signal", "ddkit.signals")


@dataclass(frozen=True)
class LayerFeatures:
    """Features of one batch of real images of G classes, without a graph.

    Args:
        means: one tensor (G, *map shape) per layer: the class means of its output.
        last: (N, D) features of every image in the last layer.
        rows: (N,) int64, the position of each image's class among the G classes, on the CPU.
    """

    means: list[Tensor]
    last: Tensor
    rows: Tensor


class Signal(ABC):
    """What an objective may ask of the real data.

    A privacy-preserving signal answers with clipped and noised values and counts every query; a robust one answers for
    perturbed images. No objective is written twice, as none knows which kind of signal it asks.
    """

    def check(self, config: DistillConfig, real: RealData) -> None:
        """Refuse settings that would go around this signal, before anything reads the data.

        A private signal refuses an initialisation from real images, a preprocessing fitted on them or batch norm.

        Raises:
            ConfigError: naming the setting and the remedy.
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

    def mean_gradient(self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str]) -> list[Tensor]:
        r"""Return the mean over classes of the class gradients: one tensor of the weight's shape per name.

        .. math:: \frac{1}{G} \sum_c \nabla_\theta \mathrm{CE}(A_{\omega_c}(B_c), \theta)
        """
        return [gradient.mean(0) for gradient in self.gradients(network, classes, draws, names, 1)]

    def layer_features(self, network: Network, classes: Tensor, draws: Draws) -> LayerFeatures:
        """Return the features of a batch of each class in every layer of ``network`` (see ``feature_maps``).

        Raises:
            ConfigError: this signal gives only what single layers say.
        """
        raise self._lacks("the features of every layer")

    def labelled(self, count: int, stream: str) -> tuple[Tensor, Tensor]:
        """Return ``count`` real images without augmentation, for networks that are trained on real data.

        Args:
            count: images, drawn uniformly without replacement; all of a smaller dataset.
            stream: name of the random stream to draw from.

        Returns:
            preprocessed images (N, C, H, W) and labels (N,) int64.

        Raises:
            ConfigError: this signal does not hand out real images.
        """
        raise self._lacks("real images")

    def whole(self) -> RealData:
        """Return the real data themselves, for what trains on all of them (expert trajectories).

        Raises:
            ConfigError: this signal does not hand out real images.
        """
        raise self._lacks("real images")

    def images_at(self, index: Tensor) -> Tensor:
        """Return the preprocessed real images (N, C, H, W) at ``index`` (N,) int64.

        Raises:
            ConfigError: this signal does not hand out real images.
        """
        raise self._lacks("real images")

    def accuracy(self, network: Network, per_class: int, stream: str) -> float:
        """Return the share of real training images that ``network`` classifies correctly.

        Args:
            network: classifier.
            per_class: images of each class, drawn without replacement; all of a smaller class.
            stream: name of the random stream to draw from.

        Raises:
            ConfigError: this signal does not tell accuracies.
        """
        raise self._lacks("the accuracy on real images")

    def require(self, query: str) -> None:
        """Refuse to work without ``query``, a method of this class that a signal may leave out.

        Objectives and network sources call it when they are set up, before anything is computed or written.

        Raises:
            ConfigError: this signal does not answer it.
        """
        if getattr(type(self), query) is getattr(Signal, query):
            raise self._lacks(f"'{query}'")

    def _lacks(self, what: str) -> ConfigError:
        return ConfigError(
            f"signal {type(self).__name__} does not tell {what}, which this objective or network source asks for: "
            f"choose another objective or network source, or signal=real"
        )

    def metadata(self) -> dict[str, Any]:
        """Return what the artifact's card says about this signal (a privacy report, for instance), JSON-able."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what is needed to go on (an accountant's ledger, for instance)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


def _chunk_size(images: int) -> int:
    """Return the size of as few equal chunks of at most ``REAL_CHUNK`` images as hold them all."""
    return math.ceil(images / math.ceil(images / REAL_CHUNK))


@registry.register("real")
class RealSignal(Signal):
    """The real data as they are: a class-balanced mini-batch per query, without replacement inside a class."""

    def _draw(self, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a batch of every class: indices into the data and their rows in ``classes``, class-major."""
        index = self.real.sample_indices(classes, self.batch, self.streams("real"))
        row = torch.empty(self.real.num_classes, dtype=torch.int64)
        row[classes] = torch.arange(len(classes))
        return index, row[self.real.labels[index.to(self.real.labels.device)].cpu()]

    def _images(self, index: Tensor, group: Tensor, draws: Draws) -> Tensor:
        """Read, preprocess and augment the images at ``index``."""
        with torch.no_grad():
            return self.augmentation.apply(self.real.batch(index), draws, group)

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Return the class means over a batch, accumulated in the network's number format.

        The batch streams from the data through the network in equal chunks, the last one padded, so that memory does
        not grow with the number of classes and one shape is compiled. With batch norm all images pass at once, as
        their statistics are shared.
        """
        index, group = self._draw(classes)
        counts = torch.bincount(group, minlength=len(classes)).to(network.device, network.dtype)
        size = len(index) if network.has_batch_norm else _chunk_size(len(index))
        sums = torch.zeros((), device=network.device, dtype=network.dtype)
        with torch.no_grad():
            for part, rows in zip(index.split(size), group.split(size), strict=True):
                features = network.features(padded(self._images(part, rows, draws), size))[: len(part)]
                # A matrix product, as index_add_ on a GPU sums in another order every time.
                share = F.one_hot(rows, len(classes)).to(network.device, network.dtype)
                sums = sums + share.T @ features
        return sums / counts[:, None]

    def gradients(
        self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str], class_chunk: int
    ) -> list[Tensor]:
        """Return the class gradients over a batch, reading and differentiating ``class_chunk`` classes at a time."""
        index, group = self._draw(classes)
        sizes = torch.bincount(group, minlength=len(classes)).tolist()
        static = max(sizes) if network.precision.compile else None
        by_class = list(zip(index.split(sizes), group.split(sizes), strict=True))
        parts = []
        for start in range(0, len(classes), class_chunk):
            chunk = by_class[start : start + class_chunk]
            images = [self._images(part, rows, draws) for part, rows in chunk]
            targets = [classes[rows].to(network.device) for _, rows in chunk]
            parts.append(class_gradients(network, images, targets, names, differentiable=False, size=static))
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def mean_gradient(self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str]) -> list[Tensor]:
        """Return the mean of the class gradients over one batch, accumulated in chunks of equal size.

        The mean of class means is one weighted mean over all images, so no class is differentiated on its own.
        """
        index, group = self._draw(classes)
        counts = torch.bincount(group, minlength=len(classes)).to(network.dtype)
        weights = (1 / (counts * len(classes)))[group].to(network.device)
        size = _chunk_size(len(index))  # batch norm is frozen, so chunks are exact
        parameters = dict(network.module.named_parameters())
        chosen = [parameters[name] for name in names]
        total = [torch.zeros_like(weight) for weight in chosen]
        for part, rows, share in zip(index.split(size), group.split(size), weights.split(size), strict=True):
            batch = [self._images(part, rows, draws), classes[rows].to(network.device), share]
            gradients = torch.autograd.grad(network.loss(*(padded(x, size) for x in batch)), chosen)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        return total

    def layer_features(self, network: Network, classes: Tensor, draws: Draws) -> LayerFeatures:
        """Return class means of every layer and the last features of every image, streaming like feature_means."""
        index, group = self._draw(classes)
        counts = torch.bincount(group, minlength=len(classes)).to(network.device, network.dtype)
        size = len(index) if network.has_batch_norm else _chunk_size(len(index))
        sums: list[Tensor] = []
        last: list[Tensor] = []
        with torch.no_grad():
            for part, rows in zip(index.split(size), group.split(size), strict=True):
                maps = network.feature_maps(padded(self._images(part, rows, draws), size))
                maps = [layer[: len(part)] for layer in maps]
                share = F.one_hot(rows, len(classes)).to(network.device, network.dtype)
                added = [(share.T @ layer.flatten(1)).unflatten(1, layer.shape[1:]) for layer in maps]
                sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
                last.append(maps[-1].flatten(1))
        means = [total / counts.view(-1, *[1] * (total.dim() - 1)) for total in sums]
        return LayerFeatures(means, torch.cat(last), group)

    def labelled(self, count: int, stream: str) -> tuple[Tensor, Tensor]:
        """Return ``count`` images drawn from the whole set."""
        index = torch.randperm(len(self.real), generator=self.streams(stream))[:count]
        return self.images_at(index), self.real.labels[index.to(self.real.labels.device)]

    def whole(self) -> RealData:
        """Return the real data."""
        return self.real

    def images_at(self, index: Tensor) -> Tensor:
        """Return the real images at ``index``."""
        with torch.no_grad():
            return self.real.batch(index)

    def accuracy(self, network: Network, per_class: int, stream: str) -> float:
        """Return the accuracy on a fresh batch, in the network's precision; batch norm uses its running statistics."""
        index = self.real.sample_indices(range(self.real.num_classes), per_class, self.streams(stream))
        size = _chunk_size(len(index))
        correct = 0
        was_training = network.module.training
        network.module.train(was_training and not network.has_batch_norm)
        with torch.no_grad():
            for part in index.split(size):
                logits = network.logits(padded(self.real.batch(part), size))[: len(part)]
                labels = self.real.labels[part.to(self.real.labels.device)]
                correct += int((logits.argmax(1) == labels.to(network.device)).sum())
        network.module.train(was_training)
        return correct / len(index)

    def refresh_statistics(self, network: Network) -> None:
        """One train-mode pass of 16 real images per class, then batch norm is frozen (the authors' procedure)."""
        if not network.has_batch_norm:
            return
        images, _ = self.real.sample(range(self.real.num_classes), 16, self.streams("statistics"))
        network.module.train()
        with torch.no_grad():
            network.module(network.prepare(images))
        freeze_batch_norm(network)
