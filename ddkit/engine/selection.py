"""Run a coreset method: pick real images instead of learning synthetic ones."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ddkit.config import DistillConfig
from ddkit.coresets import herding_indices, kcenter_indices, network_features, pixel_features, random_indices
from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.evaluation import TrainingRecipe, train_networks
from ddkit.models import ModelSpec
from ddkit.precision import Precision
from ddkit.registry import Registry
from ddkit.streams import Streams
from ddkit.synthesis import check_ipc_fits

Features = Literal["network", "pixels"]

registry: Registry[type[Selector]] = Registry("selection", "ddkit.selections")


class Selector:
    """Picks ``ipc`` indices per class; class-major, in selection order."""

    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Return (K * ipc,) int64 indices into ``real``."""
        raise NotImplementedError


@registry.register("random")
class RandomSelector(Selector):
    """A uniform subset of every class."""

    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Draw without replacement."""
        return random_indices(real.class_index, config.ipc, streams("selection"))


class _FeatureSelector(Selector):
    """Shares the features that herding and k-center compare.

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
        recipe = TrainingRecipe(name="features", epochs=self.epochs)
        (model,) = train_networks(
            real,
            None,
            ModelSpec.parse(config.model),
            recipe,
            [streams.integer("features")],
            num_classes=real.num_classes,
            device=real.images.device,
            precision="bfloat16" if precision.dtype == torch.bfloat16 else "float32",
            compile=precision.compile,
        )
        return network_features(real, model)


@registry.register("herding")
class HerdingSelector(_FeatureSelector):
    """The images whose mean feature follows the class mean most closely (Welling 2009)."""

    def select(self, real: RealData, config: DistillConfig, streams: Streams, precision: Precision) -> Tensor:
        """Train the feature network, then pick greedily."""
        features = self._features(real, config, streams, precision)
        return herding_indices(features, real.class_index, config.ipc, normalise=self.normalise)


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
        )


def select(real: RealData, config: DistillConfig, selector: Selector, precision: Precision) -> Tensor:
    """Run ``selector`` on ``real``.

    Raises:
        DataError: ``ipc`` is larger than the smallest class.
    """
    check_ipc_fits(real, config.ipc)
    return selector.select(real, config, Streams(config.seed), precision)
