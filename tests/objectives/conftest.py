"""Objectives on toy data in float64, put together without the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ddkit import augment
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.models import ModelSpec
from ddkit.networks import FreshNetworks, Network, NetworkSource, RealSignal
from ddkit.objectives import Context, Objective
from ddkit.synthesis import Pixels
from ddkit.testing import toy_data


@pytest.fixture
def bench() -> Callable[..., tuple[Objective, Pixels, RealData]]:
    """Return a function that sets an objective up: (objective, synthesizer, data)."""

    def build(
        objective: Objective,
        *,
        model: str = "convnet:width=4,depth=2",
        data: RealData | None = None,
        ipc: int = 2,
        strategy: str = "none",
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        source: NetworkSource | None = None,
        **pixels: Any,
    ) -> tuple[Objective, Pixels, RealData]:
        data = data or toy_data(counts=(5, 7, 4))
        streams = Streams(seed)
        augmentation = augment.create(strategy)
        network = Network(ModelSpec.parse(model), data.shape, data.num_classes)
        network.module.to(dtype)
        signal = RealSignal()
        signal.setup(data, streams, augmentation, objective.real_batch)
        networks = source or FreshNetworks()
        synthesizer = Pixels(data.num_classes, ipc, data.shape, **pixels).to(dtype)
        synthesizer.initialise(data, "noise", torch.Generator().manual_seed(7))
        context = Context(data.num_classes, signal, network, augmentation, streams, networks=networks)
        networks.setup(context)
        objective.setup(context, synthesizer)
        return objective, synthesizer, data

    return build


def gradient_of(objective: Objective, synthesizer: Pixels, seed: int = 0) -> tuple[float, torch.Tensor]:
    """Run one backward pass from fresh streams: (loss, gradient of the pixels)."""
    objective.context.streams.load_state_dict({})
    objective.context.streams.seed = seed
    synthesizer.zero_grad()
    scalars = objective.backward(synthesizer)
    assert synthesizer.images.grad is not None
    return scalars["loss"], synthesizer.images.grad.clone()


def central_difference(objective: Objective, synthesizer: Pixels, index: tuple[int, ...], step: float) -> float:
    """Differentiate the loss numerically with respect to one pixel."""
    losses = []
    for sign in (1, -1):
        with torch.no_grad():
            synthesizer.images[index] += sign * step
        losses.append(gradient_of(objective, synthesizer)[0])
        with torch.no_grad():
            synthesizer.images[index] -= sign * step
    return (losses[0] - losses[1]) / (2 * step)
