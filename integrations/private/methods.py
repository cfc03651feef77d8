"""Which methods have a private form, and with which settings?

Every setting here was chosen on public considerations or on other data than those it is applied to; choosing them on
the private records would be a query.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.private.data import PrivateData
from ddkit.integrations.private.signals import (
    OneShotMeans,
    PrivateSignal,
    SampledGradient,
    SampledMeans,
    SampledTargets,
)
from ddkit.methods.dc import loops

#: Why other methods are refused, by family; everything else lacks a query that could be noised.
_LEAKS = {
    "coreset": "it returns real images",
    "trajectory matching": "its experts are trained on the real images without noise",
    "meta-learning": "every inner loop is differentiated through real batches",
}


@dataclass(frozen=True)
class PrivateMethod:
    """A private form of a method of ddkit.

    Args:
        base: the method whose preset it starts from.
        paper: what it follows.
        steps: outer steps.
        batch: expected records per query; None for one query to all records.
        settings: maps (records, ipc, steps, networks) to overrides of the preset.
        signal: builds the signal from (private, sigma, max_norm, rate, count_weight).
    """

    base: str
    paper: str
    steps: Callable[[int], int]
    batch: int | None
    settings: Callable[[RealData, int, int], Mapping[str, Any]]
    signal: Callable[[PrivateData, float, float | None, float, float], PrivateSignal]

    def queries(self, steps: int) -> int:
        """Return how many queries ``steps`` outer steps ask."""
        return 1 if self.batch is None else steps


_COMMON: dict[str, Any] = {"init": "noise", "augmentation": "none", "compile": False, "precision": "float32"}


def _one_shot(public: RealData, ipc: int, networks: int) -> dict[str, Any]:
    return {
        **_COMMON,
        "networks": {"name": "fixed", "count": networks},
        "model": "convnet:width=16",
        "optimiser": {"name": "adam", "lr": 0.1, "schedule": "cosine"},
    }


def _iterated(public: RealData, ipc: int, networks: int) -> dict[str, Any]:
    return {
        **_COMMON,
        "model": "convnet:width=16",
        "optimiser": {"name": "adam", "lr": 0.03, "schedule": "cosine"},
    }


def _psg(public: RealData, ipc: int, networks: int) -> dict[str, Any]:
    outer, inner = loops(ipc)
    return {
        **_COMMON,
        "objective": {"name": "gradient", "metric": "ours", "level": "batch"},
        "networks": {"name": "synthetic-trained", "outer_loop": outer, "inner_epochs": inner, "updates": 10},
        "model": "convnet:width=16",
        "optimiser": {"name": "sgd", "lr": 0.1, "momentum": 0.5},
    }


def _kip(public: RealData, ipc: int, networks: int) -> dict[str, Any]:
    return {
        **_COMMON,
        "objective": {"name": "kernel", "per_record": True, "balanced": False, "loss": "mse", "regulariser": 1e-3},
        "optimiser": {"name": "adam", "lr": 0.03},
    }


METHODS: dict[str, PrivateMethod] = {
    "dp-dm": PrivateMethod(
        "dm",
        "Harder, Adamczewski and Park 2021 (DP-MERF); Zhao and Bilen 2023 (DM)",
        lambda ipc: 1500,
        None,
        _one_shot,
        lambda private, sigma, max_norm, rate, weight: OneShotMeans(private, sigma, weight),
    ),
    "dp-dm-iterated": PrivateMethod(
        "dm",
        "Zheng and Li 2023 (NDPDC)",
        lambda ipc: 1000,
        500,
        _iterated,
        lambda private, sigma, max_norm, rate, weight: SampledMeans(private, sigma, max_norm, rate),
    ),
    "psg": PrivateMethod(
        "dc",
        "Chen, Kerkouche and Fritz 2022, NeurIPS (PSG)",
        lambda ipc: 1000 * loops(ipc)[0] * 10,
        256,
        _psg,
        lambda private, sigma, max_norm, rate, weight: SampledGradient(
            private, sigma, 0.1 if max_norm is None else max_norm, rate
        ),
    ),
    "dp-kip": PrivateMethod(
        "kip",
        "Vinaroz and Park 2023 (DP-KIP)",
        lambda ipc: 500,
        64,
        _kip,
        lambda private, sigma, max_norm, rate, weight: SampledTargets(
            private, sigma, 1e-6 if max_norm is None else max_norm, rate
        ),
    ),
}


def get(name: str) -> PrivateMethod:
    """Return a private method by name.

    Raises:
        ConfigError: no private form, with the reason where the name is a method of ddkit.
    """
    from ddkit import methods as plain

    key = str(name).lower()
    if key in METHODS:
        return METHODS[key]
    known = ", ".join(sorted(METHODS))
    if key in plain.registry:
        reason = _LEAKS.get(plain.get(key).family, "no query of it is bounded and noised")
        raise ConfigError(f"method '{name}' has no private form, as {reason}: choose among {known}")
    raise ConfigError(f"unknown private method '{name}': choose among {known}")


def rate_of(method: PrivateMethod, batch: int | None, records: int) -> float:
    """Return the sampling rate of a query.

    Raises:
        ConfigError: a batch where all records are asked once, or one that is not between 1 and all records.
    """
    if method.batch is None:
        if batch is not None:
            raise ConfigError(f"batch={batch} with one release to all records: leave it out")
        return 1.0
    size = min(method.batch, math.ceil(records / 4)) if batch is None else batch
    if not 1 <= size <= records:
        raise ConfigError(f"batch={batch}: the expected size of a Poisson sample lies between 1 and {records} records")
    return size / records
