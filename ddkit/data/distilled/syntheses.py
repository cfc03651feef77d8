"""Which syntheses are there, by the names that a file gives them, and how are their stored tensors decoded?

A file knows its synthesis by name only. The package that brings a synthesis lists it in the entry point group
``ddkit.synthesis``, so that its sets open wherever that package is installed, imported or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from ddkit.base.registry import Registry
from ddkit.data.distilled.limits import Decoding, check_decoding
from ddkit.errors import ArtifactError, UnknownNameError

#: Classes of :class:`~ddkit.synthesis.Synthesizer`, of which this room uses no more than :class:`Decoder` names.
registry: Registry[Any] = Registry("synthesis", "ddkit.synthesis")


class Decoder(Protocol):
    """What a file asks of its synthesis."""

    #: Stored tensors that look like images, which a codec may keep in few bits.
    image_like: tuple[str, ...]

    @staticmethod
    def decoding(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> Decoding | None:
        """See :meth:`ddkit.synthesis.Synthesizer.decoding`."""

    @staticmethod
    def from_stored(stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """See :meth:`ddkit.synthesis.Synthesizer.from_stored`."""


def decoder(name: str, package: str | None = None) -> Decoder:
    """Return what decodes sets of the synthesis called ``name``.

    Args:
        name: as a file gives it.
        package: that brings it, as far as the file says so.

    Raises:
        ArtifactError: no installed package has one.
    """
    try:
        found: Decoder = registry.get(name)
    except UnknownNameError:
        which = f"install the package '{package}', which registers it" if package else "install the one that does"
        raise ArtifactError(
            f"no installed package registers synthesis '{name}', by which this set was made: {which}, and load again"
        ) from None
    return found


def decode(
    name: str,
    stored: Mapping[str, Tensor],
    options: Mapping[str, Any],
    announced: int | None = None,
    package: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Decode the stored tensors of an artifact made by the synthesis called ``name``: (images, targets).

    Args:
        name: of the synthesis.
        stored: tensors by name.
        options: of its decoding.
        announced: images that the budget of the artifact counts; None where there is no budget.
        package: that brings the synthesis, as far as the file says so.

    Raises:
        ArtifactError: an unknown synthesis, tensors and options that contradict each other, or that would take too much
            memory or time; found out from shapes and options alone.
    """
    how = decoder(name, package)
    expected = how.decoding(stored, options)
    if expected is not None:
        check_decoding(expected, stored, announced)
    return how.from_stored(stored, options)
