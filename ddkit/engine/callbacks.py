"""What happens around the outer loop: progress, metrics, pictures, evaluation, early stop."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ddkit.base.device import resolve_device
from ddkit.base.documents import read_metrics
from ddkit.base.files import write_atomically, write_text
from ddkit.base.progress import Lines
from ddkit.base.ranges import Count, Momentum, in_range
from ddkit.data.real import RealData
from ddkit.engine.run import Run
from ddkit.errors import CheckpointError, MissingExtraError


class Callback:
    """Reacts to a run; every hook does nothing unless overridden.

    A callback with a memory returns it from :meth:`state_dict`, so that a resumed run goes on as if it had never
    stopped.
    """

    def say(self, line: str) -> None:
        """Tell the user what is being done before or after the steps."""

    def on_prepare(self, run: Run, what: str, done: int, total: int) -> None:
        """``done`` of ``total`` parts of ``what`` are done, before the first step (a generator to train, ...)."""

    def on_start(self, run: Run) -> None:
        """The run starts, or goes on at ``run.step``."""

    def on_step(self, run: Run) -> None:
        """An outer step is done; set ``run.stop`` to a reason to stop the run."""

    def on_checkpoint(self, run: Run) -> None:
        """A checkpoint is about to be written."""

    def on_end(self, run: Run) -> None:
        """The run is over, in whatever way, also where it failed before :meth:`on_start`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the memory of this callback."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the memory back."""


class ProgressBar(Callback):
    """A bar with steps, rate, remaining time and loss, on standard error."""

    def __init__(self) -> None:
        self._preparing: Any = None
        self._parts: dict[str, Any] = {}
        self._progress: Any = None

    def say(self, line: str) -> None:
        """Write the line to standard error, above a bar that is open."""
        if self._progress is None:
            _to_standard_error(line)
        else:
            self._progress.console.print(line, highlight=False, markup=False)

    def on_prepare(self, run: Run, what: str, done: int, total: int) -> None:
        """Show a bar for what takes a while before the first step."""
        from rich.console import Console
        from rich.progress import Progress

        if self._preparing is None:
            self._preparing = Progress(console=Console(stderr=True), refresh_per_second=4)
            self._preparing.start()
        if what not in self._parts:
            self._parts[what] = self._preparing.add_task(what, total=total)
        self._preparing.update(self._parts[what], completed=done, total=total)

    def _prepared(self) -> None:
        if self._preparing is not None:
            self._preparing.stop()
            self._preparing, self._parts = None, {}

    def on_start(self, run: Run) -> None:
        """Open the bar."""
        self._prepared()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._first = (run.step, run.seconds)
        self._task = self._progress.add_task(
            run.config.title, total=run.config.steps, completed=run.step, rate="", loss="-"
        )
        self._progress.start()

    def on_step(self, run: Run) -> None:
        """Advance the bar."""
        steps, seconds = run.step - self._first[0], run.seconds - self._first[1]
        rate = f"{steps / seconds:.1f} steps/s" if seconds > 0 else ""
        self._progress.update(self._task, completed=run.step, rate=rate, loss=f"{run.scalars['loss']:.4g}")

    def on_end(self, run: Run) -> None:
        """Close the bar."""
        with suppress(OSError):  # the terminal was closed, which must not hide what is said of the run
            self._prepared()
            if self._progress is not None:
                self._progress.stop()


class ProgressLines(Callback):
    """Lines with steps, remaining time and loss, for a log: at the start, then at intervals that grow to a minute.

    Args:
        say: takes a line; None writes to standard error.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._to = say or _to_standard_error
        self._lines = Lines(self._to)

    def say(self, line: str) -> None:
        """Write the line."""
        self._to(line)

    def on_prepare(self, run: Run, what: str, done: int, total: int) -> None:
        """Say how far it is with what takes a while before the first step."""
        self._lines(what, done, total)

    def on_start(self, run: Run) -> None:
        """Say where the run begins or goes on."""
        self._lines(run.config.title, run.step, run.config.steps, " steps")

    def on_step(self, run: Run) -> None:
        """Say how far it is when it is time."""
        self._lines(run.config.title, run.step, run.config.steps, f", loss {run.scalars['loss']:.4g}")


def _to_standard_error(line: str) -> None:
    with suppress(OSError):  # a terminal that was closed, a full disk: no reason to stop a run
        print(line, file=sys.stderr, flush=True)


class JsonlMetrics(Callback):
    """One JSON object a line in ``metrics.jsonl``: step, seconds and every scalar.

    On resume the lines after the checkpoint are cut off first, so no step appears twice. Keep it behind callbacks that
    add scalars: a step's line is written when its turn comes.

    Args:
        every: write every that many steps; None for at most about 2000 lines a run.

    Raises:
        ConfigError: ``every`` is below 1.
        CheckpointError: the file cannot be written, for instance because the disk is full.
    """

    @in_range("metrics")
    def __init__(self, every: Count | None = None) -> None:
        self.every = every

    def on_start(self, run: Run) -> None:
        """Keep the lines that count."""
        if run.folder is None:
            return
        self._interval = self.every or max(1, run.config.steps // 2000)
        kept = [line for line in read_lines(run.folder.metrics) if line["step"] <= run.step]
        write_text(run.folder.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def on_step(self, run: Run) -> None:
        """Write a line when it is time, at both ends of the run and where a callback has added something."""
        if run.folder is None:
            return
        ends = run.step in (1, run.config.steps) or bool(run.stop)
        if ends or run.step % self._interval == 0 or set(run.scalars) - run.matched:
            line = {"step": run.step, "seconds": round(run.seconds, 3), **run.scalars}
            try:
                with run.folder.metrics.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(line) + "\n")
            except OSError as error:
                raise CheckpointError(
                    f"cannot write '{run.folder.metrics}': {error.strerror or error}: free space or restore "
                    f"the folder, then resume the run"
                ) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl`` that are whole; a warning counts those that are not.

    A power cut may leave half a line, or bytes of anything, at the end: the run can go on without them.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        lines, damaged = read_metrics(path)
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}: restore it or delete it") from None
    if damaged:
        warnings.warn(
            f"'{path}' has {len(damaged)} damaged line{'s' * (len(damaged) > 1)} (the first is line {damaged[0]}), "
            f"left out: a killed process or a power cut may have cut the last one",
            stacklevel=2,
        )
    return list(lines.values())


class TensorBoard(Callback):
    """Scalars for TensorBoard under ``tensorboard/`` in the run folder.

    Raises:
        MissingExtraError: the ``tensorboard`` extra is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtraError("the TensorBoard callback", "tensorboard") from None
        self._open: Callable[..., Any] = SummaryWriter
        self._writer: Any = None

    def on_start(self, run: Run) -> None:
        """Open a writer that hides what a kill left behind the checkpoint."""
        if run.folder is not None:
            self._writer = self._open(str(run.folder.path / "tensorboard"), purge_step=run.step + 1)

    def on_step(self, run: Run) -> None:
        """Write every scalar."""
        if self._writer is not None:
            for name, value in run.scalars.items():
                self._writer.add_scalar(name, value, run.step)

    def on_end(self, run: Run) -> None:
        """Close the writer."""
        if self._writer is not None:
            self._writer.close()


class ImageGrids(Callback):
    """A picture of the synthetic images in ``images/`` at the start, every ``every`` steps and at the end.

    Args:
        every: steps between two pictures; None for ten a run.
    """

    @in_range("images")
    def __init__(self, every: Count | None = None) -> None:
        self.every = every

    def on_start(self, run: Run) -> None:
        """Draw the starting point."""
        self._interval = self.every or max(1, run.config.steps // 10)
        if run.step == 0:
            self._draw(run)

    def on_step(self, run: Run) -> None:
        """Draw when it is time."""
        if run.step % self._interval == 0 or run.step == run.config.steps or run.stop:
            self._draw(run)

    def _draw(self, run: Run) -> None:
        if run.folder is None:
            return
        from ddkit.evaluation.report.images import image_grid

        current = run.materialise({"method": run.config.title})
        picture = image_grid(current.viewable(), run.synthesizer.classes.cpu(), current.class_names)
        path = run.folder.images / f"step-{run.step:06d}.png"
        write_atomically(path, lambda temporary: picture.save(temporary, format="PNG"))


class PeriodicEvaluation(Callback):
    """Train networks on the current synthetic set and log their accuracy on held-out training data.

    The result is logged as ``accuracy`` (a fraction). Never pass test data here: whatever is looked at while
    distilling is no longer a test set.

    Args:
        held_out: data that the distillation does not see.
        every: steps between two evaluations.
        recipe: name of the training recipe.
        repeats: networks per evaluation.
    """

    @in_range("evaluation")
    def __init__(self, held_out: RealData, every: Count, recipe: str = "quick", repeats: int = 1) -> None:
        self.held_out, self.every, self.recipe, self.repeats = held_out, every, recipe, repeats

    def on_step(self, run: Run) -> None:
        """Evaluate when it is time."""
        if run.step % self.every:
            return
        from ddkit.evaluation.evaluate import evaluate
        from ddkit.training.named import recipe

        current = run.materialise({"method": run.config.title})
        result = evaluate(
            current,
            self.held_out,
            architectures=(run.config.model,),
            repeats=self.repeats,
            recipe=recipe(self.recipe, run.real.name).replace(**current.card.recipe),
            seed=run.config.seed,
            device=resolve_device(run.config.device),
        )
        run.scalars["accuracy"] = result.rows[0].mean


class EarlyStop(Callback):
    """Stop when a scalar has not improved for a while; the result is that of the last step.

    Args:
        patience: evaluations of the scalar without improvement before the run stops.
        scalar: what to watch, for instance ``accuracy`` (larger is better) or ``loss`` (smaller is better).
        min_delta: smallest change that counts as an improvement.
        smoothing: decay of a moving average over the scalar; 0 for none.
    """

    @in_range("early_stop")
    def __init__(
        self, patience: Count, scalar: str = "accuracy", min_delta: float = 0.0, smoothing: Momentum = 0.0
    ) -> None:
        self.patience, self.scalar, self.min_delta, self.smoothing = patience, scalar, min_delta, smoothing
        self.best: float | None = None
        self.average: float | None = None
        self.waited = 0

    def on_start(self, run: Run) -> None:
        """Forget an earlier run."""
        if run.step == 0:
            self.best, self.average, self.waited = None, None, 0

    def on_step(self, run: Run) -> None:
        """Compare the scalar with the best so far."""
        if self.scalar not in run.scalars:
            return
        value = run.scalars[self.scalar] * (-1.0 if self.scalar == "loss" else 1.0)
        self.average = value if self.average is None else self.smoothing * self.average + (1 - self.smoothing) * value
        if self.best is None or self.average > self.best + self.min_delta:
            self.best, self.waited = self.average, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            run.stop = f"{self.scalar} has not improved for {self.waited} evaluations"

    def state_dict(self) -> dict[str, Any]:
        """Return best value, average and count."""
        return {"best": self.best, "average": self.average, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting."""
        self.best, self.average, self.waited = state["best"], state["average"], int(state["waited"])
