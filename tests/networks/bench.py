"""Network sources on toy data, put together without the engine."""

from __future__ import annotations

from typing import TypeVar

import torch

from ddkit import augment
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.models import ModelSpec
from ddkit.networks import Network, NetworkSource, RealSignal
from ddkit.objectives import Context
from ddkit.synthesis import Pixels
from ddkit.testing import toy_data

Source = TypeVar("Source", bound=NetworkSource)


def ready(
    source: Source, seed: int = 0, *, strategy: str = "none", data: RealData | None = None
) -> tuple[Source, Pixels]:
    """Set ``source`` up on toy data: (source, synthetic set)."""
    data, streams, augmentation = data or toy_data(), Streams(seed), augment.create(strategy)
    network = Network(ModelSpec.parse("convnet:width=4,depth=1"), data.shape, data.num_classes)
    signal = RealSignal()
    signal.setup(data, streams, augmentation, 4)
    source.setup(Context(data.num_classes, signal, network, augmentation, streams, networks=source))
    pixels = Pixels(data.num_classes, 2, data.shape)
    pixels.initialise(data, "real", torch.Generator().manual_seed(0))
    return source, pixels


def present(source: NetworkSource) -> torch.Tensor:
    """Return the weights that the network holds now."""
    return torch.cat([p.detach().flatten() for p in source.network.module.parameters()])


def weights(source: NetworkSource) -> torch.Tensor:
    """Return the weights of the network of this outer step."""
    source.current()
    return present(source)


def walk(source: NetworkSource, pixels: Pixels, steps: int) -> list[torch.Tensor]:
    """Take outer steps and return the weights that each of them saw."""
    seen = []
    for _ in range(steps):
        seen.append(weights(source))
        source.after_step(pixels, last=False)
    return seen


def same_after_resuming(build: type[NetworkSource], options: dict[str, object], before: int, after: int) -> None:
    """Require that a source whose state was saved after ``before`` steps goes on as if nothing had happened."""
    source, pixels = ready(build(**options))
    walk(source, pixels, before)
    state, streams = source.state_dict(), source.streams.state_dict()
    expected = walk(source, pixels, after)
    other, pixels = ready(build(**options), seed=7)
    other.load_state_dict(state)
    other.streams.seed = 0
    other.streams.load_state_dict(streams)
    for mine, theirs in zip(walk(other, pixels, after), expected, strict=True):
        assert torch.equal(mine, theirs)
    assert other.drawn == source.drawn
