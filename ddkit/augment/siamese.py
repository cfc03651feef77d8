"""How differentiable Siamese augmentation (DSA) combines families: one of them is drawn."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ddkit.augment.families import FamilyAugmentation


class SiameseAugmentation(FamilyAugmentation):
    """Differentiable Siamese augmentation, Zhao & Bilen 2021 (https://arxiv.org/abs/2102.08259).

    One family of the strategy is drawn uniformly and only that family is applied. In the Siamese form
    (:meth:`draw`, :meth:`apply`) real and synthetic images of a class share family and parameters:

        sum over c of D( grad CE(A(S_c; w_c)), grad CE(A(B_c; w_c)) )

    In the training form (:meth:`train`) a mini-batch shares the family, parameters are drawn per image.
    Arguments, ranges and errors are those of :class:`~ddkit.augment.families.FamilyAugmentation`; families are
    joined by underscores, as in ``color_crop_cutout_flip_scale_rotate``.
    """

    kind: ClassVar[str] = "Siamese"
    separator: ClassVar[str] = "_"
    uniforms: ClassVar[int] = 3

    @property
    def drawn(self) -> tuple[str, ...]:
        """All listed families."""
        return self.families

    def _transform(self, blocks: Tensor, family: Tensor, uniform: Tensor) -> Tensor:
        return self._one_of(self.drawn, blocks, family, uniform)
