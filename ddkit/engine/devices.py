"""On which device a run takes place, in which number format, and whether it is compiled."""

from __future__ import annotations

from typing import Literal

import torch

from ddkit.data import RealData
from ddkit.errors import ConfigError
from ddkit.models import ModelSpec
from ddkit.precision import Precision, PrecisionName, pass_cost, resolve_precision


def resolve_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` takes an accelerator where there is one.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"unknown device '{name}': choose auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        raise ConfigError(f"device '{name}' is not on this machine: choose cpu or auto")
    return device


def precision_for(
    model: str,
    real: RealData,
    passes: float,
    device: torch.device,
    precision: PrecisionName = "auto",
    compile: bool | Literal["auto"] = "auto",
) -> Precision:
    """Decide how a job runs that sends ``passes`` images of ``real`` through ``model``.

    Args:
        model: text of a model spec.
        real: the data, for their shape and number of classes.
        passes: forward passes of single images; one with a backward pass counts three.
        device: where the job runs.
        precision: number format, or ``auto``.
        compile: whether to compile, or ``auto``.
    """
    network = ModelSpec.parse(model).build(real.shape, real.num_classes, seed=0)
    return resolve_precision(precision, compile, passes=passes, cost=pass_cost(network, real.shape), device=device)
