"""The targets of synthetic images: hard, soft (fixed), learned, or assigned by experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.errors import ConfigError

LabelKind = Literal["hard", "soft", "learned", "assigned"]
ArtifactKind = Literal["hard", "soft", "regression"]


class Labels(nn.Module, ABC):
    """Targets by image index."""

    @abstractmethod
    def forward(self, index: Tensor) -> Tensor:
        """Return the targets of the images at ``index``: (M,) int64 or (M, K) probabilities."""

    @property
    @abstractmethod
    def artifact_kind(self) -> ArtifactKind:
        """How an artifact names these targets: ``hard`` or ``soft``."""


class HardLabels(Labels):
    """Fixed class numbers.

    Args:
        classes: (M,) int64 class of each image.
    """

    classes: Tensor

    def __init__(self, classes: Tensor) -> None:
        super().__init__()
        self.register_buffer("classes", classes, persistent=False)

    def forward(self, index: Tensor) -> Tensor:
        """Return (M,) int64."""
        return self.classes[index]

    @property
    def artifact_kind(self) -> ArtifactKind:
        """``hard``."""
        return "hard"


class SoftLabels(Labels):
    """Class probabilities, fixed or learned.

    Learned ones are the softmax of free logits, so that they stay probabilities at every step.

    Args:
        probabilities: (M, K) rows that sum to 1.
        learned: whether the logits are a parameter.

    Raises:
        ConfigError: rows that are no probabilities.
    """

    probabilities: Tensor

    def __init__(self, probabilities: Tensor, learned: bool) -> None:
        super().__init__()
        check_probabilities(probabilities)
        self.shape = probabilities.shape
        self.learned = learned
        if learned:
            self.logits = nn.Parameter(probabilities.clamp_min(1e-8).log())
        else:
            self.register_buffer("probabilities", probabilities)

    def forward(self, index: Tensor) -> Tensor:
        """Return (M, K) probabilities."""
        return F.softmax(self.logits[index], dim=1) if self.learned else self.probabilities[index]

    @property
    def artifact_kind(self) -> ArtifactKind:
        """``soft``."""
        return "soft"


class AssignedLabels(Labels):
    """Class probabilities that an objective assigns, by trained networks for instance; no gradient changes them.

    They start one-hot, are saved with the state of a run and are stored and counted like soft labels.

    Args:
        classes: (M,) int64 class of each image.
        num_classes: K.
    """

    probabilities: Tensor

    def __init__(self, classes: Tensor, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("probabilities", F.one_hot(classes, num_classes).float())

    def assign(self, index: Tensor, probabilities: Tensor) -> None:
        """Replace the rows at ``index`` (M,) by ``probabilities`` (M, K).

        Raises:
            ConfigError: rows that are no probabilities.
        """
        check_probabilities(probabilities)
        self.probabilities[index] = probabilities.detach().to(self.probabilities)

    def forward(self, index: Tensor) -> Tensor:
        """Return (M, K) probabilities."""
        return self.probabilities[index]

    @property
    def artifact_kind(self) -> ArtifactKind:
        """``soft``."""
        return "soft"


def check_probabilities(probabilities: Tensor) -> None:
    """Refuse rows (M, K) that are no probabilities.

    Raises:
        ConfigError: a negative or non-finite entry, or a row whose sum is not 1 within 1e-4.
    """
    total = probabilities.sum(1)
    if probabilities.min() < 0 or not torch.allclose(total, torch.ones_like(total), atol=1e-4):
        raise ConfigError("soft labels must be probabilities: every row non-negative with sum 1; normalise them first")


def make_labels(kind: LabelKind | Tensor, classes: Tensor, num_classes: int, confidence: float) -> Labels:
    """Build the targets of images whose classes are known.

    Args:
        kind: ``hard``, ``soft``, ``learned``, ``assigned``, or an (M, K) tensor of probabilities, kept fixed.
        classes: (M,) int64 class of each image.
        num_classes: K.
        confidence: initial probability of the image's own class; the rest is shared equally by the others.

    Raises:
        ConfigError: an unknown kind, a confidence outside (1/K, 1], or rows that are no probabilities.
    """
    if isinstance(kind, Tensor):
        if kind.shape != (len(classes), num_classes):
            raise ConfigError(f"soft labels have shape {tuple(kind.shape)}, expected {(len(classes), num_classes)}")
        return SoftLabels(kind.float(), learned=False)
    if kind == "hard":
        return HardLabels(classes)
    if kind == "assigned":
        return AssignedLabels(classes, num_classes)
    if kind not in ("soft", "learned"):
        raise ConfigError(f"unknown labels '{kind}': choose hard, soft, learned or assigned")
    if not 1 / num_classes < confidence <= 1:
        raise ConfigError(f"label_confidence={confidence} must lie in (1/{num_classes}, 1]")
    probabilities = torch.full((len(classes), num_classes), (1 - confidence) / (num_classes - 1))
    probabilities[torch.arange(len(classes)), classes] = confidence
    return SoftLabels(probabilities, learned=kind == "learned")
