"""Matching networks whose life and training follow their accuracy on real data."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from ddkit.base.ranges import Count, Rate
from ddkit.networks.network import Network
from ddkit.networks.schedule import DynamicSchedule
from ddkit.networks.setting import Setting
from ddkit.networks.sources import NetworkSource, registry
from ddkit.networks.training import require_finite, train_epochs
from ddkit.synthesis.base import Synthesizer


@registry.register("dynamic")
class DynamicNetworks(NetworkSource):
    """Networks trained on the synthetic set for as long as their accuracy says (CAFE: Wang et al. 2022, CVPR).

    After every update of the synthetic set the accuracy of the network on freshly drawn real training images decides,
    see :class:`~ddkit.networks.schedule.DynamicSchedule`: either a new network follows, or this one is trained by plain
    SGD, one epoch at a time, until its accuracy has changed. The last update of a network is followed by no training.

    Deviations: accuracies are true ones, where the authors' program adds a share 1/K of the previous accuracy to each
    and so widens its ranges by about 1.11 at ten classes; loops are capped. ``counts`` holds how many ``updates`` and
    ``inner_epochs`` there were and how often the caps were hit (``update_caps``, ``inner_caps``); ``drawn`` is the
    number of networks.

    Query images are drawn anew each time, as published. With 128 images of each of ten classes and an accuracy of
    50 %, chance alone gives ten accuracies a range of about 4.3 points.

    Args:
        window: accuracies compared, at least 2.
        outer_threshold: lambda_1 in (0, 1); a network whose accuracy moves less from update to update is left.
        inner_threshold: lambda_2 in (0, 1); training between updates ends once the accuracy has moved more.
        query: real training images per class for one accuracy (all of a smaller class).
        lr: learning rate of plain SGD.
        batch_size: synthetic images per SGD step.
        max_inner_epochs: cap of the epochs between two updates.
        max_updates: cap of the updates that one network serves.
    """

    def __init__(
        self,
        window: int = 10,
        outer_threshold: float = 0.04,
        inner_threshold: float = 0.03,
        query: Count = 128,
        lr: Rate = 0.01,
        batch_size: Count = 256,
        max_inner_epochs: int = 100,
        max_updates: int = 200,
    ) -> None:
        self.schedule = DynamicSchedule(window, outer_threshold, inner_threshold, max_inner_epochs, max_updates)
        self.query, self.lr, self.batch_size = query, lr, batch_size

    @property
    def counts(self) -> Counter[str]:
        """Updates, inner epochs and caps hit so far."""
        return self.schedule.counts

    def setup(self, setting: Setting) -> None:
        """Receive the network, the streams and the signal; nothing has been counted yet."""
        super().setup(setting)
        setting.signal.require("accuracy")
        self.schedule.restart()
        self.schedule.counts.clear()

    def current(self) -> Network:
        """Return the network, newly drawn once the previous one was left."""
        if self.served == 0:
            self.network.reset(self.streams.integer("networks"))
            self.schedule.restart()
            self.drawn += 1
        return self.network

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Let the accuracy decide whether to leave the network or how long to train it on the updated set."""
        if last:
            return
        with torch.no_grad():
            images, targets = synthesizer()
        images, targets = images.detach(), targets.detach()

        def train() -> None:
            train_epochs(
                self.network,
                images,
                targets,
                epochs=1,
                lr=self.lr,
                batch_size=self.batch_size,
                augmentation=self.augmentation,
                generator=self.streams("inner-training"),
            )
            require_finite(self.network, "the synthetic set", f"lower networks.lr (now {self.lr}) or optimiser.lr")

        stays = self.schedule.updated(self._accuracy, train)
        self.served = self.schedule.updates if stays else 0

    def _accuracy(self) -> float:
        return self.setting.signal.accuracy(self.network, self.query, "query")

    def passes_per_step(self, synthesizer: Synthesizer) -> float:
        """Images per update at the least training between two updates, queries counted a third."""
        epochs = self.schedule.window
        return epochs * len(synthesizer) + (epochs + 1) * self.query * synthesizer.num_classes / 3

    def metadata(self) -> dict[str, Any]:
        """Return ``counts`` and the number of networks."""
        return {"networks": self.drawn, **dict(self.counts)}

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, the outer window and, while a network lives, its weights."""
        state: dict[str, Any] = {
            "drawn": self.drawn,
            "served": self.served,
            "outer": list(self.schedule.outer),
            "counts": dict(self.counts),
        }
        if self.served:
            state["weights"] = self.network.snapshot()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the same network."""
        self.drawn, self.served = int(state["drawn"]), int(state["served"])
        self.schedule.updates, self.schedule.outer = self.served, [float(a) for a in state["outer"]]
        self.schedule.counts = Counter({name: int(count) for name, count in state["counts"].items()})
        if self.served:
            self.network.module.load_state_dict(state["weights"])
