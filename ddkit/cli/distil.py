"""What does ``ddkit distill`` do with its options?

Whatever is wrong with the options or the run folder is refused here before work starts.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ddkit import methods
from ddkit.base.config import DistillConfig, merge, parse_assignments, piece_from_text
from ddkit.base.registry import describe_validation_error
from ddkit.base.streams import Streams
from ddkit.cli.common import DEFAULT_DATA, DEFAULT_IPC, check_writable, where_data_are
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.loading import available, load
from ddkit.data.real import RealData
from ddkit.engine.callbacks import (
    Callback,
    EarlyStop,
    ImageGrids,
    PeriodicEvaluation,
    ProgressBar,
    ProgressLines,
    TensorBoard,
)
from ddkit.engine.distiller import Distiller
from ddkit.engine.resume import how_to_go_on
from ddkit.engine.run import PATHS, RunFolder, absolute_path, without_paths
from ddkit.errors import ConfigError, InterruptedRunError, unknown_name

#: Settings that name a registered piece and have an option of their own.
PIECES = frozenset({"synthesis", "objective", "networks"})
Kept = TypeVar("Kept", bound="_Kept")


class _Kept(BaseModel):
    """Options that ``config.json`` keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataOptions(_Kept):
    """How the training data are loaded: what ``config.json`` keeps, so that a resumed run sees the same data.

    Args:
        root: where named data lie; None for ``$DDKIT_DATA``.
        zca: whether images are whitened.
        holdout: part of the training data kept aside, chosen by the run's seed.
    """

    root: str | None = None
    zca: bool = False
    holdout: float = 0.0


class CallbackOptions(_Kept):
    """What happens around the loop: what ``config.json`` keeps, because an early stop decides the result.

    Args:
        eval_every: steps between evaluations on the held-out part.
        patience: evaluations without gain after which the run stops.
        images_every: steps between pictures; None for ten a run.
        tensorboard: whether scalars are written for TensorBoard as well.
    """

    eval_every: int | None = None
    patience: int | None = None
    images_every: int | None = None
    tensorboard: bool = False


@dataclass(frozen=True)
class DistillRequest:
    """The options of ``ddkit distill``; None is what the user left out.

    Args:
        out: run folder.
        resume: continue the run in it, or start one where there is none yet.
        method: name of a method.
        data: what is distilled.
        ipc: images per class.
        seed: of the run.
        settings: ``KEY=VALUE`` texts of ``--set``.
        shortcuts: settings with an option of their own, such as ``steps``.
        data_options: by field of :class:`DataOptions`.
        callback_options: by field of :class:`CallbackOptions`.
        checkpoint_every: steps between checkpoints.
        show_progress: say how far it is, by a bar on a terminal and by lines elsewhere.
        command: what the user typed.
    """

    out: Path
    resume: bool
    method: str | None
    data: str | None
    ipc: int | None
    seed: int | None
    settings: Sequence[str]
    shortcuts: Mapping[str, Any]
    data_options: Mapping[str, Any]
    callback_options: Mapping[str, Any]
    checkpoint_every: int | None
    show_progress: bool
    command: str

    def overrides(self) -> dict[str, Any]:
        """Return the settings laid over those of the method.

        Raises:
            ConfigError: a setting that has no ``=``, that must be given as an option of its own, or that says
                something else than that option.
        """
        overrides = parse_assignments(list(self.settings))
        for key in ("method", "ipc", "seed"):
            if key in overrides:
                raise ConfigError(f"--set {key}={overrides[key]}: write --{key} {overrides[key]}")
        shortcuts = _given(self.shortcuts)
        for key in PIECES & set(shortcuts):
            shortcuts[key] = self._piece(key, shortcuts[key], overrides.pop(key, {}))
        for key, value in shortcuts.items():
            if overrides.get(key, value) != value:
                raise ConfigError(f"--set {key}={overrides[key]} contradicts --{key} {value}: leave one of them out")
        return merge(overrides, shortcuts)

    @staticmethod
    def _piece(key: str, text: str, settings: Any) -> dict[str, Any]:
        """Join ``--synthesis NAME`` with ``--set synthesis.option=value``."""
        piece = piece_from_text(text)
        settings = piece_from_text(settings) if isinstance(settings, str) else dict(settings)
        if settings.get("name", piece["name"]) != piece["name"]:
            raise ConfigError(f"--set {key}={settings['name']} contradicts --{key} {text}: leave one of them out")
        return merge(piece, settings)


@dataclass(frozen=True)
class _Plan:
    """A distillation about to start: its data, its callbacks, and its configuration once the data are there."""

    data: str
    seed: int
    data_options: DataOptions
    callback_options: CallbackOptions
    configure: Callable[[RealData], DistillConfig]

    def load(self) -> tuple[RealData, RealData | None]:
        """Return the training data and the held-out part, if any."""
        options = self.data_options
        real = load(self.data, "train", root=options.root, zca=options.zca)
        return real.split_off(options.holdout, Streams(self.seed)("holdout")) if options.holdout else (real, None)


def distil(request: DistillRequest) -> DistilledDataset:
    """Start a run, or continue the one in the folder.

    Raises:
        ConfigError: a wrong option, or a folder that does not fit; nothing was written.
        DDKitError: as :meth:`~ddkit.engine.Distiller.fit`.
    """
    folder = RunFolder(request.out)
    _check_folder(folder, request.resume)
    plan = _continued(request, folder) if request.resume and folder.config.is_file() else _new(request)
    if folder.finished:  # which needs neither data nor experts any more
        folder.tidy()
        return DistilledDataset.load(folder.artifact)
    _check_plan(plan)
    try:
        real, held_out = plan.load()
    except KeyboardInterrupt:
        raise InterruptedRunError(how_to_go_on("interrupted while data were read, state kept", folder)) from None
    callbacks = _callbacks(plan.callback_options, held_out, request.show_progress)
    distiller = Distiller(plan.configure(real), callbacks=callbacks, checkpoint_every=request.checkpoint_every)
    return distiller.fit(
        real,
        out=request.out,
        resume=request.resume,
        data_spec=plan.data,
        data_options=plan.data_options.model_dump(),
        callback_options=plan.callback_options.model_dump(),
        command=request.command,
    )


def _check_folder(folder: RunFolder, resume: bool) -> None:
    """Refuse early what :meth:`RunFolder.claim` would refuse once the data are loaded."""
    if folder.path.exists() and not folder.path.is_dir():
        raise ConfigError(f"'{folder.path}' is a file: choose another --out")
    if not folder.config.is_file():
        folder.require_empty()
    if folder.config.is_file() and not resume:
        raise ConfigError(f"'{folder.path}' holds another run: add --resume to continue it, or choose another --out")
    check_writable(folder.path)


def _new(request: DistillRequest) -> _Plan:
    if request.method is None:
        none = f"'{request.out}' holds no run to resume, and " if request.resume else ""
        raise ConfigError(f"{none}--method is missing: choose one from `ddkit methods`")
    method = methods.get(request.method)
    ipc = DEFAULT_IPC if request.ipc is None else request.ipc
    if ipc < 1:
        raise ConfigError(f"--ipc {ipc}: at least 1 image per class is needed")
    seed, overrides = request.seed or 0, request.overrides()
    _resolve_paths(overrides)
    for key in overrides:
        if key not in DistillConfig.model_fields:
            raise unknown_name("option", key, DistillConfig.model_fields)
    given = _given(request.data_options)
    if given.get("root"):
        given["root"] = str(Path(given["root"]).expanduser().resolve())
    return _Plan(
        data=DEFAULT_DATA if request.data is None else request.data,
        seed=seed,
        data_options=DataOptions(**given),
        callback_options=CallbackOptions(**_given(request.callback_options)),
        configure=lambda real: method.configure(real, ipc, seed, overrides),
    )


def _continued(request: DistillRequest, folder: RunFolder) -> _Plan:
    """Take everything from ``config.json``; an option given anew must say the same."""
    stored = folder.read()
    data = _data_of(stored["data"], request.data, folder)
    named = {"method": request.method, "ipc": request.ipc, "seed": request.seed}
    for key, value in named.items():
        if value is not None and value != stored["config"][key]:
            raise _other(folder, f"--{key} {stored['config'][key]}", value)
    data_options = _same(folder, DataOptions, stored["data"].get("options", {}), request.data_options, {"root"})
    callback_options = _same(
        folder, CallbackOptions, stored.get("callbacks", {}), request.callback_options, {"images_every", "tensorboard"}
    )
    overrides = request.overrides()
    _resolve_paths(overrides)
    config = DistillConfig.create(merge(stored["config"], overrides))
    for key in overrides:
        old, new = DistillConfig.create(stored["config"]).as_dict()[key], config.as_dict()[key]
        if without_paths(key, old) != without_paths(key, new):
            raise _other(folder, f"{key}={_short(old, new)}", _short(new, old))
    return _Plan(data, config.seed, data_options, callback_options, lambda _: config)


def _data_of(stored: Mapping[str, Any], given: str | None, folder: RunFolder) -> str:
    """Return where the data of a run are now; that they are the same data is compared once they are loaded.

    Raises:
        ConfigError: data known by another name, or no data at that place.
    """
    spec = str(stored["spec"])
    if given is None or given == spec:
        return spec if folder.finished else where_data_are(stored, folder.path)
    if spec.lower() in available() or absolute_path(given) is None:
        raise _other(folder, f"--data {spec}", given)
    return given


def _resolve_paths(overrides: dict[str, Any]) -> None:
    """Make the paths of files absolute: a resumed run may start in another folder."""
    for piece, option in PATHS.items():
        settings = overrides.get(piece)
        if isinstance(settings, dict) and isinstance(settings.get(option), str) and settings[option]:
            settings[option] = str(Path(settings[option]).expanduser().resolve())


def _same(folder: RunFolder, kind: type[Kept], stored: Any, given: Mapping[str, Any], free: set[str]) -> Kept:
    """Return the stored options of a run under those given anew, which may differ only where they are ``free``."""
    try:
        old = kind(**stored)
    except ValidationError as error:
        reason = describe_validation_error(error)
        raise ConfigError(f"'{folder.config}' is damaged: {reason}; restore it or start again elsewhere") from None
    for key, value in _given(given).items():
        if key not in free and value != getattr(old, key):
            raise _other(folder, f"--{key.replace('_', '-')} {getattr(old, key)}", value)
    return kind(**{**old.model_dump(), **_given(given)})


def _short(value: Any, other: Any) -> Any:
    """Return the name of a piece where the names differ, else the value itself."""
    names = [piece.get("name") if isinstance(piece, Mapping) else None for piece in (value, other)]
    return names[0] if names[0] and names[0] != names[1] else value


def _other(folder: RunFolder, option: str, value: object) -> ConfigError:
    return ConfigError(
        f"'{folder.path}' was started with {option}, not {value}: leave the option out or choose another --out"
    )


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _check_plan(plan: _Plan) -> None:
    options, watched = plan.data_options, plan.callback_options
    if not 0 <= options.holdout < 1:
        raise ConfigError(f"--holdout {options.holdout} must lie in [0, 1)")
    for name, value in _given(watched.model_dump()).items():
        if value is not True and value is not False and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if (watched.eval_every or watched.patience) and not options.holdout:
        raise ConfigError("--eval-every and --patience look at held-out training data: add --holdout 0.1")
    if watched.patience and not watched.eval_every:
        raise ConfigError(f"--patience {watched.patience} counts evaluations: add --eval-every STEPS")


def _callbacks(options: CallbackOptions, held_out: RealData | None, show_progress: bool) -> list[Callback]:
    chosen: list[Callback] = []
    if held_out is not None and options.eval_every:
        chosen.append(PeriodicEvaluation(held_out, options.eval_every))
    if options.patience:
        chosen.append(EarlyStop(options.patience))
    chosen.append(ImageGrids(options.images_every))
    if options.tensorboard:
        chosen.append(TensorBoard())
    if show_progress:
        chosen.append(ProgressBar() if sys.stderr.isatty() else ProgressLines())
    return chosen
