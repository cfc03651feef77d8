"""What of Avalanche does the adapter use? No other file of it imports the library.

Importing Avalanche takes seconds and a gigabyte of memory, imports Weights & Biases, whose reporting is switched off
here unless the user has set it, and writes ``~/.avalanche/config.json`` once, where its downloads would go; ddkit
downloads nothing through it.
"""

from __future__ import annotations

import os
import warnings

from ddkit.errors import MissingExtraError

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of solvers and deprecations in what Avalanche imports
        from avalanche.benchmarks import class_incremental_benchmark
        from avalanche.benchmarks.scenarios.online import OnlineCLExperience
        from avalanche.benchmarks.utils import AvalancheDataset, as_taskaware_classification_dataset
        from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels
        from avalanche.benchmarks.utils.transform_groups import TransformGroups
        from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
        from avalanche.training.storage_policy import ClassBalancedBuffer, ExemplarsBuffer, ReservoirSamplingBuffer
        from avalanche.training.supervised import Naive
except ImportError as error:
    raise MissingExtraError("continual learning with Avalanche", "continual") from error

__all__ = [
    "AvalancheDataset",
    "ClassBalancedBuffer",
    "DataAttribute",
    "EvaluationPlugin",
    "ExemplarsBuffer",
    "Naive",
    "OnlineCLExperience",
    "ReplayPlugin",
    "ReservoirSamplingBuffer",
    "SupervisedPlugin",
    "TaskLabels",
    "TransformGroups",
    "as_taskaware_classification_dataset",
    "class_incremental_benchmark",
]
