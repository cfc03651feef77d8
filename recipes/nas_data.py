"""What does recipe ``nas`` rank on: small images, held-out parts, and the tiny sets made of them?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ddkit import methods
from ddkit.base.config import DistillConfig, merge
from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.loading import load_pair
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.real import RealData
from ddkit.data.splits import stratified_split
from ddkit.engine.distiller import Distiller
from ddkit.engine.selection import CoresetSession
from ddkit.engine.session import Session
from ddkit.errors import ConfigError
from ddkit.integrations.nas.trainer import Preparation


@dataclass(frozen=True)
class Parts:
    """The data of a search.

    Args:
        train: what the truth trains on and what is distilled.
        validation: held out of the training data; scores candidates on every proxy.
        test: touched by the truth only.
    """

    train: RealData
    validation: RealData
    test: RealData


def load_parts(data: str, root: str | None, side: int, sizes: tuple[int, int, int], seed: int) -> Parts:
    """Load a dataset, hold a validation part out, keep at most ``sizes`` images and shrink them.

    Args:
        data: name or path.
        root: folder of downloaded data.
        side: largest height and width, in pixels.
        sizes: training, validation and test images at most, drawn with the class proportions of the whole.
        seed: of the draws.
    """
    whole, test = load_pair(data, root=root)
    streams = Streams(seed)
    if sizes[1] >= len(whole):
        raise ConfigError(
            f"validation_images={sizes[1]}: '{whole.name}' has {len(whole)} training images; hold out fewer"
        )
    rest, held_out = stratified_split(whole.labels, sizes[1], whole.num_classes, streams("validation"))
    train = _at_most(whole.subset(rest), sizes[0], streams("train"))
    train = _shrunk(train, side, None)
    validation = _shrunk(whole.subset(held_out, "train-held-out"), side, train.preprocessing)
    small = _shrunk(_at_most(test, sizes[2], streams("test")), side, train.preprocessing)
    return Parts(train, validation, small)


def _at_most(data: RealData, count: int, generator: torch.Generator) -> RealData:
    if len(data) <= count:
        return data
    return data.subset(stratified_split(data.labels, count, data.num_classes, generator)[1])


def _shrunk(data: RealData, side: int, preprocessing: Preprocessing | None) -> RealData:
    """Return the images shrunk to ``side`` pixels, standardised by their own statistics or the given ones."""
    height, width = data.shape[1:]
    images = data.images
    if max(height, width) > side:
        scale = side / max(height, width)
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        images = F.interpolate(images.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
    return RealData.from_tensors(
        images,
        data.labels,
        class_names=data.class_names,
        name=data.name,
        split=data.split,
        preprocessing=preprocessing,
        allow_missing=True,
    )


@dataclass(frozen=True)
class TinySet:
    """One set to be made.

    Args:
        method: that makes it.
        ipc: images per class.
        draw: which of several.
        config: full configuration.
        out: run folder.
    """

    method: str
    ipc: int
    draw: int
    config: DistillConfig
    out: Path

    def make(self, train: RealData) -> tuple[DistilledDataset, Preparation]:
        """Distil or select it; return it with what that took."""
        started = time.process_time()
        data = Distiller(self.config).fit(train, out=self.out)
        return data, Preparation(time.process_time() - started, self._image_passes(train))

    @property
    def counts_passes(self) -> bool:
        """Whether the image passes of making it are known: those of distribution matching, and none at random."""
        objective = self.config.objective
        matches = objective is not None and objective.name == "distribution" and "real_batch" in objective.options
        return matches or self.method == "random"

    def _image_passes(self, train: RealData) -> int:
        """Count the real and synthetic images that distribution matching shows to its networks, 0 for other methods."""
        if not self.counts_passes or self.config.objective is None:
            return 0
        batch = int(self.config.objective.options["real_batch"])
        return self.config.steps * train.num_classes * (batch + self.ipc)


def tiny_sets(
    names: list[str],
    ipcs: list[int],
    draws: int,
    budgets: Mapping[str, Mapping[str, Any]],
    train: RealData,
    out: Path,
    seed: int,
) -> list[TinySet]:
    """Configure every set and put its pieces together once, so that a bad setting is refused before the first runs.

    Raises:
        ConfigError: an unknown method or option, or more images than a class has.
    """
    sets = []
    for name in names:
        for ipc in ipcs:
            for draw in range(draws):
                config = methods.get(name).configure(
                    train, ipc, seed + draw, _overrides(budgets.get(name, {}), name, ipc)
                )
                if draw == 0:
                    CoresetSession(config, train) if config.selection else Session(config, train)
                sets.append(TinySet(name, ipc, draw, config, out / "sets" / f"{name}-{ipc}-{draw}"))
    return sets


def _overrides(budget: Mapping[str, Any], name: str, ipc: int) -> dict[str, Any]:
    common = {key: value for key, value in budget.items() if not key.isdigit()}
    own = budget.get(str(ipc), {})
    if not isinstance(own, Mapping):
        raise ConfigError(f"budgets.{name}.{ipc}={own!r} must map settings to values, for instance {{steps: 100}}")
    return merge(common, own)
