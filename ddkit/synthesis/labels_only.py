"""Labels only: real images stay as they are and their labels are learned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.synthesis.base import ANY_SCALE, registry
from ddkit.synthesis.labels import LabelKind
from ddkit.synthesis.pixels import Pixels

#: Kinds of labels that an optimiser changes.
LEARNED = ("projected", "learned", "free", "centred")


@registry.register("labels-only")
class LabelsOnly(Pixels):
    r"""Fixed real images with learned labels (Bohdal et al. 2020, arXiv 2006.08572, "Flexible Dataset Distillation").

    The images :math:`\tilde X` are drawn once; survey Eq. 6-8 are solved for their labels :math:`\tilde Y` alone.
    Labels start uniform and are kept on the simplex by a clamp and a division. Images of some classes teach all of
    them, so ``classes`` may name fewer.

    Deviation: images come from the training data of the run; the published variant that labels images of another
    dataset is not offered.

    Args:
        num_classes: K.
        ipc: images of each class.
        shape: (C, H, W).
        labels: ``projected``, ``learned``, ``free`` or ``centred``.
        label_confidence: initial probability of the own class of learned and projected labels; None for uniform ones.
        label_scale: factor of the start of free and centred labels.
        classes: those that have images, ascending; None for all.

    Raises:
        ConfigError: labels that are not learned, or what :class:`~ddkit.synthesis.Pixels` refuses.
    """

    name = "labels-only"
    inits = ("real",)

    #: As published.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {ANY_SCALE: {"name": "adam", "lr": 0.001}}

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        labels: LabelKind | Tensor = "projected",
        label_confidence: float | None = None,
        label_scale: float = 1.0,
        classes: list[int] | None = None,
    ) -> None:
        if isinstance(labels, Tensor) or labels not in LEARNED:
            kind = "given rows" if isinstance(labels, Tensor) else labels
            raise ConfigError(
                f"synthesis.labels={kind} leaves labels-only nothing to learn: use {', '.join(LEARNED[:-1])} or "
                f"{LEARNED[-1]}"
            )
        confidence = 1 / max(1, num_classes) if label_confidence is None else label_confidence
        super().__init__(num_classes, ipc, shape, labels, confidence, label_scale, classes)
        self.images.requires_grad_(False)
