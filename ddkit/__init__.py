"""ddkit: learn a tiny synthetic dataset that trains models almost as well as the full one.

>>> import ddkit
>>> train, test = ddkit.data.load_pair("digits")
>>> distilled = ddkit.Distiller("dm", ipc=10).fit(train)
>>> ddkit.evaluate(distilled, test)

Nothing heavy is imported until it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddkit.base.version import __version__
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.data.real import RealData
    from ddkit.engine.distiller import Distiller
    from ddkit.evaluation.evaluate import evaluate

_LAZY = {
    "__version__": "ddkit.base.version",
    "DistilledDataset": "ddkit.data.distilled.dataset",
    "Distiller": "ddkit.engine",
    "RealData": "ddkit.data",
    "evaluate": "ddkit.evaluation",
}
_MODULES = {
    "augment",
    "data",
    "engine",
    "evaluation",
    "methods",
    "models",
    "networks",
    "objectives",
    "synthesis",
    "testing",
    "training",
}

__all__ = ["DistilledDataset", "Distiller", "RealData", "__version__", "evaluate"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"ddkit.{name}")
    raise AttributeError(f"module 'ddkit' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_MODULES})
