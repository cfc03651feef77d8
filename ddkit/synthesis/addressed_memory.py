"""An addressed memory: bases shared by all classes, and matrices that combine them to images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ddkit.base.ranges import Count
from ddkit.data.distilled.limits import Decoding, check_learned, image_shape, required, whole
from ddkit.data.real import RealData
from ddkit.errors import ArtifactError, ConfigError
from ddkit.synthesis.base import ANY_SCALE, Synthesizer, registry, with_targets
from ddkit.synthesis.labels import LabelKind

#: Share of the budget that bases take where their number is not given: that of the published CIFAR-10 setting.
BASE_SHARE = 0.4
#: Sides from which bases are stored at half the resolution.
DOWNSAMPLED_FROM = 16


def rows_that_fit(num_classes: int, ipc: int, shape: Sequence[int], bases: int, downsample: int) -> int:
    r"""Return r, the addressing rows of each class for which the budget has room beside the bases; 0 or less for none.

    .. math:: r = \lfloor (\mathrm{ipc}\, C H W K - K_b\, C H W / d^2) \,/\, (K K_b) \rfloor
    """
    size = math.prod(shape)
    return (ipc * size * num_classes - bases * size // downsample**2) // (num_classes * bases)


def default_bases(num_classes: int, ipc: int, downsample: int) -> int:
    """Return K_b where it is not given: bases take about ``BASE_SHARE`` of the budget."""
    return max(1, round(BASE_SHARE * num_classes * ipc * downsample**2))


def recall(bases: Tensor, addressing: Tensor, shape: Sequence[int]) -> Tensor:
    r"""Combine bases and up-sample (Deng and Russakovsky 2022; survey Eq. 35): :math:`s_i = \mathrm{up}(A_i B)`.

    Args:
        bases: B (K_b, C, H / d, W / d).
        addressing: rows of A (M, K_b).
        shape: (C, H, W).

    Returns:
        (M, C, H, W), differentiable; bilinear with ``align_corners=False`` where d is above 1.
    """
    images = (addressing @ bases.flatten(1)).unflatten(1, bases.shape[1:])
    if tuple(bases.shape[1:]) == tuple(shape):
        return images
    return F.interpolate(images, size=tuple(shape[1:]), mode="bilinear", align_corners=False)


@registry.register("addressed-memory")
class AddressedMemory(Synthesizer):
    r"""Signed linear combinations of shared bases (RTP; Deng and Russakovsky 2022, NeurIPS, arXiv 2206.02916).

    A memory of :math:`K_b` bases B serves all classes; every class owns r rows of an addressing matrix A, each of which
    makes one training image, :math:`s_{c,i} = \mathrm{up}_d(A_{c,i} B)`. Bases may be stored at 1/d of the resolution.

    ``ipc`` is a budget: as many numbers as that many images per class have. Bases are paid first, addressing rows take
    the rest. Where ``bases`` is None they take 0.4 of the budget, which gives the published 16 for CIFAR-10 at IPC 1
    with d = 2 (and r = 115). Both tables are stored and counted.

    Both start Xavier uniform, as matrices (K_b, C H W / d²) and (r K, K_b): images are tiny at first, which a
    network with instance norm does not mind.

    Args:
        num_classes: K.
        ipc: budget in images per class.
        shape: (C, H, W).
        bases: K_b; None for 0.4 of the budget.
        rows: r, images of each class; None for all that fit.
        downsample: d, which divides H and W.
        labels: as for pixels, for decoded images.
        label_confidence: initial probability of the own class of soft, learned and projected labels.

    Raises:
        ConfigError: an option out of range, a budget without room for one row per class, or more images than memory
            holds.
    """

    name = "addressed-memory"
    image_like = ("bases",)
    inits = ("noise",)
    batch_images = 32

    #: Those of the published objective, and ddkit's choice for all others.
    optimisers: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "risk": {"name": "sgd", "lr": 0.1, "momentum": 0.5},
        ANY_SCALE: {"name": "adam", "lr": 0.01},
    }

    @classmethod
    def options_for(cls, data: RealData, ipc: int) -> dict[str, Any]:
        """Store bases at half the resolution from sides of 16 pixels on, where 2 divides them."""
        sides = data.shape[1:]
        halved = min(sides) >= DOWNSAMPLED_FROM and all(side % 2 == 0 for side in sides)
        return {"downsample": 2 if halved else 1}

    def __init__(
        self,
        num_classes: int,
        ipc: int,
        shape: tuple[int, int, int],
        bases: Count | None = None,
        rows: Count | None = None,
        downsample: Count = 1,
        labels: LabelKind | Tensor = "hard",
        label_confidence: float = 0.9,
    ) -> None:
        if shape[1] % downsample or shape[2] % downsample:
            raise ConfigError(
                f"synthesis.downsample={downsample} does not divide the sides of {shape[1]}x{shape[2]} images: choose "
                f"a common divisor, or 1"
            )
        sides = [shape[1] // downsample, shape[2] // downsample]
        count = bases or default_bases(num_classes, ipc, downsample)
        per_class = _checked_rows(max(1, num_classes), ipc, shape, count, downsample, rows)
        super().__init__(num_classes, ipc, shape, labels, label_confidence, decoded_per_class=per_class)
        self.bases = nn.Parameter(torch.zeros(count, shape[0], *sides))
        self.addressing = nn.Parameter(torch.zeros(len(self), count))

    def group_of(self, parameter: str) -> str:
        """Return ``images`` for bases, ``addressing``, or ``labels``."""
        return "addressing" if parameter == "addressing" else super().group_of(parameter)

    @property
    def views(self) -> int:
        """No image belongs to one stored basis."""
        return 1

    @property
    def pairing_inits(self) -> tuple[str, ...]:
        """No image starts from a real one."""
        return ()

    def decode(self, index: Tensor) -> Tensor:
        """Return the images at ``index`` (M,)."""
        return recall(self.bases, self.addressing[index], self.shape)

    def initialise(self, real: RealData, how: str, generator: torch.Generator) -> None:
        """Draw both tables."""
        self.check(real, how)
        with torch.no_grad():
            for table in (self.bases, self.addressing):
                bound = math.sqrt(6 / (len(table) + table[0].numel()))
                table.copy_(bound * (2 * torch.rand(table.shape, generator=generator) - 1))

    def options(self) -> dict[str, Any]:
        """Return the number of classes and the shape of an image."""
        return {"num_classes": self.num_classes, "shape": list(self.shape)}

    @staticmethod
    def decoding(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding:
        """Return what one product of both tables takes."""
        bases, addressing = required(stored, {"bases": 4, "addressing": 2})
        num_classes, shape = whole(options, "num_classes"), image_shape(options)
        if len(addressing) % num_classes or addressing.shape[1:] != bases.shape[:1]:
            raise ArtifactError(
                f"addressing of shape {tuple(addressing.shape)} does not fit {len(bases)} bases and {num_classes} "
                f"classes: write the file anew"
            )
        if bases.shape[1] != shape[0] or shape[1] % bases.shape[2] or shape[2] % bases.shape[3]:
            raise ArtifactError(
                f"bases of {tuple(bases.shape[1:])} do not make images of {tuple(shape)}: write the file anew"
            )
        return Decoding(len(addressing), shape, work=len(addressing) * bases.numel())

    @staticmethod
    def from_stored(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Decode all images; hard labels follow from the order."""
        num_classes, shape = whole(options, "num_classes"), image_shape(options)
        with torch.no_grad():
            images = recall(stored["bases"], stored["addressing"], shape).contiguous()
        return with_targets(images, stored, num_classes)


def _checked_rows(
    num_classes: int, ipc: int, shape: Sequence[int], bases: int, downsample: int, rows: int | None
) -> int:
    """Return the rows of each class: ``rows``, or as many as fit."""
    most = rows_that_fit(num_classes, ipc, shape, bases, downsample)
    budget, size = ipc * num_classes * math.prod(shape), math.prod(shape) // downsample**2
    if most < 1:
        raise ConfigError(
            f"ipc={ipc} is a budget of {budget:,} numbers; {bases} bases take {bases * size:,} of them and one row "
            f"per class {num_classes * bases:,}: lower synthesis.bases, or raise synthesis.downsample (now "
            f"{downsample}) or ipc"
        )
    if rows is not None and rows > most:
        raise ConfigError(
            f"synthesis.rows={rows} and {bases} bases take {bases * size + rows * num_classes * bases:,} numbers, "
            f"ipc={ipc} is a budget of {budget:,}: choose rows <= {most}"
        )
    count = most if rows is None else rows
    stored = bases * size + count * num_classes * bases
    remedy = "set synthesis.rows, or more bases"
    check_learned(f"{count} rows per class", num_classes * count * math.prod(shape), stored, remedy)
    return count
