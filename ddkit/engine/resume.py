"""How does a run go on where it stopped?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ddkit.engine import restoring
from ddkit.engine.callbacks import Callback
from ddkit.engine.run import Run
from ddkit.engine.session import Session
from ddkit.errors import InterruptedRunError

#: Seconds between two checkpoints, unless a number of steps is given.
INTERVAL_SECONDS = 60.0
#: A starting point that took longer than this to compute is saved before the first step.
STARTING_SECONDS = 5.0


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
        self._saved_at = time.monotonic()

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
        except KeyboardInterrupt:
            self._close()
            raise InterruptedRunError(
                "interrupted before the first step: experts that were finished are kept, any other starting point is "
                "computed again; go on with the same command and --resume"
            ) from None
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
        self._saved_at = time.monotonic()

    def save_when_due(self) -> None:
        """Replace the checkpoint when enough steps, or enough time, have gone by."""
        if self.every is None:
            due = time.monotonic() - self._saved_at > INTERVAL_SECONDS
        else:
            due = self.run.step % self.every == 0
        if due:
            self.save()


def _remember(callbacks: Sequence[Callback], memories: list[list[Any]]) -> None:
    """Give every callback its memory back by class; a callback that is new or gone does not matter."""
    left = list(memories)
    for callback in callbacks:
        for position, (name, memory) in enumerate(left):
            if name == type(callback).__name__:
                callback.load_state_dict(memory)
                del left[position]
                break
