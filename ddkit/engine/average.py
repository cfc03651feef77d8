"""The moving average of what a synthesizer learns."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ddkit.base.config import DistillConfig
from ddkit.synthesis.base import Synthesizer

#: Share of the starting point in a moving average from which on the user is warned.
SLOW_AVERAGE = 0.05


def _learnable(synthesizer: Synthesizer) -> dict[str, nn.Parameter]:
    """Return the parameters that are updated, by name: all but those of frozen decoders."""
    return {name: parameter for name, parameter in synthesizer.named_parameters() if parameter.requires_grad}


class Average:
    """An exponential moving average of a synthesizer's parameters, starting from its starting point."""

    def __init__(self, synthesizer: Synthesizer, decay: float) -> None:
        self.decay = decay
        self.restart(synthesizer)

    def restart(self, synthesizer: Synthesizer) -> None:
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in _learnable(synthesizer).items()}

    @torch.no_grad()
    def update(self, synthesizer: Synthesizer) -> None:
        for name, parameter in _learnable(synthesizer).items():
            self.values[name].lerp_(parameter, 1 - self.decay)

    @contextmanager
    def in_place_of(self, synthesizer: Synthesizer) -> Iterator[None]:
        """Let ``synthesizer`` hold the averages for a while."""
        learnable = _learnable(synthesizer)
        present = {name: parameter.data for name, parameter in learnable.items()}
        try:
            for name, parameter in learnable.items():
                parameter.data = self.values[name]
            yield
        finally:
            for name, parameter in learnable.items():
                parameter.data = present[name]

    def state_dict(self) -> dict[str, Tensor]:
        return self.values

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(state[name])


def warn_of_a_slow_average(config: DistillConfig) -> None:
    """Warn when a moving average would still hold much of its starting point at the end of the run."""
    if config.ema is None or config.ema**config.steps <= SLOW_AVERAGE:
        return
    warnings.warn(
        f"ema={config.ema} over {config.steps} steps leaves {config.ema**config.steps:.0%} of the starting point in "
        f"the result: run more steps, or choose ema <= {SLOW_AVERAGE ** (1 / max(1, config.steps)):.4g}",
        stacklevel=2,
    )
