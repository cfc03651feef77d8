"""What do Ctrl-C, SIGTERM and SIGHUP do?

Nothing heavy is imported here: the command line handles signals before it imports anything else.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

#: Exit status of a command that was stopped, whatever the signal.
STATUS = 130
#: Signals within so many seconds of each other count as one: a scheduler and a shell often send two.
TOGETHER = 1.0
#: Seconds that work which is to be finished first (an outer step) may still take; then it is cut short.
PATIENCE = 8.0
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interrupt:
    """Handles signals while it is entered: a signal raises KeyboardInterrupt, or waits for work to be finished.

    On the way out the handlers are those from before. Python delivers signals to the main thread only, so in any other
    thread nothing is handled. A SIGHUP that is ignored, as under nohup, stays so.

    Attributes:
        requested: whether a signal has arrived.
    """

    #: When the last signal arrived, of whatever object: those that follow at once are not counted.
    last = float("-inf")
    #: Whether signals are left alone for good, as the process is about to end.
    deaf = False

    def __init__(self) -> None:
        self.requested = False
        self._waits = self._finishes = self._cuts = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            Interrupt.last = float("-inf")
            for number in SIGNALS:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._old[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        for number, handler in self._old.items():
            # None stands for a handler that was not installed from Python and cannot be put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._old = {}

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let the first signal only set :attr:`requested`; the work inside looks at it and has ``PATIENCE`` seconds."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Let no signal stop what is inside: the state that is saved because of one."""
        self._finishes = True
        try:
            yield
        finally:
            self._finishes = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        together, Interrupt.last = now - Interrupt.last < TOGETHER and not self._cuts, now
        first, self.requested = not self.requested, True
        if Interrupt.deaf or self._finishes or together:
            return
        if self._waits and first:
            # Not a threading.Timer, which takes locks that the interrupted code may hold.
            _thread.start_new_thread(self._cut, (signal.Signals(number),))
            return
        self._stop(frame)

    def _stop(self, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def _cut(self, number: signal.Signals) -> None:
        """Stop the work that was waited for, if it is not finished by then."""
        time.sleep(PATIENCE)
        if self._waits:
            self._cuts = True
            _thread.interrupt_main(number)


class CommandInterrupt(Interrupt):
    """Handles signals for a whole process of the command line: one line at most, never a traceback.

    Args:
        to_the_end: leave no handler of Python behind, as the process ends with the command.
    """

    def __init__(self, to_the_end: bool) -> None:
        super().__init__()
        self._to_the_end = to_the_end
        self._hook = sys.unraisablehook
        self._entered = False

    def __enter__(self) -> CommandInterrupt:
        Interrupt.deaf = False
        super().__enter__()
        sys.unraisablehook = self._unraisable
        self._entered = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        Interrupt.deaf = True
        if self._to_the_end:
            self._old = dict.fromkeys(self._old, signal.SIG_DFL)
        super().__exit__(kind, *rest)
        Interrupt.deaf = self._to_the_end  # a process that goes on listens again
        sys.unraisablehook = self._hook
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            _say_interrupted()
            raise SystemExit(STATUS)

    def _stop(self, frame: FrameType | None) -> None:
        if not self._entered or _imports(frame):  # which an exception may leave half done, or be lost in
            _say_interrupted()
            os._exit(STATUS)
        raise KeyboardInterrupt

    def _unraisable(self, caught: Any) -> None:
        """Raise again, elsewhere, what was raised where Python cannot pass it on (in ``__del__``)."""
        if issubclass(caught.exc_type, KeyboardInterrupt):
            _thread.start_new_thread(self._again, ())
        else:
            self._hook(caught)

    def _again(self) -> None:
        time.sleep(0.02)
        Interrupt.last, self.requested = float("-inf"), False
        _thread.interrupt_main()


def _imports(frame: FrameType | None) -> bool:
    """Say whether an import is under way."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _say_interrupted() -> None:
    with suppress(OSError):  # nobody is there to read it
        os.write(2, b"interrupted\n")
