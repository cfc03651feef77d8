"""How do the checks watch and disturb a run: callbacks, global random states, connections?"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from ddkit.engine.callbacks import Callback
from ddkit.engine.run import Run


class Kill(Callback):
    """Presses Ctrl-C as soon as a step is done, before its checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.step == self.step:
            raise KeyboardInterrupt


class Seen(Callback):
    """Remembers the decoded images at the end of a run; None for a coreset, which has none to decode."""

    images: torch.Tensor | None = None

    def on_end(self, run: Run) -> None:
        with torch.no_grad():
            self.images = run.synthesizer()[0].float().cpu()


def global_states() -> dict[str, Any]:
    """Return the states of the global random generators, comparable."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, *rest = numpy_state
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": (kind, tuple(keys.tolist()), *rest),
        "Python": random.getstate(),
    }


@contextmanager
def refused_connections() -> Iterator[list[str]]:
    """Let every attempt to reach the network fail; collects the attempts, also those whose error is swallowed."""
    attempts: list[str] = []

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            attempts.append(name)
            raise OSError("the contract suite allows no network access")

        return refuse

    with ExitStack() as patches:
        for name in ("connect", "connect_ex", "sendto"):
            patches.enter_context(mock.patch.object(socket.socket, name, refusing(name)))
        patches.enter_context(mock.patch.object(socket, "getaddrinfo", refusing("getaddrinfo")))
        yield attempts
