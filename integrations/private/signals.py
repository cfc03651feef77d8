"""What do objectives learn of private records: clipped and noised answers, through the door that all data take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddkit.augment.base import Augmentation, Draws
from ddkit.base.config import DistillConfig
from ddkit.base.streams import Streams
from ddkit.data.real import RealData
from ddkit.errors import CheckpointError, ConfigError
from ddkit.integrations.private.data import PrivateData
from ddkit.integrations.private.gradients import RecordGradients, unflattened
from ddkit.integrations.private.public_norm import Centre, public_centre
from ddkit.integrations.private.refusals import refuse
from ddkit.integrations.private.separable import rounding_of
from ddkit.networks.network import Network
from ddkit.networks.signal import NetworkPool, Signal

#: Records per forward pass.
_CHUNK = 256
#: Records per pass over a whole pool of networks, each of which takes them in chunks.
_POOL_CHUNK = 2048


class PrivateSignal(Signal):
    """A signal whose every answer is a charged query to a :class:`PrivateData`.

    The run itself gets ``private.public``, blank images, so that whatever goes around the signal finds nothing.

    Args:
        private: the records.
        sigma: noise over sensitivity.
        clip: largest norm of what one record adds; None for the norm of public images where there is one.
        rate: of the Poisson samples.
    """

    mechanism: ClassVar[str]
    augments: ClassVar[bool] = True

    def __init__(self, private: PrivateData, sigma: float, clip: float | None = None, rate: float = 1.0) -> None:
        self.private, self.sigma, self.clip, self.rate = private, sigma, clip, rate

    def check(self, config: DistillConfig, real: RealData) -> None:
        """Refuse what would go around the noise, and any data but the public stand-in."""
        refuse(config, self.private.public, augments=self.augments)
        if real.fingerprint != self.private.public.fingerprint:
            raise ConfigError(
                f"a run with a private signal was given '{real.name}' itself: fit(private.public), which has blank "
                f"images, so that no other part of the run can read the records"
            )

    def setup(self, real: RealData, streams: Streams, augmentation: Augmentation, batch: int) -> None:
        """Receive streams and augmentation; the rate decides how many records a query sees."""
        super().setup(real, streams, augmentation, batch)

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Refuse: this mechanism does not answer it."""
        raise self._lacks("noisy class means")

    def gradients(
        self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str], class_chunk: int
    ) -> list[Tensor]:
        """Refuse: class by class the same noise would hide a K times smaller signal."""
        raise self._lacks("gradients class by class (set objective.level=batch)")

    def refresh_statistics(self, network: Network) -> None:
        """Do nothing: batch norm, whose statistics would leak, is refused."""

    def metadata(self) -> dict[str, Any]:
        """Return the mechanism and the queries made."""
        return {
            "name": self.mechanism,
            "noise_multiplier": self.sigma,
            "sampling_rate": self.rate,
            "queries": self.private.plan.made,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Refuse: queries after the checkpoint were made and would be made again, unpaid."""
        raise CheckpointError(
            "a private run cannot be resumed: the queries after its checkpoint would be asked a second time; start "
            "anew, with a PrivacyBudget that knows what was spent"
        )

    def _seen(self, images: Tensor, labels: Tensor, draws: Draws) -> Tensor:
        """Return augmented records (n, C, H, W); parameters are shared by a class, and drawn without the data."""
        with torch.no_grad():
            return self.augmentation.apply(images, draws, labels.cpu())


class OneShotMeans(PrivateSignal):
    r"""One noisy release of the class means of all networks of a fixed pool (DP-MERF's mechanism, Harder et al. 2021).

    .. math::
        R_c = \sum_{y_i = c} \frac{1}{\sqrt M} \Big[\frac{\phi_m(x_i) - \mu_m}{C_m}\Big]_{m \le M} + \mathcal N(0,
        \sigma^2 I)

    clipped to norm 1, with :math:`\mu_m` the mean feature and :math:`C_m` the largest distance from it over *public*
    noise images. All networks share one release with one sensitivity, so the privacy cost does not depend on M. The
    release is what ``DM`` matches for as long as it likes, without any further query.

    Args:
        private: the records.
        sigma: noise over sensitivity.
        count_weight: above 0 the class counts are released as well, as one more number of this weight per class, and
            divide the sums; otherwise public counts do.
    """

    mechanism = "one-shot noisy class means of public random features"
    augments = False

    def __init__(self, private: PrivateData, sigma: float, count_weight: float = 0.0) -> None:
        super().__init__(private, sigma, clip=1.0)
        self.count_weight = count_weight
        self._means: list[Tensor] | None = None

    def connect(self, networks: object) -> None:
        """Receive the pool."""
        if not isinstance(networks, NetworkPool):
            raise ConfigError(
                f"one release for all steps needs networks=fixed:count=M, not {type(networks).__name__}: fresh ones "
                f"would each take a query (method dp-dm-iterated)"
            )
        if getattr(networks, "refresh", 0):
            raise ConfigError("networks.refresh replaces networks after their one release: leave it out")
        self._pool = networks

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Return the released means (G, D) of the present network; the first call makes the release."""
        if self._means is None:
            # The pool is walked through, so the weights of the present network are put back.
            number = self._pool.number
            self._means = self._release()
            self._pool.select(number)
            network.module.requires_grad_(False)
        return self._means[self._pool.number][classes].to(network.device, network.dtype)

    def _centres(self) -> list[Centre]:
        """Return centre and radius of the public features of every network."""
        return [public_centre(self._pool.select(number), self.streams) for number in range(self._pool.count)]

    def _release(self) -> list[Tensor]:
        pool, centres = self._pool, self._centres()
        share = pool.count**-0.5

        def rows(images: Tensor, labels: Tensor) -> Tensor:
            parts = []
            for number, centre in enumerate(centres):
                network = pool.select(number)
                parts.append(share * centre.scaled(_features(network, images)))
            return torch.cat(parts, dim=1)

        sums, counts = self.private.noisy_class_sums(
            rows,
            clip=1.0,
            sigma=self.sigma,
            chunk=_POOL_CHUNK,
            count_weight=self.count_weight,
            rounding=rounding_of(pool.network),
        )
        # A noisy count near zero says nothing about its class; it is bounded without looking at the data.
        divisor = self.private.class_counts if counts is None else counts.clamp(min=1.0)
        means = (sums / divisor[:, None] / share).split([len(centre.mean) for centre in centres], dim=1)
        return [centre.restored(mean) for centre, mean in zip(centres, means, strict=True)]

    def metadata(self) -> dict[str, Any]:
        """Return the mechanism, and how counts were treated."""
        return {**super().metadata(), "networks": self._pool.count, "count_weight": self.count_weight}


class SampledMeans(PrivateSignal):
    r"""Noisy class means of a Poisson sample under the network of every step (iterated DM; NDPDC, Zheng and Li 2023).

    Features are centred and clipped by public images as in :class:`OneShotMeans`; sums are divided by the expected
    size of the sample of a class, which is public. The sample is drawn from all records at once.
    """

    mechanism = "noisy class means of Poisson samples, one query per step"

    def feature_means(self, network: Network, classes: Tensor, draws: Draws) -> Tensor:
        """Return noisy means (G, D) of a fresh sample."""
        centre = public_centre(network, self.streams)

        def rows(images: Tensor, labels: Tensor) -> Tensor:
            return centre.scaled(_features(network, self._seen(images, labels, draws)))

        clip = 1.0 if self.clip is None else self.clip
        sums, _ = self.private.noisy_class_sums(
            rows, clip=clip, sigma=self.sigma, rate=self.rate, rounding=rounding_of(network)
        )
        means = sums / (self.rate * self.private.class_counts)[:, None]
        return centre.restored(means)[classes].to(network.device, network.dtype)


class SampledGradient(PrivateSignal):
    """One clipped, noised gradient of all classes per step (PSG, Chen, Kerkouche and Fritz 2022, NeurIPS).

    Per-sample gradients come from Opacus. Fresh networks have gradients of norm 6 to 8, so the usual bound of 0.1 turns
    all of them into directions: match with a distance that does not look at lengths (``cos``, ``ours``).
    """

    mechanism = "clipped, noised mean gradient of Poisson samples, one query per step"

    def __init__(self, private: PrivateData, sigma: float, clip: float = 0.1, rate: float = 1.0) -> None:
        super().__init__(private, sigma, clip, rate)
        self._gradients: RecordGradients | None = None

    def mean_gradient(self, network: Network, classes: Tensor, draws: Draws, names: Sequence[str]) -> list[Tensor]:
        """Return the noisy gradient over a sample of all classes: one tensor of the weight's shape per name."""
        if self._gradients is None or self._gradients.names != list(names):
            self._gradients = RecordGradients(network.module, names)
        gradients = self._gradients

        def rows(images: Tensor, labels: Tensor) -> Tensor:
            return gradients(network, self._seen(images, labels, draws), labels)

        assert self.clip is not None
        row = self.private.noisy_sum(
            rows, clip=self.clip, sigma=self.sigma, rate=self.rate, chunk=64, rounding=rounding_of(network)
        )
        return unflattened(row / (self.rate * self.private.records), network.module, names)


class SampledTargets(PrivateSignal):
    """The noisy mean of one clipped row per record: gradients of the support in kernel regression (DP-KIP).

    Vinaroz and Park (2023, arXiv 2301.13389): DP-SGD whose parameters are the synthetic images.
    """

    mechanism = "clipped, noised support gradients of Poisson samples, one query per step"

    def __init__(self, private: PrivateData, sigma: float, clip: float = 1e-6, rate: float = 1.0) -> None:
        super().__init__(private, sigma, clip, rate)

    def record_mean(self, rows: Callable[[Tensor, Tensor], Tensor], count: int, stream: str) -> Tensor:
        """Return the noisy mean (D,) over a Poisson sample; the rate decides about its size, not ``count``."""
        assert self.clip is not None
        total = self.private.noisy_sum(rows, clip=self.clip, sigma=self.sigma, rate=self.rate, chunk=64)
        return total / (self.rate * self.private.records)


def _features(network: Network, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network.features(part) for part in images.split(_CHUNK)])
