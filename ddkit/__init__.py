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
    from ddkit.artifact import DistilledDataset
    from ddkit.data import RealData
    from ddkit.engine import Distiller
    from ddkit.evaluation.evaluate import evaluate

    __version__: str

_LAZY = {
    "DistilledDataset": "ddkit.artifact",
    "Distiller": "ddkit.engine",
    "RealData": "ddkit.data",
    "evaluate": "ddkit.evaluation",
}
_MODULES = {
    "augment",
    "coresets",
    "data",
    "engine",
    "evaluation",
    "kernels",
    "methods",
    "models",
    "networks",
    "objectives",
    "report",
    "synthesis",
    "testing",
}

__all__ = ["DistilledDataset", "Distiller", "RealData", "__version__", "evaluate"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _MODULES:
        return import_module(f"ddkit.{name}")
    if name == "__version__":
        return _version()
    raise AttributeError(f"module 'ddkit' has no attribute '{name}'")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ddkit")
    except PackageNotFoundError:
        return "unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_MODULES})
