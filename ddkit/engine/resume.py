"""How does a run go on where it stopped?"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ddkit.base.interrupt import PATIENCE, Interrupt
from ddkit.engine import restoring
from ddkit.engine.callbacks import Callback
from ddkit.engine.run import Run, RunFolder
from ddkit.engine.session import Session
from ddkit.errors import InterruptedRunError

#: Seconds between two checkpoints, unless a number of steps is given.
INTERVAL_SECONDS = 60.0
#: A starting point that took longer than this to compute is saved before the first step.
STARTING_SECONDS = 5.0
#: After a step that took longer than this the state is saved, as a signal may cut the next one short.
LONG_SECONDS = PATIENCE / 2


class Checkpoints:
    """Saves and restores a run: its counters, its pieces and the memories of its callbacks.

    Without a run folder nothing is saved or restored.

    Args:
        run: the run.
        session: its pieces.
        callbacks: around it.
        every: steps between two checkpoints; None for one a minute.
    """

    def __init__(self, run: Run, session: Session, callbacks: Sequence[Callback], every: int | None) -> None:
        self.run, self.session, self.callbacks, self.every = run, session, callbacks, every
        self._saved_at = self._stepped_at = time.monotonic()
        self._saved_step: int | None = None

    def restore(self) -> None:
        """Go on from the last checkpoint, or from the starting point where there is none.

        Its seconds count as the run's, as it may be most of the work (a generator to train).

        Raises:
            CheckpointError: the checkpoint is damaged or does not fit the run.
        """
        state = self.run.folder.load_checkpoint() if self.run.folder else None
        began = time.monotonic()
        try:
            self.session.prepare(self._report)
            if state is None:
                self.session.start()
                self.run.seconds = self.run.prepare_seconds = time.monotonic() - began
            else:
                self._take(state)
                self._saved_step = self.run.step
        except KeyboardInterrupt:
            self._close()
            where = "interrupted before the first step"
            if state is not None:
                where = f"interrupted before step {int(state['step']) + 1} of {self.run.config.steps}, state kept"
            raise InterruptedRunError(how_to_go_on(where, self.run.folder)) from None
        except BaseException:
            self._close()
            raise

    def _take(self, state: dict[str, Any]) -> None:
        with restoring.fitting():
            self.run.step = restoring.whole(state, "step", self.run.config.steps)
            self.run.seconds = restoring.seconds(state, "seconds")
            self.run.prepare_seconds = restoring.seconds(state, "prepare_seconds")
            self.run.stop = restoring.text(state, "stop")
            restoring.take(self.session, state["session"])
            _remember(self.callbacks, state["callbacks"])

    @contextmanager
    def stopping(self, interrupt: Interrupt) -> Iterator[None]:
        """Let a signal wait for the end of the present step; say what is saved where the step takes too long."""
        self._stepped_at = time.monotonic()
        try:
            with interrupt.waiting():
                yield
        except KeyboardInterrupt:
            if not interrupt.requested:
                raise
            where = f"interrupted in step {self.run.step + 1} of {self.run.config.steps}"
            if self._saved_step is not None:
                where += f", state after step {self._saved_step} saved"
            raise InterruptedRunError(how_to_go_on(where, self.run.folder)) from None

    def _report(self, what: str, done: int, total: int) -> None:
        for callback in self.callbacks:
            callback.on_prepare(self.run, what, done, total)

    def _close(self) -> None:
        for callback in self.callbacks:
            callback.on_end(self.run)

    def save_slow_start(self) -> None:
        """Save a starting point that took long, once the callbacks have started."""
        if self.run.step == 0 and self.run.seconds > STARTING_SECONDS:
            self.save()

    def save(self) -> None:
        """Replace the checkpoint by the present state.

        Raises:
            CheckpointError: it cannot be written; the previous one is untouched.
        """
        if self.run.folder is None:
            return
        for callback in self.callbacks:
            callback.on_checkpoint(self.run)
        self.run.folder.save_checkpoint(
            {
                "step": self.run.step,
                "seconds": self.run.seconds,
                "prepare_seconds": self.run.prepare_seconds,
                "stop": self.run.stop,
                "session": self.session.state_dict(),
                "callbacks": [[type(callback).__name__, callback.state_dict()] for callback in self.callbacks],
            }
        )
        self._saved_at, self._saved_step = time.monotonic(), self.run.step
        self.session.stages.clear()

    def save_when_due(self, interrupt: Interrupt) -> None:
        """Replace the checkpoint when enough steps, or enough time, have gone by, and when the run is to stop.

        Raises:
            InterruptedRunError: a signal has arrived; the state is saved.
        """
        run, now = self.run, time.monotonic()
        if interrupt.requested:
            with interrupt.finishing():
                self.save()
            where = f"interrupted after step {run.step} of {run.config.steps}, state saved"
            raise InterruptedRunError(how_to_go_on(where, run.folder))
        due = now - self._saved_at > INTERVAL_SECONDS if self.every is None else run.step % self.every == 0
        if due or now - self._stepped_at > LONG_SECONDS:
            self.save()
        self._stepped_at = time.monotonic()


def how_to_go_on(where: str, folder: RunFolder | None) -> str:
    """Return, on one line, where a run was stopped, what is kept of it and the command that goes on."""
    if folder is None:
        return f"{where.partition(', state')[0]}: nothing was kept, as the run has no output folder"
    if not folder.config.is_file():
        return f"{where}: nothing was written; give the same command again"
    kept = "" if ", state" in where else "; experts that were finished are kept, any other start is computed again"
    return f"{where}{kept}: go on with `ddkit distill --out {shlex.quote(str(folder.path))} --resume`"


def _remember(callbacks: Sequence[Callback], memories: list[list[Any]]) -> None:
    """Give every callback its memory back by class; a callback that is new or gone does not matter."""
    left = list(memories)
    for callback in callbacks:
        for position, (name, memory) in enumerate(left):
            if name == type(callback).__name__:
                callback.load_state_dict(memory)
                del left[position]
                break
