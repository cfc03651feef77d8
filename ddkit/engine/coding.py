"""Optimise through a codec, within a number of bytes: the objective sees what the file will decode to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ddkit.base.config import Piece
from ddkit.codecs.base import Codec, Grid, registry
from ddkit.data.distilled.coding import code
from ddkit.errors import ConfigError
from ddkit.synthesis.base import Synthesizer

#: Outer steps between two fits of the codec's ranges, and steps at the end for which they stay.
REFIT, FROZEN = 50, 50
#: Halvings in the search for the largest change of the start that fits the bytes.
_HALVINGS = 6


class StraightThrough:
    r"""Lets a synthesizer hold its decoded images while an objective looks at them.

    .. math:: x' = \mathrm{decode}(\mathrm{encode}(x)), \qquad x \leftarrow x - \eta \, \nabla_{x'} L(x')

    The gradient at the decoded images moves those before coding (the straight-through estimator), so that steps too
    small for the codec add up. They stay within half a step of the ends of the codec's range, as what drifts further
    neither shows nor finds back: on 8x8 digits at one bit, ten a class, 200 steps of ``dm`` at rate 10 end at 91.4 % of
    held-out training images with these ends, at 87.4 % without. What is not an image (decoders, addressing matrices) is
    coded at the end only. Ranges are fitted anew every ``REFIT`` steps and stay for the last ``FROZEN``.

    Matching adds detail that costs bytes. Where they are limited, the images are pulled back towards their start
    whenever the ranges are fitted, :math:`x \leftarrow x_0 + \lambda (x - x_0)` with the largest :math:`\lambda` that
    fits: changes below half a step of the codec then leave the symbols of the start, which fit.

    Args:
        synthesizer: whose image-like parameters go through the codec.
        codec: and its options.
        steps: of the run.
        available: most bytes of the payload; None for no limit.
        beside: bytes that come on top of the coded tensors (whitening).

    Raises:
        ConfigError: an unknown codec or option, or images that the codec cannot hold.
    """

    def __init__(
        self, synthesizer: Synthesizer, codec: Piece, steps: int, available: int | None = None, beside: int = 0
    ) -> None:
        self.codec: Codec = registry.create(codec.name, codec.options)
        self.text, self.steps, self.available, self.beside = codec.text, steps, available, beside
        self.synthesizer = synthesizer
        own = dict(synthesizer.named_parameters())
        self.images: dict[str, nn.Parameter] = {
            name: own[name] for name in synthesizer.image_like if name in own and own[name].ndim == 4
        }
        for parameter in self.images.values():
            self.codec.fit(torch.zeros(1, *parameter.shape[1:]))
        #: State of the synthesizer at its start.
        self.start: dict[str, Tensor] = {}
        #: What the present grids were fitted to: fitting them again gives the same.
        self.fitted_to: dict[str, Tensor] = {}
        self.grids: dict[str, Grid] = {}

    def begin(self) -> None:
        """Take what the synthesizer holds as the start.

        Raises:
            ConfigError: its coded form takes more bytes than there are, or the codec cannot hold it.
        """
        self.start = _copied(self.synthesizer)
        self.fit(self._held())
        if self.available is not None and (needed := self.payload()) > self.available:
            raise ConfigError(
                f"the start takes {needed:,} bytes in codec {self.text}, more than the {self.available:,} there are: "
                f"choose fewer images per class, a coarser codec or more bytes"
            )

    def _held(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for name, parameter in self.images.items()}

    def fit(self, values: Mapping[str, Tensor]) -> None:
        """Fit the ranges to ``values``."""
        self.fitted_to = dict(values)
        self.grids = {name: self.codec.fit(value) for name, value in values.items()}

    def payload(self) -> int:
        """Return the bytes that the synthesizer takes in the present ranges."""
        stored = {name: value.detach().cpu().contiguous() for name, value in self.synthesizer.stored().items()}
        probabilities = self.synthesizer.labels.artifact_kind == "soft"
        coding = code(
            stored,
            self.text,
            self.synthesizer.image_like,
            self.synthesizer.num_classes,
            probabilities=probabilities,
            grids=self.grids,
        )
        return coding.nbytes + self.beside

    def settle(self) -> None:
        """Fit the ranges to what the synthesizer holds, after pulling it back until it fits the bytes."""
        values = self._held()
        self.fit(values)
        if self.available is None or not self.images or self.payload() <= self.available:
            return
        least, most = 0.0, 1.0
        for _ in range(_HALVINGS):
            share = (least + most) / 2
            self._hold({name: torch.lerp(self.start[name], value, share) for name, value in values.items()})
            least, most = (share, most) if self.payload() <= self.available else (least, share)
        self._hold({name: torch.lerp(self.start[name], value, least) for name, value in values.items()})

    def _hold(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.images.items():
            parameter.data = values[name].to(parameter.device)
        self.fit(values)

    def after_step(self, number: int) -> None:
        """Settle after step ``number`` (from 1), if that is due; clip to the ends of the grids."""
        if number % REFIT == 0 and number <= self.steps - FROZEN:
            self.settle()
        for name, parameter in self.images.items():
            parameter.data = self.grids[name].clipped(parameter.data.cpu()).to(parameter.device)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the synthesizer hold the decoded images for a while."""
        with self._restored():
            for name, parameter in self.images.items():
                parameter.data = self.grids[name].rounded(parameter.data.cpu()).to(parameter.device)
            yield

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Let the synthesizer be for a while what it was at its start."""
        present = _copied(self.synthesizer)
        with self._same_ranges():
            self.synthesizer.load_state_dict(self.start)
            try:
                self.fit(self._held())
                yield
            finally:
                self.synthesizer.load_state_dict(present)

    @contextmanager
    def final(self) -> Iterator[None]:
        """Let the synthesizer hold, for a while, images that fit the bytes in the present ranges."""
        with self._restored(), self._same_ranges():
            if self.available is not None and self.payload() > self.available:
                self.settle()
            yield

    @contextmanager
    def _same_ranges(self) -> Iterator[None]:
        grids, fitted_to = self.grids, self.fitted_to
        try:
            yield
        finally:
            self.grids, self.fitted_to = grids, fitted_to

    @contextmanager
    def _restored(self) -> Iterator[None]:
        present = {name: parameter.data for name, parameter in self.images.items()}
        try:
            yield
        finally:
            for name, parameter in self.images.items():
                parameter.data = present[name]

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"start": self.start, "fitted_to": self.fitted_to}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        self.start = dict(state["start"])
        self.fit(state["fitted_to"])


def _copied(synthesizer: Synthesizer) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in synthesizer.state_dict().items()}
