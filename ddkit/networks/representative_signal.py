"""The answers of the real data, asked of images that represent their class."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ddkit.augment.base import Augmentation
from ddkit.base.ranges import Count
from ddkit.base.streams import Streams, some_of
from ddkit.data.coresets.kmeans import kmeans_representatives
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.networks.network import Network
from ddkit.networks.real_signal import REAL_CHUNK, RealSignal
from ddkit.networks.signal import pool_of, registry
from ddkit.networks.sources import NetworkSource
from ddkit.networks.training import padded

Weighting = Literal["equal", "size"]


@dataclass
class _Clustered:
    """What represents each class under one network: indices and weights by class, found at one of its ages."""

    age: int
    classes: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


@registry.register("representative")
class RepresentativeSignal(RealSignal):
    r"""Batches of the images nearest to k-means centres, instead of random ones (DREAM, Liu et al. 2023, ICCV).

    Under the present network every class is clustered into as many clusters :math:`Q_q` as the objective has
    ``real_batch``, by the features of its images without augmentation. Until the next clustering the images :math:`r_q`
    nearest to the centres are the batch of the class, augmented anew at every step:

    .. math:: \frac{1}{N_c} \sum_{x \in T_c} g_\theta(x) \;\approx\; \sum_q w_q\, g_\theta(A_\omega(x_{r_q}))

    with :math:`w_q = 1/n` as published, by which thin regions of a class count more than their share, an outlier among
    them, or with :math:`w_q = N_q / N_c` (``weights=size``), by which the sum follows the class mean: for 16 of about
    136 digits and the features of random networks its squared error is 0.25 of that of random images, 0.32 with equal
    weights. A class mean over all images has no error: beside ``signal=cached`` there is nothing to gain.

    A network is clustered under when it is new and after every ``interval`` outer steps that it has served; one whose
    weights stay (``fixed``, ``pool``) once. Networks that are new at every step are clustered under at every step,
    which a warning points out. Single features of ``layer_features`` have no weight.

    Args:
        interval: outer steps of a network between clusterings.
        subset: cluster only so many images of a class, drawn anew each time; None for all.
        weights: of the representatives in means and gradients, ``equal`` or ``size``.

    Raises:
        ConfigError: an option out of range, a subset smaller than the batch, or batch norm.

    Example:
        >>> from ddkit import Distiller
        >>> Distiller("dsa", 10, signal={"name": "representative", "subset": 1000})  # doctest: +ELLIPSIS
        <...>
    """

    def __init__(self, interval: Count = 10, subset: Count | None = None, weights: Weighting = "equal") -> None:
        if weights not in get_args(Weighting):
            raise unknown_name("signal.weights", weights, get_args(Weighting))
        self.interval, self.subset, self.weights = interval, subset, weights

    def setup(self, real: RealData, streams: Streams, augmentation: Augmentation, batch: int) -> None:
        """Receive the data and the streams; ``batch`` is the number of clusters."""
        super().setup(real, streams, augmentation, batch)
        if self.subset is not None and self.subset < batch:
            raise ConfigError(
                f"signal.subset={self.subset} must be at least objective.real_batch={batch}: raise it, or leave it out"
            )
        self._clustered: dict[int, _Clustered] = {}

    def connect(self, networks: object) -> None:
        """Receive the networks."""
        assert isinstance(networks, NetworkSource)
        if networks.network.has_batch_norm:
            raise ConfigError(
                f"signal=representative with '{networks.network.spec.canonical()}': what batch norm makes of an image "
                f"depends on its batch: use a network with instance norm, or signal=real"
            )
        if networks.life() == 1 and pool_of(networks) is None:
            warnings.warn(
                f"networks={type(networks).__name__} are new at every step, so every step clusters "
                f"{'all' if self.subset is None else self.subset} images of a class: use networks=fixed, or set "
                f"signal.subset to a few times objective.real_batch",
                stacklevel=2,
            )
        self._networks = networks

    def upkeep(self, real: RealData, networks: object) -> float:
        """All images are looked at once an interval, or at every step where networks serve only one."""
        assert isinstance(networks, NetworkSource)
        seen = real.class_counts if self.subset is None else real.class_counts.clamp(max=self.subset)
        return float(seen.sum()) / min(self.interval, networks.life() or self.interval)

    def _draw(self, network: Network, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the representatives, found first where that is due."""
        found = self._present()
        for label in classes.tolist():
            if label not in found:
                found[label] = self._representatives(network, label)
        index, weight = (torch.cat(parts) for parts in zip(*[found[label] for label in classes.tolist()], strict=True))
        return index, self._rows(index, classes), weight

    def _present(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Return what is known under the present network at its age; forget networks that are gone."""
        source, pool = self._networks, pool_of(self._networks)
        if pool is not None:
            (key, age), most = (pool.key, 0), pool.count
        else:
            (key, age), most = source.age(), source.in_turn
        present = self._clustered.pop(key, None)
        if present is None or age - present.age >= self.interval:
            present = _Clustered(age)
        self._clustered[key] = present
        for gone in list(self._clustered)[:-most]:
            del self._clustered[gone]
        return present.classes

    def _representatives(self, network: Network, label: int) -> tuple[Tensor, Tensor]:
        """Cluster a class: dataset indices (n,) and weights (n,) that are 1 on average."""
        members = self.real.class_index[label]
        if self.subset is not None and self.subset < len(members):
            members = members[some_of(len(members), self.subset, self.streams("representatives")).sort().values]
        if self.batch >= len(members):
            return members, torch.ones(len(members))
        features = self._features(network, members)
        picks, shares = kmeans_representatives(features, [torch.arange(len(members))], self.batch)
        return members[picks], shares * self.batch if self.weights == "size" else torch.ones(self.batch)

    def _features(self, network: Network, index: Tensor) -> Tensor:
        """Return the features (N, D) of the images at ``index``, in chunks of one size for all classes."""
        size = min(REAL_CHUNK, int(self.real.class_counts.max()))
        with torch.no_grad():
            parts = [network.features(padded(self.real.batch(part), size))[: len(part)] for part in index.split(size)]
        return torch.cat(parts)

    def state_dict(self) -> dict[str, Any]:
        """Return the representatives, under which network they were found and at which of its ages."""
        return {"clustered": [[key, one.age, dict(one.classes)] for key, one in self._clustered.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same representatives."""
        self._clustered = {
            int(key): _Clustered(int(age), {int(label): (index, weight) for label, (index, weight) in classes.items()})
            for key, age, classes in state["clustered"]
        }
