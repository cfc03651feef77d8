"""Pixels: the synthetic images themselves are learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ddkit.data.coresets.by_pixels import herded
from ddkit.data.coresets.kmeans import kmeans_representatives
from ddkit.data.real import RealData
from ddkit.errors import DataError
from ddkit.synthesis.base import StoredImages, registry
from ddkit.synthesis.labels import LabelKind


@registry.register("pixels")
class Pixels(StoredImages):
    """One learnable image per stored image, in the preprocessed (normalised) space, without any clamp.

    Initialisation: ``real`` takes distinct random real images of each class, ``herded`` those whose mean follows the
    class mean most closely, ``kmeans`` those nearest to the centres of its clusters (DREAM, Liu et al. 2023), all three
    by their pixels, ``noise`` draws N(0, 1) per pixel, ``mean`` takes the class mean with N(0, 0.1) added when
    there is more than one image per class, so that they differ.

    Args:
        num_classes: K.
        ipc: images per class.
        shape: (C, H, W).
        labels: a kind of :func:`ddkit.synthesis.labels.make_labels`, or (K * ipc, K) fixed probabilities.
        label_confidence: initial probability of the own class of soft, learned and projected labels.
        label_scale: factor of the start of free and centred labels.
        classes: those that have images, ascending; None for all. Only objectives that do not compare class by class
            take fewer.
    """

    name = "pixels"
    inits: ClassVar[tuple[str, ...]] = ("real", "noise", "mean", "herded", "kmeans")

    #: The rates of DM for features, of DC for gradients, of MTT for trajectories; Adam where a trained student or a
    #: regression is judged on real data (DD), and where a loss is bounded (distances under a kernel).
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "feature": {"name": "sgd", "lr": 1.0, "momentum": 0.5},
        "gradient": {"name": "sgd", "lr": 0.1, "momentum": 0.5},
        "trajectory": {"name": "sgd", "lr": 100.0, "momentum": 0.5},
        "risk": {"name": "adam", "lr": 0.01},
        "regression": {"name": "adam", "lr": 0.01},
        "kernel": {"name": "adam", "lr": 0.02},
    }

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
        label_scale: float = 1.0,
        classes: list[int] | None = None,
    ) -> None:
        super().__init__(num_classes, ipc, shape, labels, label_confidence, label_scale=label_scale, present=classes)
        self.images = nn.Parameter(torch.zeros(len(self), *shape))

    def decode(self, index: Tensor) -> Tensor:
        """Return the pixels at ``index``."""
        return self.images[index]

    def check(self, real: RealData, how: str) -> None:
        """Refuse more images per class than there are, for ``real``; see the base for the rest."""
        super().check(real, how)
        if how in ("real", "herded", "kmeans"):
            check_ipc_fits(real, self.ipc, self.present)

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Set the pixels."""
        self.check(real, how)
        if how == "noise":
            start = torch.randn(self.images.shape, generator=generator)
        elif how in ("real", "herded", "kmeans"):
            if how == "real":
                index = real.sample_indices(self.present, self.ipc, generator)
            elif how == "herded":
                index = herded(real, dict.fromkeys(self.present, self.ipc))
            else:
                index = kmeans_start(real, self.present, self.ipc)
            start = real.batch(index)
            self.pairs.copy_(index)
        else:
            start = class_means(real)[list(self.present)].repeat_interleave(self.ipc, dim=0)
            if self.ipc > 1:
                start = start + 0.1 * torch.randn(start.shape, generator=generator)
        with torch.no_grad():
            self.images.copy_(start)

    def stored(self) -> dict[str, Tensor]:
        """Return ``images`` and ``labels``."""
        return {"images": self.images.detach(), "labels": self.stored_labels()}


def check_ipc_fits(real: RealData, ipc: int, classes: Sequence[int] | None = None) -> None:
    """Refuse an IPC above the size of the smallest of ``classes``; None for all of them."""
    counts = real.class_counts
    smallest = min(range(real.num_classes) if classes is None else classes, key=lambda number: int(counts[number]))
    if ipc > int(counts[smallest]):
        raise DataError(
            f"ipc={ipc} is larger than class '{real.class_names[smallest]}', which has {int(counts[smallest])} images: "
            f"choose ipc <= {int(counts[smallest])} or init=noise"
        )


def kmeans_start(real: RealData, classes: Sequence[int], n: int, chunk: int = 512) -> Tensor:
    """Return the ``n`` images of each of ``classes`` that are nearest to k-means centres of its pixels, class by class.

    The paper clusters by features of a random network; a run has none yet where it starts.
    """
    picks = []
    for label in classes:
        index = real.class_index[label]
        pixels = torch.cat([real.batch(part).flatten(1) for part in index.split(chunk)])
        picks.append(index[kmeans_representatives(pixels, [torch.arange(len(index))], n)[0]])
    return torch.cat(picks)


def class_means(real: RealData, chunk: int = 4096) -> Tensor:
    """Return the mean preprocessed image of every class: (K, C, H, W)."""
    means = []
    for index in real.class_index:
        total = torch.zeros(real.shape, dtype=torch.float64)
        for part in index.split(chunk):
            total += real.batch(part).sum(0, dtype=torch.float64).cpu()
        means.append((total / max(1, len(index))).float())
    return torch.stack(means)
