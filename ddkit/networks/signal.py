"""The only door through which real data enter an objective: what may be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ddkit.augment.base import Augmentation, Draws
from ddkit.base.config import DistillConfig
from ddkit.base.registry import Registry
from ddkit.base.streams import Streams
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.networks.flat import FlatNetwork
from ddkit.networks.fourier import Frequencies
from ddkit.networks.network import Network

registry: Registry[type[Signal]] = Registry("signal", "ddkit.signals")


@runtime_checkable
class NetworkPool(Protocol):
    """Networks that are all known before the first step, to be looked at in any order."""

    #: Networks, and which of them is the present one.
    count: int
    number: int
    network: Network

    @property
    def keys(self) -> Sequence[int]:
        """What tells the networks apart, in their order: the same weights always have the same key."""

    @property
    def key(self) -> int:
        """That of the present network."""

    def select(self, number: int) -> Network:
        """Make ``number`` the present network and return it."""


def pool_of(networks: object) -> NetworkPool | None:
    """Return networks whose weights come again; None for those that are new at every step, as blended ones are."""
    comes_again = isinstance(networks, NetworkPool) and not getattr(networks, "blend", False)
    return networks if comes_again else None  # type: ignore[return-value]


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


@dataclass(frozen=True)
class Risk:
    """What real images say about the weights of a network; tensors without a graph.

    Args:
        loss: mean hard-label cross-entropy ().
        gradient: of the loss with respect to the weights (P,).
        error: share of the images that are classified wrongly, in [0, 1] (); on the device, as a number would make it
            wait for the device at every intermediate loss.
    """

    loss: Tensor
    gradient: Tensor
    error: Tensor


class Signal(ABC):
    """What an objective may ask of the real data.

    A privacy-preserving signal answers with clipped and noised values and counts every query; a robust one answers for
    perturbed images. No objective is written twice, as none knows which kind of signal it asks. Queries that are not
    abstract may be left out: asking refuses then, with ConfigError, which :meth:`require` finds out beforehand.
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

    def connect(self, networks: object) -> None:
        """Receive the source of the matching networks, once it is set up and before the first step.

        A signal that answers for all networks of a fixed pool at once (one private release) asks it for them.

        Raises:
            ConfigError: the signal cannot work with these networks.
        """

    def share(self, other: Signal) -> None:
        """Take over what another signal of this kind has computed about the same networks and data, if anything."""

    def images_per_step(self, real: RealData, networks: object, steps: int) -> float:
        """Return how many real images of a class are looked at per step at most, for cost estimates before any setup.

        Args:
            real: the data.
            networks: the source of the matching networks.
            steps: of the run.
        """
        return float(real.class_counts.max())

    def upkeep(self, real: RealData, networks: object) -> float:
        """Return how many real images it looks at per step beside those that it is asked about, for cost estimates.

        Args:
            real: the data.
            networks: the source of the matching networks.
        """
        return 0.0

    def draws(self, classes: Tensor) -> Draws | None:
        """Return the augmentations of this step, asked after its network was chosen; None to let the objective draw.

        Args:
            classes: (G,) int64, each of which gets a row.
        """
        return None

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

    def features(self, network: Network, classes: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return the features of every image of a batch of each class.

        Args:
            network: feature extractor.
            classes: (G,) int64.
            draws: augmentation parameters, one row per class of ``classes``.

        Returns:
            features (N, D) without a graph, and for every image the position (N,) of its class, on the CPU.
        """
        raise self._lacks("the features of every image")

    def layer_features(self, network: Network, classes: Tensor, draws: Draws) -> LayerFeatures:
        """Return the features of a batch of each class in every layer of ``network`` (see ``feature_maps``)."""
        raise self._lacks("the features of every layer")

    def characteristic(self, network: Network, classes: Tensor, draws: Draws, count: int) -> tuple[Frequencies, Tensor]:
        """Return frequencies and, along them, the characteristic function of the unit features of each class.

        Args:
            network: feature extractor.
            classes: (G,) int64.
            draws: augmentation parameters, one row per class of ``classes``.
            count: m, frequencies to draw.

        Returns:
            the frequencies, and the mean waves (G, 2m) along them over a batch of each class, without a graph.
        """
        raise self._lacks("characteristic functions")

    def labelled(self, count: int, stream: str) -> tuple[Tensor, Tensor]:
        """Return ``count`` real images without augmentation, for networks that are trained on real data.

        Args:
            count: images, drawn uniformly without replacement; all of a smaller dataset.
            stream: name of the random stream to draw from.

        Returns:
            preprocessed images (N, C, H, W) and labels (N,) int64.
        """
        raise self._lacks("real images")

    def balanced(self, per_class: int, stream: str) -> tuple[Tensor, Tensor]:
        """Return ``per_class`` real images of every class without augmentation.

        Args:
            per_class: images of each class, drawn without replacement; all of a smaller class.
            stream: name of the random stream to draw from.

        Returns:
            preprocessed images (N, C, H, W), class after class, and labels (N,) int64.
        """
        raise self._lacks("real images")

    def record_mean(self, rows: Callable[[Tensor, Tensor], Tensor], count: int, stream: str) -> Tensor:
        """Return the mean over a batch of what every record says on its own.

        Args:
            rows: maps preprocessed images (n, C, H, W) and labels (n,) to one row per record (n, D).
            count: records, drawn uniformly without replacement; all of a smaller dataset.
            stream: name of the random stream to draw from.

        Returns:
            (D,), without a graph.
        """
        raise self._lacks("means over single records")

    def risk(
        self, network: FlatNetwork, theta: Tensor, count: int, *, balanced: bool, draws: Draws | None, stream: str
    ) -> Risk:
        r"""Return the risk of a network on a fresh batch B of real images (survey Eq. 1) and its gradient.

        .. math:: R(\theta) = \frac{1}{|B|} \sum_{(x, y) \in B} \mathrm{CE}(f_\theta(A_\omega(x)), y)

        Args:
            network: as a function of its weights.
            theta: where (P,).
            count: images in the batch; all of a smaller set.
            balanced: whether every class gives equally many of them, ``count`` divided by K and rounded, at least one.
            draws: parameters of the augmentation, one row that all images share; None for the images as they are.
            stream: name of the random stream to draw the batch from.
        """
        raise self._lacks("the risk of a network on real images")

    def whole(self) -> RealData:
        """Return the real data themselves, for what trains on all of them (expert trajectories)."""
        raise self._lacks("real images")

    def images_at(self, index: Tensor) -> Tensor:
        """Return the preprocessed real images (N, C, H, W) at ``index`` (N,) int64."""
        raise self._lacks("real images")

    def accuracy(self, network: Network, per_class: int, stream: str) -> float:
        """Return the share of real training images that ``network`` classifies correctly.

        Args:
            network: classifier.
            per_class: images of each class, drawn without replacement; all of a smaller class.
            stream: name of the random stream to draw from.
        """
        raise self._lacks("the accuracy on real images")

    def require(self, query: str) -> None:
        """Refuse to work without ``query``; objectives and network sources call it when they are set up."""
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
