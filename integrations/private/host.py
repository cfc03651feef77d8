"""What of Opacus does the adapter use? No other file of it imports the library."""

from __future__ import annotations

from ddkit.errors import MissingExtraError

try:
    from opacus import GradSampleModule, PrivacyEngine
    from opacus.accountants import create_accountant
    from opacus.validators import ModuleValidator
except ImportError as error:
    raise MissingExtraError("differentially private distillation with Opacus", "private") from error

__all__ = ["GradSampleModule", "ModuleValidator", "PrivacyEngine", "create_accountant"]
