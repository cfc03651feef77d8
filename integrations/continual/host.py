"""What of Avalanche does the adapter use? No other file of it imports the library.

Importing Avalanche takes seconds and a gigabyte of memory, imports Weights & Biases, whose reporting is switched off
here unless the user has set it, and would write ``~/.avalanche/config.json``, which says where its downloads go; see
:func:`_without_writing_at_home`.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
import warnings
from pathlib import Path
from types import ModuleType
from unittest import mock

from ddkit.errors import MissingExtraError

os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

_SETTINGS_MODULE = "avalanche.benchmarks.datasets.dataset_utils"


def _without_writing_at_home() -> ModuleType | None:
    """Load the module that writes Avalanche's configuration, before the rest, with a home folder of the moment.

    It alone sees that folder; afterwards it has the paths and the defaults that it always has, and no file exists.
    None where there is nothing to avoid: the user's file exists, or Avalanche has been imported before.
    """
    home = Path("~/.avalanche").expanduser()
    found = None if "avalanche" in sys.modules else importlib.util.find_spec("avalanche")
    if found is None or found.origin is None or (home / "config.json").exists():
        return None
    path = Path(found.origin).parent.joinpath(*_SETTINGS_MODULE.split(".")[1:]).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(_SETTINGS_MODULE, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, HOME=folder, USERPROFILE=folder):
        spec.loader.exec_module(module)
    module.AVALANCHE_CONFIG_ROOT = str(home)  # type: ignore[attr-defined]
    module.AVALANCHE_CONFIG_FILENAME = str(home / "config.json")  # type: ignore[attr-defined]
    module.AVALANCHE_CONFIG["dataset_location"] = str(home / "data")
    sys.modules[_SETTINGS_MODULE] = module
    return module


try:
    _settings_module = _without_writing_at_home()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of solvers and deprecations in what Avalanche imports
        from avalanche.benchmarks import class_incremental_benchmark
        from avalanche.benchmarks.scenarios.online import OnlineCLExperience
        from avalanche.benchmarks.utils import AvalancheDataset, as_taskaware_classification_dataset
        from avalanche.benchmarks.utils.data_attribute import DataAttribute, TaskLabels, TensorDataAttribute
        from avalanche.benchmarks.utils.flat_data import FlatData
        from avalanche.benchmarks.utils.transform_groups import TransformGroups
        from avalanche.models import MultiTaskModule
        from avalanche.models.utils import avalanche_forward, is_multi_task_module
        from avalanche.training.plugins import EvaluationPlugin, MIRPlugin, ReplayPlugin, SupervisedPlugin
        from avalanche.training.storage_policy import ClassBalancedBuffer, ExemplarsBuffer, ReservoirSamplingBuffer
        from avalanche.training.supervised import DER, ER_ACE, ER_AML, Naive
    if _settings_module is not None:
        sys.modules["avalanche.benchmarks.datasets"].dataset_utils = _settings_module  # type: ignore[attr-defined]
except ImportError as error:
    raise MissingExtraError("continual learning with Avalanche", "continual") from error

__all__ = [
    "DER",
    "ER_ACE",
    "ER_AML",
    "AvalancheDataset",
    "ClassBalancedBuffer",
    "DataAttribute",
    "EvaluationPlugin",
    "ExemplarsBuffer",
    "FlatData",
    "MIRPlugin",
    "MultiTaskModule",
    "Naive",
    "OnlineCLExperience",
    "ReplayPlugin",
    "ReservoirSamplingBuffer",
    "SupervisedPlugin",
    "TaskLabels",
    "TensorDataAttribute",
    "TransformGroups",
    "as_taskaware_classification_dataset",
    "avalanche_forward",
    "class_incremental_benchmark",
    "is_multi_task_module",
]
