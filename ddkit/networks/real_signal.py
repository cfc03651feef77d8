"""The answers of the real data as they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.augment.base import Draws
from ddkit.base.streams import some_of
from ddkit.data.real import RealData
from ddkit.networks.class_gradients import class_gradients, freeze_batch_norm
from ddkit.networks.flat import FlatNetwork
from ddkit.networks.fourier import Frequencies, unit
from ddkit.networks.network import Network
from ddkit.networks.signal import LayerFeatures, Risk, Signal, registry
from ddkit.networks.training import padded
from ddkit.training.accuracy import right

#: Most real images per forward pass: few enough for the cache of a CPU.
REAL_CHUNK = 256
#: Most records whose rows are computed together; each may be as long as the synthetic set.
_RECORD_CHUNK = 64


def _chunk_size(images: int) -> int:
    """Return the size of as few equal chunks of at most ``REAL_CHUNK`` images as hold them all."""
    return math.ceil(images / math.ceil(images / REAL_CHUNK))


@registry.register("real")
class RealSignal(Signal):
    """The real data as they are: a class-balanced mini-batch per query, without replacement inside a class."""

    def _draw(self, network: Network, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw a batch of every class, class-major.

        Returns:
            indices into the data, their rows in ``classes``, and what each image weighs (1 on average in its class).
        """
        index = self.real.sample_indices(classes, self.batch, self.streams("real"))
        return index, self._rows(index, classes), torch.ones(len(index))

    def _rows(self, index: Tensor, classes: Tensor) -> Tensor:
        row = torch.empty(self.real.num_classes, dtype=torch.int64)
        row[classes] = torch.arange(len(classes))
        return row[self.real.labels[index.to(self.real.labels.device)].cpu()]

    def _images(self, index: Tensor, group: Tensor, draws: Draws) -> Tensor:
        """Read, preprocess and augment the images at ``index``."""
        with torch.no_grad():
            return self.augmentation.apply(self.real.batch(index), draws, group)

    @staticmethod
    def _share(network: Network, rows: Tensor, weight: Tensor, classes: int) -> Tensor:
        """Return the matrix (n, G) that sums images by class; index_add_ on a GPU sums in another order every time."""
        return (F.one_hot(rows, classes) * weight[:, None]).to(network.device, network.dtype)

    def _streamed(
        self, network: Network, batch: tuple[Tensor, Tensor, Tensor], draws: Draws
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the images of a batch in equal chunks, the last one padded, with rows and weights of those that count.

        Memory does not grow with the number of classes that way, and one shape is compiled. With batch norm all images
        come at once, as their statistics are shared.
        """
        index, group, weight = batch
        size = len(index) if network.has_batch_norm else _chunk_size(len(index))
        for part, rows, own in zip(index.split(size), group.split(size), weight.split(size), strict=True):
            yield padded(self._images(part, rows, draws), size), rows, own

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Return the class means over a batch, accumulated in the network's number format."""
        return self._class_means(network, classes, draws, network.features)

    def characteristic(self, network: Network, classes: Tensor, draws: Draws, count: int) -> tuple[Frequencies, Tensor]:
        """Return fresh frequencies and the mean waves over a batch."""
        frequencies = Frequencies(count, self.streams.integer("frequencies"))
        return frequencies, self._mean_waves(network, classes, draws, frequencies)

    def _mean_waves(self, network: Network, classes: Tensor, draws: Draws, frequencies: Frequencies) -> Tensor:
        return self._class_means(network, classes, draws, lambda images: frequencies(unit(network.features(images))))

    def _class_means(self, network: Network, classes: Tensor, draws: Draws, seen: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the class means (G, D) of what ``seen`` makes of a batch of images."""
        batch = self._draw(network, classes)
        counts = torch.bincount(batch[1], minlength=len(classes)).to(network.device, network.dtype)
        sums = torch.zeros((), device=network.device, dtype=network.dtype)
        with torch.no_grad():
            for images, rows, own in self._streamed(network, batch, draws):
                features = seen(images)[: len(rows)]
                sums = sums + self._share(network, rows, own, len(classes)).T @ features
        return sums / counts[:, None]

    def gradients(
        self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str], class_chunk: int
    ) -> list[Tensor]:
        """Return the class gradients over a batch, differentiating ``class_chunk`` classes at a time.

        So many of these chunks are read at a time as ``REAL_CHUNK`` images hold, at least one.
        """
        index, group, weight = self._draw(network, classes)
        sizes = torch.bincount(group, minlength=len(classes)).tolist()
        static = max(sizes) if network.precision.compile else None
        by_class = list(zip(index.split(sizes), group.split(sizes), weight.split(sizes), sizes, strict=True))
        parts = []
        read = class_chunk * max(1, REAL_CHUNK // (class_chunk * max(sizes)))
        for first in range(0, len(classes), read):
            some, rows, own, counts = zip(*by_class[first : first + read], strict=True)
            images = self._images(torch.cat(some), torch.cat(rows), draws).split(counts)
            targets = classes[torch.cat(rows)].to(network.device).split(counts)
            for start in range(0, len(counts), class_chunk):
                chunk = slice(start, start + class_chunk)
                given = images[chunk], targets[chunk], names
                found = class_gradients(network, *given, differentiable=False, size=static, weights=own[chunk])
                parts.append(found)
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def mean_gradient(self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str]) -> list[Tensor]:
        """Return the mean of the class gradients over one batch, accumulated in chunks of equal size.

        The mean of class means is one weighted mean over all images, so no class is differentiated on its own.
        """
        index, group, weight = self._draw(network, classes)
        counts = torch.bincount(group, minlength=len(classes)).to(network.dtype)
        weights = ((1 / (counts * len(classes)))[group] * weight.to(network.dtype)).to(network.device)
        size = _chunk_size(len(index))  # batch norm is frozen, so chunks are exact
        parameters = dict(network.module.named_parameters())
        chosen = [parameters[name] for name in names]
        total = [torch.zeros_like(weight) for weight in chosen]
        for part, rows, share in zip(index.split(size), group.split(size), weights.split(size), strict=True):
            batch = [self._images(part, rows, draws), classes[rows].to(network.device), share]
            gradients = torch.autograd.grad(network.loss(*(padded(x, size) for x in batch)), chosen)
            total = [a + b for a, b in zip(total, gradients, strict=True)]
        return total

    def features(self, network: Network, classes: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the features of every image of a batch, streaming like feature_means, and their classes' positions."""
        batch = self._draw(network, classes)
        with torch.no_grad():
            parts = [network.features(images)[: len(rows)] for images, rows, _ in self._streamed(network, batch, draws)]
        return torch.cat(parts), batch[1]

    def layer_features(self, network: Network, classes: Tensor, draws: Draws) -> LayerFeatures:
        """Return class means of every layer and the last features of every image, streaming like feature_means."""
        batch = self._draw(network, classes)
        counts = torch.bincount(batch[1], minlength=len(classes)).to(network.device, network.dtype)
        sums: list[Tensor] = []
        last: list[Tensor] = []
        with torch.no_grad():
            for images, rows, own in self._streamed(network, batch, draws):
                maps = [layer[: len(rows)] for layer in network.feature_maps(images)]
                share = self._share(network, rows, own, len(classes))
                added = [(share.T @ layer.flatten(1)).unflatten(1, layer.shape[1:]) for layer in maps]
                sums = [a + b for a, b in zip(sums, added, strict=True)] if sums else added
                last.append(maps[-1].flatten(1))
        means = [total / counts.view(-1, *[1] * (total.dim() - 1)) for total in sums]
        return LayerFeatures(means, torch.cat(last), batch[1])

    def _uniform(self, count: int, stream: str) -> Tensor:
        """Draw ``count`` indices from the whole set."""
        return some_of(len(self.real), count, self.streams(stream))

    def _of_every_class(self, per_class: int, stream: str) -> Tensor:
        """Draw ``per_class`` indices from every class."""
        return self.real.sample_indices(range(self.real.num_classes), per_class, self.streams(stream))

    def _with_labels(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images_at(index), self.real.labels[index.to(self.real.labels.device)]

    def labelled(self, count: int, stream: str) -> tuple[Tensor, Tensor]:
        """Return ``count`` images drawn from the whole set."""
        return self._with_labels(self._uniform(count, stream))

    def balanced(self, per_class: int, stream: str) -> tuple[Tensor, Tensor]:
        """Return ``per_class`` images of every class."""
        return self._with_labels(self._of_every_class(per_class, stream))

    def record_mean(self, rows: Callable[[Tensor, Tensor], Tensor], count: int, stream: str) -> Tensor:
        """Return the mean of the rows of ``count`` records drawn from the whole set."""
        index = self._uniform(count, stream)
        parts = [rows(*self._with_labels(part)).detach() for part in index.split(_RECORD_CHUNK)]
        return torch.cat(parts).mean(0)

    def risk(
        self, network: FlatNetwork, theta: Tensor, count: int, *, balanced: bool, draws: Draws | None, stream: str
    ) -> Risk:
        """Return the risk on a fresh batch, which streams through the network in equal chunks, the last one padded."""
        if balanced:
            index = self._of_every_class(max(1, round(count / self.real.num_classes)), stream)
        else:
            index = self._uniform(count, stream)
        size = _chunk_size(len(index))
        loss, gradient = theta.new_zeros(()), torch.zeros_like(theta)
        correct = theta.new_zeros((), dtype=torch.int64)
        for part in index.split(size):
            images, labels = self._with_labels(part)
            if draws is not None:
                images = self.augmentation.apply(images, draws, torch.zeros(len(part), dtype=torch.int64))
            weights = padded(theta.new_full((len(part),), 1 / len(index)), size)
            judged = network.judge(
                theta, padded(network.prepare(images), size), padded(labels.to(theta.device), size), weights
            )
            loss, gradient = loss + judged.loss, gradient + judged.gradient
            correct = correct + judged.correct[: len(part)].sum()
        return Risk(loss, gradient, 1 - correct / len(index))

    def whole(self) -> RealData:
        """Return the real data."""
        return self.real

    def images_at(self, index: Tensor) -> Tensor:
        """Return the real images at ``index``."""
        with torch.no_grad():
            return self.real.batch(index)

    def accuracy(self, network: Network, per_class: int, stream: str) -> float:
        """Return the accuracy on a fresh batch, in the network's precision; batch norm uses its running statistics."""
        index = self._of_every_class(per_class, stream)
        size = _chunk_size(len(index))
        correct = torch.zeros((), dtype=torch.int64, device=network.device)
        was_training = network.module.training
        network.module.train(was_training and not network.has_batch_norm)
        with torch.no_grad():
            for part in index.split(size):
                logits = network.logits(padded(self.real.batch(part), size))[: len(part)]
                labels = self.real.labels[part.to(self.real.labels.device)]
                correct += right(logits, labels.to(network.device))
        network.module.train(was_training)
        return int(correct) / len(index)

    def refresh_statistics(self, network: Network) -> None:
        """One train-mode pass of 16 real images per class, then batch norm is frozen (the authors' procedure)."""
        if not network.has_batch_norm:
            return
        images, _ = self.real.sample(range(self.real.num_classes), 16, self.streams("statistics"))
        network.module.train()
        with torch.no_grad():
            network.module(network.prepare(images))
        freeze_batch_norm(network)
