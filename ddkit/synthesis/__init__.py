"""What is learned: pixels and, by extension, every factorised form of a synthetic dataset."""

from ddkit.data.distilled.limits import Decoding
from ddkit.data.distilled.syntheses import decode
from ddkit.synthesis.addressed_memory import AddressedMemory
from ddkit.synthesis.base import ANY_SCALE, Synthesizer, registry
from ddkit.synthesis.decoders import SharedDecoders
from ddkit.synthesis.formation import MultiFormation
from ddkit.synthesis.gan.codes import GANCodes
from ddkit.synthesis.hallucinators import Hallucinators
from ddkit.synthesis.labels import AssignedLabels, FreeLabels, HardLabels, Labels, ProjectedLabels, SoftLabels
from ddkit.synthesis.labels_only import LabelsOnly
from ddkit.synthesis.mapped import MappedPixels
from ddkit.synthesis.pixels import Pixels, check_ipc_fits, class_means
from ddkit.synthesis.teaching_generator import TeachingGenerator

__all__ = [
    "ANY_SCALE",
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
]
