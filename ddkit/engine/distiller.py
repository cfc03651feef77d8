"""The one outer loop: learn a synthetic dataset from a real one."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ddkit.base.config import DistillConfig
from ddkit.base.interrupt import Interrupt
from ddkit.base.lock import locked
from ddkit.base.memory import freed_memory_kept, require_memory
from ddkit.base.progress import Report, roughly
from ddkit.base.sizes import parse_bytes
from ddkit.base.streams import Streams
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.engine import planning, promise
from ddkit.engine.callbacks import Callback, JsonlMetrics, ProgressBar, ProgressLines
from ddkit.engine.minutes import Deadline, Forecast, Pace, forecast
from ddkit.engine.resume import Checkpoints, how_to_go_on
from ddkit.engine.run import Run, RunFolder, environment, peak_memory_bytes
from ddkit.engine.selection import CoresetSession
from ddkit.engine.session import Session, result_metadata
from ddkit.errors import ConfigError, DataError, InterruptedRunError
from ddkit.networks.signal import Signal
from ddkit.networks.sources import NetworkSource
from ddkit.objectives.base import Objective
from ddkit.objectives.constraints.base import Constraint
from ddkit.synthesis.base import Synthesizer

#: Runs of more seconds say beforehand how long they take, and again after so many seconds of steps.
LONG, TIMED = 120.0, 5.0
#: What a piece is that is given as an object.
_PIECES: dict[str, type] = {
    "synthesis": Synthesizer,
    "objective": Objective,
    "networks": NetworkSource,
    "signal": Signal,
    "constraint": Constraint,
}


class Distiller:
    """Learns a synthetic dataset.

    >>> from ddkit import Distiller, data
    >>> train, test = data.load_pair("digits")
    >>> distilled = Distiller("dm", ipc=1, steps=100).fit(train)

    A method is a composition, so every choice can be overridden by name (``augmentation="none"``,
    ``objective={"name": "gradient", "metric": "cos"}``) or by an object of one's own (``objective=MyObjective()``).

    A number of bytes takes the place of images per class: codec, resolution and images per class are chosen on held-out
    training images, the images are optimised through the codec, and what is returned is the better of the result and
    its coded start: a set is never worse than real images of the same size, as far as held-out images tell.

    >>> small = Distiller(bytes=1500).fit(train)
    >>> small.budget.payload <= 1500
    True

    Args:
        method: name of a preset, ``auto`` for what ddkit recommends for a number of bytes, or a complete
            :class:`~ddkit.base.config.DistillConfig`.
        ipc: images (or codes) per class; needed with a method name unless bytes are given. With ``auto`` and no bytes,
            as many bytes as so many real images a class take at 8 bits a value.
        bytes: most bytes of the payload of the set, a number or ``"64KiB"``, see
            :class:`~ddkit.data.distilled.budget.Budget`; give a ``codec`` among the overrides to choose it yourself.
        minutes: for the whole of :meth:`fit`: some steps are timed, then so many are configured that it is done within
            about 10 % of it, choices for a number of bytes and their comparisons included; at most the steps of the
            method. The same minutes are not the same steps twice; an output folder keeps those of its run.
        seed: the only seed; the same seed on the same machine gives the same bytes. None for that of a configuration
            given as ``method``, and 0 with a name.
        callbacks: what happens around the loop; metrics are always kept when there is an output folder.
        synthesizer: an object that replaces the configured synthesis.
        synthesis: replaces the configured synthesis: a name, options, or an object.
        objective: replaces the configured objective.
        networks: replaces the configured network source.
        signal: replaces direct access to the real data (private, robust, ...).
        constraint: adds a loss on the synthetic data beside the objective, or replaces that of the method.
        checkpoint_every: steps between two checkpoints; None for one a minute.
        overrides: options laid over the preset, see :class:`~ddkit.base.config.DistillConfig`.

    Raises:
        ConfigError: an unknown method, or a missing IPC.
    """

    def __init__(
        self,
        method: str | DistillConfig = planning.AUTO,
        ipc: int | None = None,
        *,
        bytes: int | str | None = None,
        minutes: float | None = None,
        seed: int | None = None,
        callbacks: Sequence[Callback] = (),
        synthesizer: Synthesizer | None = None,
        synthesis: Synthesizer | str | Mapping[str, Any] | None = None,
        objective: Objective | str | Mapping[str, Any] | None = None,
        networks: NetworkSource | str | Mapping[str, Any] | None = None,
        signal: Signal | str | Mapping[str, Any] | None = None,
        constraint: Constraint | str | Mapping[str, Any] | None = None,
        checkpoint_every: int | None = None,
        **overrides: Any,
    ) -> None:
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ConfigError(f"checkpoint_every={checkpoint_every} must be at least 1 step")
        self._method = method
        if isinstance(method, DistillConfig):
            if seed is not None:
                self._method = DistillConfig.create({**method.as_dict(), "seed": seed})
            if ipc is not None or bytes is not None or minutes is not None or overrides:
                raise ConfigError("give either a complete configuration or a method name with ipc and options")
        elif ipc is None and bytes is None:
            raise ConfigError(
                "ipc is missing: say how many images per class to learn, for instance ipc=10, or how many bytes they "
                "may take, for instance bytes=10000"
            )
        else:
            planning.preset(method)  # which refuses an unknown name
        self.ipc, self.seed = ipc, seed or 0
        self.bytes = None if bytes is None else parse_bytes(bytes)
        self.minutes = None if minutes is None else Deadline(minutes).minutes
        self.callbacks = list(callbacks)
        self.checkpoint_every = checkpoint_every
        self.objects: dict[str, Any] = {}
        if synthesizer is not None and synthesis is not None:
            raise ConfigError("give the synthesis once: as synthesis=... or as synthesizer=...")
        given = {
            "synthesis": synthesis if synthesizer is None else synthesizer,
            "objective": objective,
            "networks": networks,
            "signal": signal,
            "constraint": constraint,
        }
        for name, value in given.items():
            if isinstance(value, str | Mapping):
                overrides[name] = value
            elif value is not None:
                if not isinstance(value, _PIECES[name]):
                    raise ConfigError(
                        f"{name} is a {type(value).__name__}: give a name, options, or a {_PIECES[name].__name__}"
                    )
                self.objects[name] = value
                overrides[name] = type(value).__name__
        self.overrides = overrides

    def configure(self, real: RealData, say: Callable[[str], None] = lambda _: None) -> DistillConfig:
        """Return the full configuration for ``real``: the preset's official settings under the overrides.

        Args:
            real: the training data.
            say: told what is being done, as the choices for a number of bytes take a while.
        """
        if isinstance(self._method, DistillConfig):
            return self._method
        return planning.configure(
            self._method, real, self.ipc, self.bytes, self.seed, self.overrides, self.objects, say, self.minutes
        )

    @freed_memory_kept()
    def forecast(self, real: RealData) -> Forecast:
        """Take some steps in memory and return how long :meth:`fit` will take, and how much memory.

        Args:
            real: the training data.

        Raises:
            ConfigError: bad settings, or a method without outer steps.

        Example:
            >>> from ddkit import Distiller, data
            >>> train, _ = data.load_pair("digits")
            >>> print(Distiller("dm", ipc=10, steps=100).forecast(train))  # doctest: +SKIP
            dm, 10 a class, 100 steps of 0.04 s: about 5 s in all, 0.7 GB of memory
        """
        began = time.monotonic()
        config = self.configure(real, self._say)
        around = time.monotonic() - began
        if config.bytes is not None:
            real, held_out = promise.held_out(real, config.seed)
            around += promise.seconds(self.minutes, held_out, config)
        return forecast(config, real, self.objects, around)

    def _request(self) -> dict[str, Any] | None:
        """Return what a configuration is found for by trying, JSON-able; None where it follows at once."""
        if isinstance(self._method, DistillConfig) or (
            self._method != planning.AUTO and self.bytes is None and self.minutes is None
        ):
            return None
        numbers = {"ipc": self.ipc, "bytes": self.bytes, "minutes": self.minutes, "seed": self.seed}
        return {"method": self._method, **numbers, "overrides": json.loads(json.dumps(self.overrides))}

    @freed_memory_kept()
    def fit(
        self,
        real: RealData,
        *,
        out: str | Path | None = None,
        resume: bool = False,
        data_spec: str | None = None,
        data_options: Mapping[str, Any] | None = None,
        callback_options: Mapping[str, Any] | None = None,
        command: str | None = None,
    ) -> DistilledDataset:
        """Distil ``real``.

        Args:
            real: the training data.
            out: folder that keeps the run, locked while this call is at work; None to work in memory.
            resume: continue the run in ``out``, or start one where there is none yet.
            data_spec: how the data were named, kept so that the run can be repeated.
            data_options: with which options they were loaded, kept beside it; JSON-able.
            callback_options: what built the callbacks, kept for whoever builds them again to resume; JSON-able.
            command: what the user typed, kept for the report.

        Returns:
            the result of the last step. Where a moving average is kept it is that of the averaged data, and the run
            folder keeps those of the last step as ``last.safetensors`` beside it.

        Raises:
            ConfigError: bad settings, or a folder that holds another run.
            DataError: data that do not fit the settings.
            DivergedError: a loss or gradient is no longer finite; the last checkpoint is kept.
            LockedError: another process is at work in the folder.
            CheckpointError: the disk is full, or a checkpoint is damaged.
            InterruptedRunError: Ctrl-C, SIGTERM or SIGHUP; the message says what was saved and how to go on.
        """
        if not isinstance(real, RealData):
            raise DataError(
                f"fit() got a {type(real).__name__}: make a RealData of it first, by RealData.from_dataset(dataset) or "
                f"RealData.from_tensors(images, labels)"
            )
        folder = RunFolder(out) if out is not None else None
        kept = {
            "data_spec": data_spec,
            "data_options": data_options,
            "callback_options": callback_options,
            "command": command,
        }
        with ExitStack() as around, Interrupt() as interrupt:
            if folder is not None:
                folder.require_a_folder()
                if not (resume and folder.finished):
                    around.enter_context(locked(folder.path))
                if resume:
                    real = folder.as_named(real)
            try:
                return self._fit(real, folder, interrupt, resume, kept)
            except KeyboardInterrupt:
                if not interrupt.requested:
                    raise
                saved = folder is not None and folder.checkpoint.is_file()
                at = ", state of the last checkpoint kept" if saved else " before the first step"
                raise InterruptedRunError(how_to_go_on(f"interrupted{at}", folder)) from None

    def _fit(
        self, real: RealData, folder: RunFolder | None, interrupt: Interrupt, resume: bool, kept: Mapping[str, Any]
    ) -> DistilledDataset:
        request = self._request()
        config = folder.planned(request) if folder is not None and resume else None
        config = config or self.configure(real, self._say)
        part, held_out = promise.held_out(real, config.seed) if config.bytes is not None else (real, None)
        session = self._session(config, part, folder)
        metadata = result_metadata(config, real, getattr(session, "neighbouring_views", 1))
        if folder is None:
            return self._distil(session, None, metadata, interrupt, real, held_out)[0]
        folder.claim(config, real, resume=resume, request=request, **kept)
        if folder.finished:
            folder.tidy()
            return DistilledDataset.load(folder.artifact)
        command = folder.command or kept["command"]
        result, cost = self._distil(session, folder, metadata, interrupt, real, held_out)
        with interrupt.waiting():  # what is left is short, and ends the run
            result.save(folder.artifact)
            device = str(session.device)
            summary = {"method": config.title, **cost, "peak_memory_bytes": peak_memory_bytes(device)}
            folder.finish({**summary, "command": command, **environment(device)})
            if isinstance(session, Session):
                session.stages.clear()
        return result

    def _distil(
        self,
        session: Session | CoresetSession,
        folder: RunFolder | None,
        metadata: dict[str, Any],
        interrupt: Interrupt,
        real: RealData,
        held_out: RealData | None,
    ) -> tuple[DistilledDataset, dict[str, Any]]:
        """Run a session to its end; return the result and what ``run.json`` says of its steps and seconds."""
        if isinstance(session, CoresetSession):
            started = time.monotonic()
            with self._reporting(session, folder) as report:
                picked = session.run(metadata, report)
            return picked, {"steps": 0, "seconds": round(time.monotonic() - started, 3), "state": "finished"}
        run = self._loop(session, folder, interrupt)
        metadata = {**metadata, "steps": run.step}
        with interrupt.waiting():
            result = session.materialise(metadata)
            if folder is not None and session.average is not None:
                last = session.materialise({**metadata, "ema": "the data of the last step, not averaged"}, last=True)
                last.save(folder.last)
        if held_out is not None:
            minutes = self.minutes if folder is None else folder.minutes
            result = self._kept(session, result, metadata, real, held_out, minutes)
        return result, {
            "steps": run.step,
            "seconds": round(run.seconds, 3),
            "prepare_seconds": round(run.prepare_seconds, 3),
            "state": f"stopped early: {run.stop}" if run.stop else "finished",
        }

    def _kept(
        self,
        session: Session,
        distilled: DistilledDataset,
        metadata: dict[str, Any],
        real: RealData,
        held_out: RealData,
        minutes: float | None,
    ) -> DistilledDataset:
        """Return the better of a result and its coded start, as held-out training images tell.

        Where the run started with bytes to spare, it stands against a start that takes them all. A start that is better
        is picked again from all training images, those that were held out among them.
        """
        self._say("comparing the result with coded real images that take all of the bytes")
        sparing = (session.config.fill or 1) < 1
        filled = planning.fullest_start(session.config, session.real, self.objects) if sparing else None
        start = (filled or session).materialise({**metadata, "steps": 0}, start=True)
        sets = {promise.DISTILLED: distilled, promise.START: promise.without_what_was_learned(start)}
        share = promise.share_of(minutes, held_out, session.config)
        name, card = promise.better(sets, held_out, session.config, share)
        chosen, source = sets[name], ""
        if name == promise.START:
            again = planning.fullest_start(session.config, real, self.objects)
            if again is not None:
                chosen = again.materialise(result_metadata(again.config, real, again.neighbouring_views), start=True)
                chosen, source = promise.without_what_was_learned(chosen), f"all {len(real):,} training images"
        whose = str(metadata["selection"]).partition(";")[0]
        chosen.metadata = {**chosen.metadata, "promise": card, "selection": promise.in_words(card, whose, source)}
        return chosen

    def _say(self, line: str) -> None:
        """Tell the user a line, where there are callbacks that show progress."""
        for callback in self.callbacks:
            callback.say(line)

    @contextmanager
    def _reporting(self, session: CoresetSession, folder: RunFolder | None) -> Iterator[Report]:
        """Let the bars and lines among the callbacks show how far a selection is, which has no steps."""
        shown = [callback for callback in self.callbacks if isinstance(callback, ProgressBar | ProgressLines)]
        nothing: Any = None
        run = Run(session.config, session.real, nothing, Streams(session.config.seed), folder, nothing)

        def report(what: str, done: int, total: int) -> None:
            for callback in shown:
                callback.on_prepare(run, what, done, total)

        try:
            yield report
        finally:
            for callback in shown:
                callback.on_end(run)

    def _session(self, config: DistillConfig, real: RealData, folder: RunFolder | None) -> Session | CoresetSession:
        require_memory(
            f"ipc={config.ipc}", config.ipc * real.num_classes * math.prod(real.shape), "choose a smaller ipc"
        )
        if not config.selection:
            return Session(config, real, self.objects, folder.path if folder is not None else None)
        if self.objects:
            raise ConfigError(
                f"'{config.method}' picks real images and would ignore {', '.join(sorted(self.objects))}: "
                f"leave that out or choose a method that distils"
            )
        return CoresetSession(config, real)

    def _loop(self, session: Session, folder: RunFolder | None, interrupt: Interrupt) -> Run:
        """Step until the last step or a reason to stop; save the state on the way."""
        config = session.config
        callbacks = self._callbacks_around(folder)
        run = Run(config, session.real, session.synthesizer, session.streams, folder, session.materialise)
        checkpoints = Checkpoints(run, session, callbacks, self.checkpoint_every)
        checkpoints.restore()
        origin = time.monotonic() - run.seconds
        with ExitStack() as closing, checkpoints.stopping(interrupt):
            for callback in callbacks:
                callback.on_start(run)
                closing.callback(callback.on_end, run)
            checkpoints.save_slow_start()
            began, told = 0.0, run.step > 0  # a run that goes on has said it
            if session.expected_seconds > LONG and not told:
                self._say(f"the passes of {config.steps:,} steps count to about {roughly(session.expected_seconds)}")
            while run.step < config.steps and not run.stop:
                run.scalars = session.step(run.step + 1)
                run.matched = frozenset(run.scalars)
                run.step += 1
                run.seconds = time.monotonic() - origin
                for callback in callbacks:
                    callback.on_step(run)
                if run.step == 1:  # which compiles
                    began = run.seconds
                elif not told and run.seconds - began > TIMED:
                    told = True
                    self._tell(config, began, (run.seconds - began) / (run.step - 1), str(session.device))
                checkpoints.save_when_due(interrupt)
            run.seconds = time.monotonic() - origin
        return run

    def _tell(self, config: DistillConfig, before: float, step: float, device: str) -> None:
        """Say how long all steps take, where that is long, and how much memory there was need of."""
        expected = Forecast(config, Pace(before, step), 0.0, peak_memory_bytes(device))
        if expected.seconds > LONG:
            self._say(str(expected))

    def _callbacks_around(self, folder: RunFolder | None) -> list[Callback]:
        """Metrics come last, so that they hold what the other callbacks added to the scalars of a step."""
        if folder is None or any(isinstance(callback, JsonlMetrics) for callback in self.callbacks):
            return self.callbacks
        return [*self.callbacks, JsonlMetrics()]
