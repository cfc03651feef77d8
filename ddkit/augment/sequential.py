"""How the sequential augmentation (IDC's) combines families: one after the other, one geometric one among them."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ddkit.augment.families import FamilyAugmentation

GEOMETRY = ("crop", "scale", "rotate")
"""The families of which a sequential augmentation applies exactly one."""

# Which uniforms of a row belong to which step; a row has all of them whatever the strategy lists.
_FLIP, _COLOR, _GEOMETRY, _CUTOUT = slice(0, 1), slice(1, 4), slice(4, 6), slice(6, 8)


class SequentialAugmentation(FamilyAugmentation):
    """The augmentation of IDC, Kim et al. 2022 (https://arxiv.org/abs/2205.14959).

    Applies, as far as they are listed and in this order whatever the order of the list,

        cutout( one of {crop, scale, rotate} ( color ( flip ( x ) ) ) )

    where flip mirrors with :attr:`flip_probability`, color applies brightness, saturation and contrast, and
    one of the *listed* geometric families is drawn uniformly. Shared like the Siamese form (:meth:`draw`,
    :meth:`apply`): all images of a group get the same geometric family and the same parameters. In the
    training form (:meth:`train`) a mini-batch shares the geometric family, all parameters are drawn per image,
    as the authors' code does. Arguments, ranges and errors are those of
    :class:`~ddkit.augment.families.FamilyAugmentation`; families are joined by plus signs, as in
    ``color+crop+cutout``.
    """

    kind: ClassVar[str] = "sequential"
    separator: ClassVar[str] = "+"
    uniforms: ClassVar[int] = 8

    @property
    def drawn(self) -> tuple[str, ...]:
        """The listed families among crop, scale and rotate, in the order of the list."""
        return tuple(family for family in self.families if family in GEOMETRY)

    def _transform(self, blocks: Tensor, family: Tensor, uniform: Tensor) -> Tensor:
        if "flip" in self.families:
            blocks = self._flip(blocks, uniform[:, _FLIP])
        if "color" in self.families:
            blocks = self._color(blocks, uniform[:, _COLOR])
        if self.drawn:
            blocks = self._one_of(self.drawn, blocks, family, uniform[:, _GEOMETRY])
        if "cutout" in self.families:
            blocks = self._cutout(blocks, uniform[:, _CUTOUT])
        return blocks
