"""How a matching network is trained on real images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddkit import augment
from ddkit.base.ranges import Count, Momentum, Rate, Share, Weight, in_range
from ddkit.networks.setting import Setting
from ddkit.networks.training import require_finite, train_epochs


class RealTraining:
    """SGD on real images, which come from nowhere but the setting's signal.

    Args:
        batch_size: real images per SGD step.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: L2 penalty.
        cutmix: probability of CutMix per batch.
        augmentation: strategy, parameters drawn per image; None for that of the matching, ``none`` for none.

    Raises:
        ConfigError: a setting out of range, or a strategy that does not exist.
    """

    @in_range("networks")
    def __init__(
        self,
        batch_size: Count,
        lr: Rate,
        momentum: Momentum,
        weight_decay: Weight,
        cutmix: Share = 0.0,
        augmentation: str | None = None,
    ) -> None:
        self.batch_size, self.lr, self.momentum, self.weight_decay = batch_size, lr, momentum, weight_decay
        self.cutmix = cutmix
        self._own = None if augmentation is None else augment.create(augmentation)

    def setup(self, setting: Setting) -> None:
        """Receive the network to train, the signal and the streams.

        Raises:
            ConfigError: the signal hands out no real images.
        """
        setting.signal.require("labelled")
        self.network, self.signal, self.streams = setting.network, setting.signal, setting.streams
        self.augmentation = self._own or setting.augmentation

    def run(self, images: int, velocity: list[Tensor], epochs: int = 1) -> int:
        """Train the present weights on freshly drawn real images.

        Args:
            images: real images to draw; all of a smaller dataset.
            velocity: of the weights, updated in place.
            epochs: passes over these images.

        Returns:
            the number of SGD steps.

        Raises:
            DivergedError: a weight is not finite any more.
        """
        with torch.no_grad():
            drawn, labels = self.signal.labelled(images, "real-training-images")
        train_epochs(
            self.network,
            drawn,
            labels,
            epochs=epochs,
            lr=self.lr,
            batch_size=self.batch_size,
            augmentation=self.augmentation,
            generator=self.streams("real-training"),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            cutmix=self.cutmix,
            velocity=velocity,
        )
        require_finite(self.network, "real images", f"lower networks.lr (now {self.lr})")
        return epochs * math.ceil(len(drawn) / self.batch_size)
