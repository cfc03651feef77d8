"""What does Ctrl-C do to a run?"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a request that the loop honours after its step; a second one kills.

    Use it as a context manager: on the way out the handlers are those from before. Python delivers signals to the main
    thread only, so in any other thread nothing is handled and :attr:`requested` stays False.

    Attributes:
        requested: whether the run was asked to stop.
    """

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old = {}
