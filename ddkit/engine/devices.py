"""In which number format a job on real data runs, and whether it is compiled."""

from __future__ import annotations

from typing import Literal

import torch

from ddkit.base.precision import Precision, PrecisionName, pass_cost, resolve_precision
from ddkit.data.real import RealData
from ddkit.models.spec import ModelSpec


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
