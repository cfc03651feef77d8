"""The answers of the real data, computed once for every pair of network and augmentation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ddkit.augment.base import Augmentation, Draws
from ddkit.base.config import DistillConfig
from ddkit.base.ranges import Count
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.networks.fourier import Frequencies
from ddkit.networks.network import Network
from ddkit.networks.real_signal import RealSignal
from ddkit.networks.signal import NetworkPool, Signal, registry

#: What is kept may take so many bytes before a warning.
_MUCH = 10**9

Answer = TypeVar("Answer")


@registry.register("cached")
class CachedSignal(RealSignal):
    r"""Class means, characteristic functions and class gradients of a pool of networks, each computed when it is first
    asked for and then kept.

    .. math:: \mu_{pc} = \tfrac{1}{n} \sum_{x \in B_{pc}} \psi_{\theta_p}(A_{\omega_{pc}}(x))

    for pairs :math:`p` of a network and an augmentation :math:`\omega_p`, :math:`B_{pc}` being ``images`` real images
    drawn for that pair. A loss that is quadratic in the statistic (``distribution``, ``gradient`` with
    ``metric=mse``) has, with whole classes, exactly the expected gradient of one whose batches are drawn at every
    step; other distances have another, less noisy target. No step whose pair is known reads a real image: an outer step
    of ``dm`` costs what its synthetic side costs.

    The pool stands for the distribution of networks. A pair gives as many equations a class as the network has features
    D for IPC * C * H * W unknown pixels; below that the loss falls without anything being learned (8x8 digits, ten a
    class, P_0 = 5, loss on unseen networks after 60 steps from 2.5: P = 1 0.89, P = 15 0.48, P = 40 0.45).

    The draws of a pair, frequencies among them, follow from the seeds of the run and of the network alone, so nothing
    has to be saved: a resumed run fills the pairs it needs again, with the same numbers.

    Args:
        images: real images per class and pair; None for all.
        views: augmentations of every network.

    Raises:
        ConfigError: networks that are not known beforehand, or batch norm.

    Example:
        >>> from ddkit import Distiller
        >>> Distiller("dm", 10, signal="cached", networks={"name": "fixed", "count": 50})  # doctest: +ELLIPSIS
        <...>
    """

    def __init__(self, images: Count | None = 256, views: Count = 1) -> None:
        self.images, self.views = images, views

    def check(self, config: DistillConfig, real: RealData) -> None:
        """Take note of how much is learned: a set in so many bytes has no more unknowns than these."""
        channels, height, width = real.shape
        self._unknown = config.ipc * channels * height * width
        if config.bytes is not None:
            self._unknown = min(self._unknown, config.bytes // real.num_classes)

    def setup(self, real: RealData, streams: Streams, augmentation: Augmentation, batch: int) -> None:
        """Receive the data and the streams; the objective's own batch size says nothing here."""
        super().setup(real, streams, augmentation, self.images or int(real.class_counts.max()))
        self._answers: dict[tuple[Any, ...], Any] = {}
        self._warned = False

    def connect(self, networks: object) -> None:
        """Receive the pool."""
        if not isinstance(networks, NetworkPool):
            raise ConfigError(
                f"signal=cached keeps what real images say about networks that come again, and those of "
                f"networks={type(networks).__name__} are new at every step: use networks=fixed and "
                f"networks.count=50, networks=pool, or signal=real"
            )
        if getattr(networks, "blend", False):
            raise ConfigError(
                "signal=cached keeps what real images say about networks that come again, and networks.blend=true "
                "makes a new one at every step: leave networks.blend out, or use signal=real"
            )
        if networks.network.has_batch_norm:
            raise ConfigError(
                f"signal=cached with '{networks.network.spec.canonical()}': what batch norm says of real images "
                f"depends on their batch: use a network with instance norm, or signal=real"
            )
        self._pool = networks

    def images_per_step(self, real: RealData, networks: object, steps: int) -> float:
        """All pairs, spread over the steps."""
        largest = int(real.class_counts.max())
        pairs = getattr(networks, "count", steps) * self.views
        return min(self.images or largest, largest) * min(1.0, pairs / max(1, steps))

    def share(self, other: Signal) -> None:
        """Take over all answers."""
        assert isinstance(other, CachedSignal)
        self._answers = other._answers

    def draws(self, classes: Tensor) -> Draws:
        """Choose the pair of this step and return its augmentations."""
        view = 0
        if self.views > 1:
            view = int(torch.randint(self.views, (1,), generator=self.streams("cached-views")))
        self._pair = self._pool.key, view
        self._drawn = self.augmentation.draw(len(classes), self._stream("augmentation"))
        return self._drawn

    def _seed(self, name: str) -> int:
        return derive_seed(self.streams.seed, "cached", *self._pair, name)

    def _stream(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(self._seed(name))

    def _draw(self, network: Network, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the images of the present pair."""
        index = self.real.sample_indices(classes, self.batch, self._stream("real"))
        return index, self._rows(index, classes), torch.ones(len(index))

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Return the class means of the present pair."""
        compute = partial(super().feature_means, network, classes, self._own(draws))
        means = self._kept("means", classes, (), compute)
        self._warn_of_few_pairs(means.shape[1])
        return means

    def characteristic(self, network: Network, classes: Tensor, draws: Draws, count: int) -> tuple[Frequencies, Tensor]:
        """Return the frequencies of the present pair, drawn again from its seed, and the mean waves along them."""
        frequencies = Frequencies(count, self._seed("frequencies"))
        compute = partial(self._mean_waves, network, classes, self._own(draws), frequencies)
        means = self._kept("characteristic", classes, (str(count),), compute)
        self._warn_of_few_pairs(means.shape[1])
        return frequencies, means

    def gradients(
        self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str], class_chunk: int
    ) -> list[Tensor]:
        """Return the class gradients of the present pair."""
        compute = partial(super().gradients, network, classes, self._own(draws), names, class_chunk)
        return self._kept("gradients", classes, names, compute)

    def mean_gradient(self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str]) -> list[Tensor]:
        """Return the mean of the class gradients of the present pair."""
        compute = partial(super().mean_gradient, network, classes, self._own(draws), names)
        return self._kept("mean gradient", classes, names, compute)

    #: Features of every image, which these ask for, would be kept for all pairs.
    features = Signal.features
    layer_features = Signal.layer_features

    def _own(self, draws: Draws) -> Draws:
        if draws is not self._drawn:
            raise ConfigError("signal=cached was asked with other augmentations than its own: use signal=real")
        return draws

    def _kept(self, what: str, classes: Tensor, names: Sequence[str], compute: Callable[[], Answer]) -> Answer:
        """Return what is known of the present pair, or compute it; forget networks that are in the pool no more."""
        key = (*self._pair, what, *classes.tolist(), *names)
        if key not in self._answers:
            present = set(self._pool.keys)
            self._answers = {one: answer for one, answer in self._answers.items() if one[0] in present}
            self._answers[key] = compute()
        answer: Answer = self._answers[key]
        return answer

    def _warn_of_few_pairs(self, numbers: int) -> None:
        if self._warned:
            return
        self._warned, pairs, needed = True, self._pool.count * self.views, -(-self._unknown // numbers)
        if pairs < needed:
            warnings.warn(
                f"{pairs} pairs of network and augmentation of {numbers:,} numbers a class say less than there is to "
                f"learn ({self._unknown:,}): take at least {needed}, better {3 * needed}, as networks.count",
                stacklevel=2,
            )
        if (much := pairs * self.real.num_classes * numbers * 4) > _MUCH:
            warnings.warn(f"the answers for {pairs} pairs take {much:,} bytes", stacklevel=2)
