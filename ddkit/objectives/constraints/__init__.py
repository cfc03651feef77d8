"""What synthetic images must fulfil beside the objective, whichever that is."""

from ddkit.objectives.constraints.base import Constraint, registry
from ddkit.objectives.constraints.contrast import ContrastiveConstraint, supervised_contrastive

__all__ = ["Constraint", "ContrastiveConstraint", "registry", "supervised_contrastive"]
