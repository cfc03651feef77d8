"""The engine: the one outer loop with its callbacks, checkpoints and run folders."""

from ddkit.base.device import resolve_device
from ddkit.engine.callbacks import (
    Callback,
    EarlyStop,
    ImageGrids,
    JsonlMetrics,
    PeriodicEvaluation,
    ProgressBar,
    ProgressLines,
    TensorBoard,
    read_lines,
)
from ddkit.engine.distiller import Distiller
from ddkit.engine.run import Run, RunFolder, environment, peak_memory_bytes
from ddkit.engine.session import Session

__all__ = [
    "Callback",
    "Distiller",
    "EarlyStop",
    "ImageGrids",
    "JsonlMetrics",
    "PeriodicEvaluation",
    "ProgressBar",
    "ProgressLines",
    "Run",
    "RunFolder",
    "Session",
    "TensorBoard",
    "environment",
    "peak_memory_bytes",
    "read_lines",
    "resolve_device",
]
