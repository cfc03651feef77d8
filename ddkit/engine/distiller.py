"""The one outer loop: learn a synthetic dataset from a real one."""

from __future__ import annotations

import math
import signal as signals
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ddkit import methods
from ddkit.artifact import DistilledDataset
from ddkit.config import DistillConfig
from ddkit.data import RealData
from ddkit.engine.callbacks import Callback, JsonlMetrics
from ddkit.engine.run import Run, RunFolder, environment, peak_memory_bytes
from ddkit.engine.selection import CoresetSession
from ddkit.engine.session import Session, result_metadata
from ddkit.errors import ConfigError, DivergedError, InterruptedRunError
from ddkit.networks import NetworkSource
from ddkit.objectives import Objective, Signal
from ddkit.synthesis import Synthesizer


class Distiller:
    """Learns a synthetic dataset.

    >>> from ddkit import Distiller, data
    >>> train, test = data.load_pair("digits")
    >>> distilled = Distiller("dm", ipc=1, steps=100).fit(train)

    A method is a composition, so every choice can be overridden by name (``augmentation="none"``,
    ``objective={"name": "gradient", "metric": "cos"}``) or by an object of one's own (``objective=MyObjective()``).

    Args:
        method: name of a preset, or a complete :class:`~ddkit.config.DistillConfig`.
        ipc: images (or codes) per class; needed with a method name.
        seed: the only seed; the same seed on the same machine gives the same bytes.
        callbacks: what happens around the loop; metrics are always kept when there is an output folder.
        synthesizer: replaces the configured synthesis.
        objective: replaces the configured objective.
        networks: replaces the configured network source.
        signal: replaces direct access to the real data (private, robust, ...).
        checkpoint_every: steps between two checkpoints; None for one a minute.
        overrides: options laid over the preset, see :class:`~ddkit.config.DistillConfig`.

    Raises:
        ConfigError: an unknown method, or a missing IPC.
    """

    def __init__(
        self,
        method: str | DistillConfig,
        ipc: int | None = None,
        *,
        seed: int = 0,
        callbacks: Sequence[Callback] = (),
        synthesizer: Synthesizer | None = None,
        objective: Objective | str | Mapping[str, Any] | None = None,
        networks: NetworkSource | str | Mapping[str, Any] | None = None,
        signal: Signal | None = None,
        checkpoint_every: int | None = None,
        **overrides: Any,
    ) -> None:
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ConfigError(f"checkpoint_every={checkpoint_every} must be at least 1 step")
        self._method = method if isinstance(method, DistillConfig) else methods.get(method)
        if isinstance(method, DistillConfig):
            if ipc is not None or overrides:
                raise ConfigError("give either a complete configuration or a method name with ipc and options")
        elif ipc is None:
            raise ConfigError("ipc is missing: say how many images per class to learn, for instance ipc=10")
        self.ipc, self.seed = ipc, seed
        self.callbacks = list(callbacks)
        self.checkpoint_every = checkpoint_every
        self.signal = signal
        self.objects: dict[str, Any] = {}
        for name, value in (("synthesis", synthesizer), ("objective", objective), ("networks", networks)):
            if isinstance(value, str | Mapping):
                overrides[name] = value
            elif value is not None:
                self.objects[name] = value
                overrides[name] = type(value).__name__
        self.overrides = overrides

    def configure(self, real: RealData) -> DistillConfig:
        """Return the full configuration for ``real``: the preset's official settings under the overrides."""
        if isinstance(self._method, DistillConfig):
            return self._method
        assert self.ipc is not None
        return self._method.configure(real, self.ipc, self.seed, self.overrides)

    def fit(
        self,
        real: RealData,
        *,
        out: str | Path | None = None,
        resume: bool = False,
        data_spec: str | None = None,
        command: str | None = None,
    ) -> DistilledDataset:
        """Distil ``real``.

        Args:
            real: the training data.
            out: folder that keeps the run; None to work in memory.
            resume: continue the run in ``out``.
            data_spec: how the data were named, kept so that the run can be repeated.
            command: what the user typed, kept for the report.

        Returns:
            the result of the last step.

        Raises:
            ConfigError: bad settings, or a folder that holds another run.
            DataError: data that do not fit the settings.
            DivergedError: a loss or gradient is no longer finite; the last checkpoint is kept.
            CheckpointError: the disk is full, or a checkpoint is damaged.
            InterruptedRunError: the user pressed Ctrl-C; the state was saved first.
        """
        config = self.configure(real)
        session: Session | CoresetSession
        if config.selection:
            session = CoresetSession(config, real)
        else:
            session = Session(config, real, self.signal, self.objects)
        metadata = result_metadata(config, real)
        folder = RunFolder(out) if out is not None else None
        if folder is not None:
            folder.claim(config, real, resume=resume, data_spec=data_spec)
            if folder.finished:
                return DistilledDataset.load(folder.artifact)
        started = time.monotonic()
        if isinstance(session, CoresetSession):
            result = session.run(metadata)
            steps, seconds, stop = 0, time.monotonic() - started, ""
        else:
            run = self._loop(session, folder)
            metadata["steps"] = run.step
            result = session.materialise(metadata)
            steps, seconds, stop = run.step, run.seconds, run.stop
        if folder is not None:
            result.save(folder.artifact)
            folder.finish(
                {
                    "method": config.method,
                    "steps": steps,
                    "seconds": round(seconds, 3),
                    "state": f"stopped early: {stop}" if stop else "finished",
                    "peak_memory_bytes": peak_memory_bytes(config.device),
                    "command": command,
                    **environment(config.device),
                }
            )
        return result

    def _loop(self, session: Session, folder: RunFolder | None) -> Run:
        config = session.config
        callbacks = [JsonlMetrics(), *self.callbacks] if folder else self.callbacks
        run = Run(config, session.real, session.synthesizer, session.streams, folder)
        state = folder.load_checkpoint() if folder else None
        if state is not None:
            run.step, run.seconds, run.stop = int(state["step"]), float(state["seconds"]), state["stop"]
            session.load_state_dict(state["session"])
            _remember(callbacks, state["callbacks"])

        def save() -> None:
            if folder is not None:
                for callback in callbacks:
                    callback.on_checkpoint(run)
                memories = [[type(callback).__name__, callback.state_dict()] for callback in callbacks]
                folder.save_checkpoint(
                    {
                        "step": run.step,
                        "seconds": run.seconds,
                        "stop": run.stop,
                        "session": session.state_dict(),
                        "callbacks": memories,
                    }
                )

        origin = time.monotonic() - run.seconds
        saved = time.monotonic()
        opened: list[Callback] = []
        try:
            for callback in callbacks:
                callback.on_start(run)
                opened.append(callback)
            with _Interrupt() as interrupt:
                while run.step < config.steps and not run.stop:
                    run.scalars = session.step(last=run.step + 1 == config.steps)
                    run.step += 1
                    run.seconds = time.monotonic() - origin
                    _check_finite(run)
                    for callback in callbacks:
                        callback.on_step(run)
                    if interrupt.requested:
                        save()
                        raise InterruptedRunError(_how_to_go_on(run))
                    due = self.checkpoint_every
                    if run.step % due == 0 if due else time.monotonic() - saved > 60:
                        save()
                        saved = time.monotonic()
                run.seconds = time.monotonic() - origin
        finally:
            for callback in opened:
                callback.on_end(run)
        return run


def _remember(callbacks: Sequence[Callback], memories: list[list[Any]]) -> None:
    """Give every callback its memory back by class; a callback that is new or gone does not matter."""
    left = list(memories)
    for callback in callbacks:
        for position, (name, memory) in enumerate(left):
            if name == type(callback).__name__:
                callback.load_state_dict(memory)
                del left[position]
                break


def _check_finite(run: Run) -> None:
    for name, value in run.scalars.items():
        if not math.isfinite(value):
            kept = "the last checkpoint is kept; " if run.folder and run.folder.checkpoint.is_file() else ""
            raise DivergedError(
                f"{name} is {value} at step {run.step}: {kept}lower optimiser.lr (now {run.config.optimiser.lr}) "
                f"and start again"
            )


def _how_to_go_on(run: Run) -> str:
    done = f"interrupted after step {run.step} of {run.config.steps}"
    if run.folder is None:
        return f"{done}: nothing was kept, as the run has no output folder"
    return f"{done}, state saved: go on with `ddkit distill --out {run.folder.path} --resume`"


class _Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a request that the loop honours after its step; a second one kills."""

    def __init__(self) -> None:
        self.requested = False
        self._old: dict[int, Any] = {}

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signals.SIGINT, signals.SIGTERM):
                self._old[number] = signals.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._old.items():
            signals.signal(number, handler)
        self._old = {}

    def __exit__(self, *exception: object) -> None:
        self._restore()
