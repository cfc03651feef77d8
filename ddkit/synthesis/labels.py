"""The targets of synthetic images: hard, soft (fixed), learned with or without constraints, or assigned by experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.ranges import Rate, in_range
from ddkit.errors import ConfigError, unknown_name

LabelKind = Literal["hard", "soft", "learned", "assigned", "free", "centred", "projected"]
ArtifactKind = Literal["hard", "soft", "regression"]

#: A confidence this near to 1/K means uniform probabilities.
UNIFORM_TOLERANCE = 1e-6


class Labels(nn.Module, ABC):
    """Targets by image index."""

    @abstractmethod
    def forward(self, index: Tensor) -> Tensor:
        """Return the targets of the images at ``index``: (M,) int64, (M, K) probabilities or (M, K) free rows."""

    @property
    @abstractmethod
    def artifact_kind(self) -> ArtifactKind:
        """How an artifact names these targets: ``hard``, ``soft`` or ``regression``."""

    def after_step(self) -> None:
        """React to an update, for instance by a projection; nothing by default."""


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


class FreeLabels(Labels):
    """Learned rows without any constraint, as soft-label dataset distillation and kernel regression use them.

    Rows may sum to anything and have negative entries (Sucholutsky and Schonlau 2021, IJCNN, arXiv 1910.02551). In a
    cross-entropy the sum of a row is the size of that image's step, so rows are stored as they are.

    Args:
        rows: (M, K) where they start.
    """

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows.clone())

    def forward(self, index: Tensor) -> Tensor:
        """Return (M, K) rows."""
        return self.rows[index]

    @property
    def artifact_kind(self) -> ArtifactKind:
        """``regression``."""
        return "regression"


class ProjectedLabels(FreeLabels):
    r"""Learned probabilities that are put back on the simplex after every step (Bohdal et al. 2020, arXiv 2006.08572).

    .. math:: y \leftarrow \mathrm{clamp}(y, 0, 1), \qquad y \leftarrow y / \textstyle\sum_c y_c

    Deviation: a row that the clamp leaves without a positive entry becomes uniform; the published division gives NaN.
    The moments of an optimiser know nothing of the projection, as published.

    Args:
        rows: (M, K) probabilities.

    Raises:
        ConfigError: rows that are no probabilities.
    """

    def __init__(self, rows: Tensor) -> None:
        check_probabilities(rows)
        super().__init__(rows)

    @torch.no_grad()
    def after_step(self) -> None:
        """Project every row."""
        rows = self.rows.clamp_(0, 1)
        total = rows.sum(1, keepdim=True)
        rows.copy_(torch.where(total == 0, torch.full_like(rows, 1 / rows.shape[1]), rows / total))

    @property
    def artifact_kind(self) -> ArtifactKind:
        """``soft``."""
        return "soft"


def check_probabilities(probabilities: Tensor) -> None:
    """Refuse rows (M, K) that are no probabilities."""
    total = probabilities.sum(1)
    if probabilities.min() < 0 or not torch.allclose(total, torch.ones_like(total), atol=1e-4):
        raise ConfigError("soft labels must be probabilities: every row non-negative with sum 1; normalise them first")


@in_range("synthesis")
def make_labels(
    kind: LabelKind | Tensor, classes: Tensor, num_classes: int, label_confidence: float, label_scale: Rate = 1.0
) -> Labels:
    """Build the targets of images whose classes are known.

    Args:
        kind: ``hard``; ``soft``, fixed probabilities; ``learned``, the softmax of free logits; ``projected``, learned
            rows that are projected on the simplex; ``free``, learned rows from ``label_scale`` times one-hot;
            ``centred``, the same from ``label_scale`` times (one-hot - 1/K); ``assigned``, by an objective; or an
            (M, K) tensor of probabilities, kept fixed.
        classes: (M,) int64 class of each image.
        num_classes: K.
        label_confidence: initial probability of the image's own class under ``soft``, ``learned`` and ``projected``;
            the rest is shared equally by the others.
        label_scale: factor of the start of ``free`` and ``centred`` rows.

    Raises:
        ConfigError: an unknown kind, a confidence outside (1/K, 1] (learned and projected rows may start at 1/K,
            uniform), a scale that is not positive, or rows that are no probabilities.
    """
    if isinstance(kind, Tensor):
        if kind.shape != (len(classes), num_classes):
            raise ConfigError(f"soft labels have shape {tuple(kind.shape)}, expected {(len(classes), num_classes)}")
        return SoftLabels(kind.float(), learned=False)
    if kind not in get_args(LabelKind):
        raise unknown_name("labels", kind, get_args(LabelKind))
    if label_scale != 1 and kind not in ("free", "centred"):
        raise ConfigError(
            f"synthesis.label_scale={label_scale} scales free and centred labels, these are '{kind}': leave it out"
        )
    if kind == "hard":
        return HardLabels(classes)
    if kind == "assigned":
        return AssignedLabels(classes, num_classes)
    if kind in ("free", "centred"):
        rows = F.one_hot(classes, num_classes).float()
        return FreeLabels(label_scale * (rows - 1 / num_classes if kind == "centred" else rows))
    uniform = kind in ("projected", "learned") and abs(label_confidence - 1 / num_classes) < UNIFORM_TOLERANCE
    if not (1 / num_classes < label_confidence <= 1 or uniform):
        raise ConfigError(f"synthesis.label_confidence={label_confidence} must lie in (1/{num_classes}, 1]")
    probabilities = torch.full((len(classes), num_classes), (1 - label_confidence) / (num_classes - 1))
    probabilities[torch.arange(len(classes)), classes] = label_confidence
    return ProjectedLabels(probabilities) if kind == "projected" else SoftLabels(probabilities, kind == "learned")
