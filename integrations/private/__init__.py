"""Differentially private distillation with Opacus's accountants and per-sample gradients.

>>> from ddkit.integrations.private import PrivateDistiller
>>> distiller = PrivateDistiller(epsilon=1, ipc=10)
>>> distilled = distiller.fit(train)
>>> print(distiller.report().as_text())
"""

from ddkit.integrations.private.accounting import calibrate, plan_epsilon, replace_one_epsilon
from ddkit.integrations.private.budget import Plan, PrivacyBudget, PrivacyBudgetError
from ddkit.integrations.private.data import PrivateData
from ddkit.integrations.private.distiller import PrivateDistiller
from ddkit.integrations.private.independent import Queries, gaussian_epsilon, independent_epsilon
from ddkit.integrations.private.report import PrivacyReport
from ddkit.integrations.private.signals import (
    OneShotMeans,
    PrivateSignal,
    SampledGradient,
    SampledMeans,
    SampledTargets,
)

__all__ = [
    "OneShotMeans",
    "Plan",
    "PrivacyBudget",
    "PrivacyBudgetError",
    "PrivacyReport",
    "PrivateData",
    "PrivateDistiller",
    "PrivateSignal",
    "Queries",
    "SampledGradient",
    "SampledMeans",
    "SampledTargets",
    "calibrate",
    "gaussian_epsilon",
    "independent_epsilon",
    "plan_epsilon",
    "replace_one_epsilon",
]
