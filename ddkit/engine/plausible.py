"""Are synthetic images still anything like real ones?"""

from __future__ import annotations

import warnings

import torch

from ddkit.data.real import RealData
from ddkit.errors import DivergedError
from ddkit.synthesis.base import Synthesizer

#: Synthetic values beyond this many times the largest real one draw a warning, once a run ...
SUSPICIOUS = 20.0
#: ... and beyond this many they end it: networks with instance norm do not see the scale, so no loss would tell.
IMPOSSIBLE = 1000.0
#: Looks in a whole run, images decoded for one.
_LOOKS, _IMAGES = 100, 16


class Plausible:
    """Watches the range of the synthetic images, which a rate that is too high leaves long before anything is infinite.

    Args:
        real: the real data, for the range of preprocessed values; at least 1 is granted.
        steps: outer steps of the run.
        lr: the configured learning rate, for the message.
    """

    def __init__(self, real: RealData, steps: int, lr: float) -> None:
        sample = real.batch(torch.arange(min(len(real), 256)))
        self.largest = max(1.0, float(sample.abs().amax()))
        self.steps, self.lr = steps, lr
        self.every = max(1, steps // _LOOKS)
        self.warned = False

    def check(self, synthesizer: Synthesizer, number: int) -> None:
        """Look at some images after outer step ``number``, if one is due.

        Raises:
            DivergedError: values that no image has.
        """
        if number % self.every and number != self.steps:
            return
        device = synthesizer.classes.device
        index = torch.linspace(0, len(synthesizer) - 1, min(len(synthesizer), _IMAGES), device=device).long()
        with torch.no_grad():
            reached = float(synthesizer.decode(index).abs().amax())
        where = f"synthetic images reach {reached:.3g}, real ones {self.largest:.3g}"
        if not reached <= IMPOSSIBLE * self.largest:
            raise DivergedError(
                f"step {number} of {self.steps} diverged, {where}: lower optimiser.lr (now {self.lr}) and start again; "
                f"checkpoints from before this step are kept"
            )
        if reached > SUSPICIOUS * self.largest and not self.warned:
            self.warned = True
            warnings.warn(
                f"{where} after step {number}: if the result is poor, lower optimiser.lr (now {self.lr})", stacklevel=3
            )
