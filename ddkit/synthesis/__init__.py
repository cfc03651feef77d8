"""What is learned: pixels and, by extension, every factorised form of a synthetic dataset."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ddkit.synthesis.addressed_memory import AddressedMemory
from ddkit.synthesis.base import Synthesizer, registry
from ddkit.synthesis.decoders import SharedDecoders
from ddkit.synthesis.formation import MultiFormation
from ddkit.synthesis.gan import GANCodes
from ddkit.synthesis.hallucinators import Hallucinators
from ddkit.synthesis.labels import AssignedLabels, FreeLabels, HardLabels, Labels, ProjectedLabels, SoftLabels
from ddkit.synthesis.labels_only import LabelsOnly
from ddkit.synthesis.limits import Decoding, check_decoding
from ddkit.synthesis.mapped import MappedPixels
from ddkit.synthesis.pixels import Pixels, check_ipc_fits, class_means
from ddkit.synthesis.teaching_generator import TeachingGenerator


def decode(name: str, stored: Mapping[str, Tensor], options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Decode the stored tensors of an artifact made by the synthesizer called ``name``: (images, targets).

    Raises:
        ArtifactError: as :func:`require_decodable`.
    """
    require_decodable(name, stored, options)
    return registry.get(name).from_stored(stored, options)


def require_decodable(
    name: str, stored: Mapping[str, Tensor], options: Mapping[str, Any], announced: int | None = None
) -> None:
    """Refuse what :func:`decode` should not try, from shapes and options alone.

    Args:
        name: of the synthesizer.
        stored: tensors by name.
        options: of its decoding.
        announced: images that the budget of the artifact counts; None where there is no budget.

    Raises:
        ArtifactError: tensors and options that contradict each other, or that would take too much memory or time.
    """
    decoding = registry.get(name).decoding(stored, options)
    if decoding is not None:
        check_decoding(decoding, stored, announced)


__all__ = [
    "AddressedMemory",
    "AssignedLabels",
    "Decoding",
    "FreeLabels",
    "GANCodes",
    "Hallucinators",
    "HardLabels",
    "Labels",
    "LabelsOnly",
    "MappedPixels",
    "MultiFormation",
    "Pixels",
    "ProjectedLabels",
    "SharedDecoders",
    "SoftLabels",
    "Synthesizer",
    "TeachingGenerator",
    "check_ipc_fits",
    "class_means",
    "decode",
    "registry",
    "require_decodable",
]
