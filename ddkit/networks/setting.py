"""What every piece of one distillation works with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ddkit.augment.base import Augmentation
from ddkit.base.precision import PrecisionName
from ddkit.base.streams import Streams
from ddkit.networks.network import Network
from ddkit.networks.signal import Signal


@dataclass
class Setting:
    """What a network source works with; an objective gets the source beside it.

    Args:
        num_classes: K.
        signal: access to the real data.
        network: the module that the source fills, for its shapes and costs.
        augmentation: applied to both sides with shared parameters.
        streams: random streams of the run.
        steps: outer steps of the whole run; 0 where there is none.
        init: how the synthesizer starts.
        precision: number format of heavy passes, as the user asked for it; for what decides about its own.
        compile: whether they are compiled, likewise.
        folder: where a piece may keep large intermediate files of this run (expert trajectories); None for a run in
            memory.
    """

    num_classes: int
    signal: Signal
    network: Network
    augmentation: Augmentation
    streams: Streams
    steps: int = 0
    init: str = "real"
    precision: PrecisionName = "auto"
    compile: bool | Literal["auto"] = "auto"
    folder: Path | None = None
