"""One matching network whose weights are replaced in place, with its heavy passes compiled once."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.device import layout
from ddkit.base.precision import PassCost, Precision, pass_cost
from ddkit.errors import ConfigError
from ddkit.models.base import FeatureModel, uses_batch_norm
from ddkit.models.spec import ModelSpec


class Network:
    """A network on which real and synthetic data are compared.

    A fresh network is a new set of weights in the same module, so nothing is rebuilt or compiled again.

    Args:
        spec: architecture.
        shape: (C, H, W) of one image.
        num_classes: K.
        device: where it lives.
        precision: how :meth:`features` and :meth:`loss` run.

    Raises:
        ConfigError: a network that draws random numbers in its training passes.
    """

    def __init__(
        self,
        spec: ModelSpec,
        shape: tuple[int, int, int],
        num_classes: int,
        *,
        device: torch.device | str = "cpu",
        precision: Precision | None = None,
    ) -> None:
        self.spec = spec
        self.shape = shape
        self.num_classes = num_classes
        self.device = torch.device(device)
        self.precision = precision or Precision()
        if spec.draws_in_forward(shape, num_classes):
            raise ConfigError(
                f"model '{spec.canonical()}' draws random numbers in its training passes (dropout or the like), so one "
                f"seed would not give one result: match on it without (probability 0); to be trained on a finished set "
                f"it may have them"
            )
        self.module = spec.build(shape, num_classes, seed=0).to(self.device)
        self.module.to(memory_format=layout(shape))  # type: ignore[call-overload]
        self.module.train()
        self.has_batch_norm = uses_batch_norm(self.module)
        self.cost: PassCost = pass_cost(self.module, shape)
        self._features = self.precision.compiled(cast("Callable[[Tensor], Tensor]", self.module.features))
        self._maps = self.precision.compiled(getattr(self.module, "feature_maps", self._no_maps))
        self._logits = self.precision.compiled(self._all_logits)
        self._both = self.precision.compiled(self._features_and_logits)
        self._loss = self.precision.compiled(self._mean_cross_entropy)

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return next(self.module.parameters()).dtype

    def reset(self, seed: int) -> None:
        """Draw new initial weights from ``seed``, in place."""
        self.spec.reset_(self.module, seed)

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of the present weights and buffers, for ``module.load_state_dict``."""
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    def prepare(self, images: Tensor) -> Tensor:
        """Bring images to the device, number format and memory layout of this network."""
        return images.to(self.device, self.dtype, memory_format=layout(self.shape))

    def features(self, images: Tensor) -> Tensor:
        """Return the flattened input of the classifier.

        Args:
            images: (N, C, H, W).

        Returns:
            (N, D) in the weights' number format; differentiable with respect to the images.
        """
        with self.precision.autocast(self.device):
            return self._features(self.prepare(images)).to(self.dtype)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what :meth:`features` and :meth:`logits` do, from one pass where the network allows it."""
        with self.precision.autocast(self.device):
            features, logits = self._both(self.prepare(images))
        return features.to(self.dtype), logits.to(self.dtype)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Return the output of every stage of the network, the input of the classifier last.

        Args:
            images: (N, C, H, W).

        Returns:
            one tensor per stage, (N, C', H', W') or (N, D'), in the weights' number format; differentiable with
            respect to the images.
        """
        with self.precision.autocast(self.device):
            return [layer.to(self.dtype) for layer in self._maps(self.prepare(images))]

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (N, K) of images (N, C, H, W) in the weights' number format."""
        with self.precision.autocast(self.device):
            return self._logits(self.prepare(images)).to(self.dtype)

    def loss(self, images: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Return the mean cross-entropy of a batch.

        Args:
            images: (N, C, H, W).
            targets: (N,) int64 or (N, K) probabilities.
            weights: (N,) weights that replace 1/N; rows of weight 0 pad a batch to a static shape.

        Returns:
            a scalar, differentiable with respect to the weights of the network.
        """
        if weights is None:
            weights = torch.full((len(images),), 1.0 / len(images), device=self.device, dtype=self.dtype)
        with self.precision.autocast(self.device):
            return self._loss(self.prepare(images), targets, weights)

    def _all_logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(images)
        return logits

    def _features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.module.features(images)  # type: ignore[operator]
        one_pass = type(self.module).forward is FeatureModel.forward
        return features, self.module.classifier(features) if one_pass else self.module(images)  # type: ignore[operator]

    def _no_maps(self, images: Tensor) -> list[Tensor]:
        raise ConfigError(
            f"model '{self.spec.canonical()}' has no feature_maps(images), which matching every layer needs: add it "
            f"(a list with the output of every stage, the input of the classifier last) or use a model of ddkit"
        )

    def _mean_cross_entropy(self, images: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        logits = self.module(images).to(weights.dtype)
        return (F.cross_entropy(logits, targets, reduction="none") * weights).sum()
