"""Run a coreset method: pick real images instead of learning synthetic ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, Literal

from torch import Tensor

from ddkit.base.config import DistillConfig
from ddkit.base.device import resolve_device
from ddkit.base.precision import Precision, resolve_precision
from ddkit.base.progress import Report, silent
from ddkit.base.registry import Registry
from ddkit.base.streams import Streams
from ddkit.data.coresets.features import network_features, pixel_features
from ddkit.data.coresets.herding import herding_indices
from ddkit.data.coresets.kcenter import kcenter_indices
from ddkit.data.coresets.kmeans import kmeans_representatives
from ddkit.data.coresets.random import random_indices
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

Features = Literal["network", "pixels"]

registry: Registry[type[Selector]] = Registry("selection", "ddkit.selections")


class Selector(ABC):
    """Picks ``ipc`` indices per class; class-major, in selection order."""

    #: Epochs for which a network is trained on all data first, for the estimate of cost.
    epochs: int = 0
    #: Told how far the selection is.
    report: Report = staticmethod(silent)

    @abstractmethod
    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Return (K * ipc,) int64 indices into ``real``."""


@registry.register("random")
class RandomSelector(Selector):
    """A uniform subset of every class."""

    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Draw without replacement."""
        return random_indices(real.class_index, config.ipc, streams("selection"))


#: The features computed last in this process: several methods and IPCs select on the same ones.
_last_features: dict[tuple[object, ...], Tensor] = {}


class _FeatureSelector(Selector):
    """Shares the features that coresets compare, and keeps those of the last network that was trained.

    Args:
        features: ``network`` (penultimate features of a network trained on all data) or ``pixels``.
        epochs: nominal training epochs of that network (one more runs, see TrainingRecipe).
        normalise: divide every feature vector by its norm (iCaRL does, the field's tables do not).
    """

    def __init__(self, features: Features = "network", epochs: int = 30, normalise: bool = False) -> None:
        if epochs < 1:
            raise ConfigError(f"selection.epochs={epochs} must be at least 1")
        self.features, self.epochs, self.normalise = features, epochs, normalise

    def _features(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        if self.features == "pixels":
            return pixel_features(real)
        spec, seed = ModelSpec.parse(config.model), streams.integer("features")
        key = (real.fingerprint, real.preprocessing, spec, self.epochs, seed, precision, str(real.images.device))
        if key not in _last_features:
            recipe = TrainingRecipe(name="features", epochs=self.epochs)
            (model,) = train_networks(
                real,
                None,
                spec,
                recipe,
                [seed],
                num_classes=real.num_classes,
                device=real.images.device,
                precision=precision.name,
                compile=precision.compile,
                progress=partial(self.report, "training the network whose features are compared"),
            )
            _last_features.clear()
            _last_features[key] = network_features(real, model)
        return _last_features[key]


@registry.register("herding")
class HerdingSelector(_FeatureSelector):
    """The images whose mean feature follows the class mean most closely (Welling 2009)."""

    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Train the feature network, then pick greedily."""
        features = self._features(real, config, streams, precision)
        report = partial(self.report, "picking images")
        return herding_indices(features, real.class_index, config.ipc, normalise=self.normalise, progress=report)


@registry.register("kcenter")
class KCenterSelector(_FeatureSelector):
    """The images that cover the class with the smallest radius, greedily (Gonzalez 1985; Sener and Savarese 2018).

    Args:
        start: first centre: nearest to the class ``mean``, or ``random``.
        features: ``network`` or ``pixels``.
        epochs: training epochs of the feature network.
        normalise: divide every feature vector by its norm.
    """

    def __init__(
        self,
        start: Literal["mean", "random"] = "mean",
        features: Features = "network",
        epochs: int = 30,
        normalise: bool = False,
    ) -> None:
        super().__init__(features, epochs, normalise)
        self.start = start

    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Train the feature network, then pick greedily."""
        features = self._features(real, config, streams, precision)
        return kcenter_indices(
            features,
            real.class_index,
            config.ipc,
            start=self.start,
            generator=streams("selection") if self.start == "random" else None,
            normalise=self.normalise,
            progress=partial(self.report, "picking images"),
        )


@registry.register("kmeans")
class KMeansSelector(_FeatureSelector):
    """The image nearest to the centre of each of ``ipc`` clusters of a class (the start of DREAM, Liu et al. 2023)."""

    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Train the feature network, then cluster."""
        features = self._features(real, config, streams, precision)
        report = partial(self.report, "clustering images")
        return kmeans_representatives(
            features, real.class_index, config.ipc, normalise=self.normalise, progress=report
        )[0]


class CoresetSession:
    """A coreset method put together from a configuration, ready to run.

    Args:
        config: full configuration, with a selection.
        real: training data.

    Raises:
        ConfigError: an unknown selection, option or model.
        DataError: ``ipc`` is larger than the smallest class.
    """

    def __init__(self, config: DistillConfig, real: RealData) -> None:
        assert config.selection is not None
        _check_ipc_fits(real, config.ipc)
        real = real.whitened(config.zca) if config.zca else real
        self.config, self.real = config, real
        self.selector: Selector = registry.create(config.selection.name, config.selection.options)
        self.device = resolve_device(config.device)
        self.precision = resolve_precision(
            config.precision,
            config.compile,
            passes=3.0 * len(real) * self.selector.epochs,
            cost=ModelSpec.parse(config.model).cost(real.shape, real.num_classes),
            device=self.device,
        )

    def run(self, metadata: dict[str, Any], report: Report = silent) -> DistilledDataset:
        """Pick real images and return them as an artifact, at rest (uint8) with their indices."""
        real, self.selector.report = self.real, report
        data = real.to(self.device) if self.device.type != "cpu" else real
        index = self.selector.select(data, self.config, Streams(self.config.seed), self.precision).cpu()
        images, labels = real.images[index].cpu(), real.labels[index].cpu()
        return DistilledDataset(
            images=images,
            labels=labels,
            label_kind="hard",
            class_names=real.class_names,
            preprocessing=real.preprocessing,
            metadata={
                **metadata,
                "indices": index.tolist(),
                "selection": "real images; no test data was looked at",
            },
        )


def _check_ipc_fits(real: RealData, ipc: int) -> None:
    """Refuse more images per class than there are to pick from.

    Raises:
        DataError: naming the class, its size and the remedy.
    """
    smallest = int(real.class_counts.argmin())
    size = int(real.class_counts[smallest])
    if ipc > size:
        raise DataError(
            f"ipc={ipc} is larger than class '{real.class_names[smallest]}', which has {size} image{'s' * (size != 1)} "
            f"to pick from: choose ipc <= {size}, or a method that learns images, such as dm"
        )
