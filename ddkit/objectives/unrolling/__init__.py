"""Gradients of what a student has become with respect to what it was trained on."""

from ddkit.objectives.unrolling.adjoint import Adjoint
from ddkit.objectives.unrolling.automatic import Automatic
from ddkit.objectives.unrolling.base import MetaGradient, Unrolled, registry
from ddkit.objectives.unrolling.checkpointed import Checkpointed
from ddkit.objectives.unrolling.full import FullUnroll
from ddkit.objectives.unrolling.problem import Batch, InnerProblem, Terminal, distance_to
from ddkit.objectives.unrolling.tesla import Tesla

__all__ = [
    "Adjoint",
    "Automatic",
    "Batch",
    "Checkpointed",
    "FullUnroll",
    "InnerProblem",
    "MetaGradient",
    "Terminal",
    "Tesla",
    "Unrolled",
    "distance_to",
    "registry",
]
