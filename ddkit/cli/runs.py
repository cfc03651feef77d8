"""Which run does ``ddkit distill`` start or continue?

A run that is continued takes everything from ``config.json``; an option given anew must say the same.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ddkit.base.config import DistillConfig, merge, parse_assignments, piece_from_text
from ddkit.base.registry import describe_validation_error
from ddkit.base.streams import Streams
from ddkit.cli.common import DEFAULT_DATA, DEFAULT_IPC, check_writable, where_data_are
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
from ddkit.engine.planning import AUTO, preset
from ddkit.engine.resume import how_to_go_on
from ddkit.engine.run import PATHS, RunFolder, absolute_path, without_paths
from ddkit.errors import ConfigError, InterruptedRunError, unknown_name

#: What ``config.json`` holds.
Stored = Mapping[str, Any]


class _Kept(BaseModel):
    """Options that ``config.json`` keeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    #: Those that a resumed run may change.
    free: ClassVar[frozenset[str]]

    @classmethod
    def of(cls, folder: RunFolder, stored: Stored | None, **given: Any) -> Self:
        """Return the stored options of a run under those given; of a new one where none are stored.

        Args:
            folder: of the run.
            stored: these options in its ``config.json``.
            given: by name; None where it was left out.

        Raises:
            ConfigError: stored options that are damaged, or one given that says something else.
        """
        given = _given(given)
        if stored is None:
            return cls(**given)
        try:
            old = cls(**stored)
        except ValidationError as error:
            reason = describe_validation_error(error)
            raise ConfigError(f"'{folder.config}' is damaged: {reason}; restore it or start again elsewhere") from None
        for key, value in given.items():
            if key not in cls.free and value != getattr(old, key):
                raise _other(folder, f"--{key.replace('_', '-')} {getattr(old, key)}", value)
        return cls(**{**old.model_dump(), **given})


class DataOptions(_Kept):
    """How the training data are loaded: what ``config.json`` keeps, so that a resumed run sees the same data.

    Args:
        root: where named data lie; None for ``$DDKIT_DATA``.
        zca: whether images are whitened.
        holdout: part of the training data kept aside, chosen by the run's seed.
    """

    free = frozenset({"root"})

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

    free = frozenset({"images_every", "tensorboard"})

    eval_every: int | None = None
    patience: int | None = None
    images_every: int | None = None
    tensorboard: bool = False


def stored_in(folder: RunFolder, resume: bool) -> Stored | None:
    """Return what ``config.json`` holds of the run to continue, None where a new one starts.

    Raises:
        ConfigError: early, what :meth:`RunFolder.claim` would refuse once the data are loaded.
    """
    if folder.path.exists() and not folder.path.is_dir():
        raise ConfigError(f"'{folder.path}' is a file: choose another --out")
    if not folder.config.is_file():
        folder.require_empty()
    elif not resume:
        raise ConfigError(f"'{folder.path}' holds another run: add --resume to continue it, or choose another --out")
    check_writable(folder.path)
    return folder.read() if folder.config.is_file() else None


def folder_of(out: Path | None, method: str | None, data: str | None) -> RunFolder:
    """Return the folder of a run: ``runs/METHOD-DATA`` where none is named."""
    name = f"{(method or AUTO).lower()}-{Path(data or DEFAULT_DATA).stem.lower()}"
    return RunFolder(Path("runs", name) if out is None else out)


def data_of(folder: RunFolder, stored: Stored | None, given: str | None) -> str:
    """Return where the data of a run are now; that they are the same data is compared once they are loaded.

    Raises:
        ConfigError: data known by another name, or no data at that place.
    """
    if stored is None:
        return DEFAULT_DATA if given is None else given
    spec = str(stored["data"]["spec"])
    if given is None or given == spec:
        return spec if folder.finished else where_data_are(stored["data"], folder.path)
    if spec.lower() in available() or absolute_path(given) is None:
        raise _other(folder, f"--data {spec}", given)
    return given


def identity(
    folder: RunFolder,
    stored: Stored | None,
    resume: bool,
    method: str | None,
    ipc: int | None,
    seed: int | None,
    limit: int | None = None,
    minutes: float | None = None,
) -> tuple[str, int | None, int]:
    """Return method, images per class and seed; no images per class where as many are wanted as fit the bytes.

    Raises:
        ConfigError: nothing to resume, an unknown method, too few images, or something else than the run was started
            with.
    """
    if stored is not None:
        config = DistillConfig.create(stored["config"])
        if method == AUTO and config.bytes is not None:
            method = None
        for key, value in _given({"method": method, "ipc": ipc, "seed": seed}).items():
            if value != getattr(config, key):
                raise _other(folder, f"--{key} {getattr(config, key)}", value)
        planned_for = stored.get("request", {}).get("minutes")
        if minutes is not None and minutes != planned_for:
            raise _other(folder, "no --minutes" if planned_for is None else f"--minutes {planned_for:g}", minutes)
        return config.method, config.ipc, config.seed
    if method is None and resume:
        raise ConfigError(
            f"'{folder.path}' holds no run to resume, and --method is missing: choose one from `ddkit methods`, or auto"
        )
    method = method or AUTO
    preset(method)
    ipc = DEFAULT_IPC if ipc is None and limit is None else ipc
    if ipc is not None and ipc < 1:
        raise ConfigError(f"--ipc {ipc}: at least 1 image per class is needed")
    return method, ipc, seed or 0


def overrides(settings: list[str], **shortcuts: Any) -> dict[str, Any]:
    """Return the settings laid over those of the method.

    The paths of files among them become absolute: a resumed run may start in another folder.

    Args:
        settings: ``KEY=VALUE`` texts of ``--set``.
        shortcuts: settings with an option of their own, such as ``steps``; None where it was left out.

    Raises:
        ConfigError: a setting that has no ``=``, that does not exist, that must be given as an option of its own, or
            that says something else than that option.
    """
    assigned = parse_assignments(settings)
    for key in ("method", "ipc", "seed", "bytes"):
        if key in assigned:
            raise ConfigError(f"--set {key}={assigned[key]}: write --{key} {assigned[key]}")
    shortcuts = _given(shortcuts)
    for key in ("synthesis", "objective", "networks"):
        if key in shortcuts:
            shortcuts[key] = _piece(key, shortcuts[key], assigned.pop(key, {}))
    for key, value in shortcuts.items():
        if assigned.get(key, value) != value:
            raise ConfigError(f"--set {key}={assigned[key]} contradicts --{key} {value}: leave one of them out")
    assigned = merge(assigned, shortcuts)
    for piece, option in PATHS.items():
        named = assigned.get(piece)
        if isinstance(named, dict) and isinstance(named.get(option), str) and named[option]:
            named[option] = str(Path(named[option]).expanduser().resolve())
    for key in assigned:
        if key not in DistillConfig.model_fields:
            raise unknown_name("option", key, DistillConfig.model_fields)
    return assigned


def _piece(key: str, text: str, settings: Any) -> dict[str, Any]:
    """Join ``--synthesis NAME`` with ``--set synthesis.option=value``."""
    piece = piece_from_text(text)
    settings = piece_from_text(settings) if isinstance(settings, str) else dict(settings)
    if settings.get("name", piece["name"]) != piece["name"]:
        raise ConfigError(f"--set {key}={settings['name']} contradicts --{key} {text}: leave one of them out")
    return merge(piece, settings)


def same_config(folder: RunFolder, stored: Stored, overrides: Mapping[str, Any]) -> DistillConfig:
    """Return the configuration of the run to continue, with the new place of files that have moved.

    Raises:
        ConfigError: a setting that says something else.
    """
    config = DistillConfig.create(merge(stored["config"], overrides))
    before, after = DistillConfig.create(stored["config"]).as_dict(), config.as_dict()
    for key in overrides:
        old, new = before[key], after[key]
        if without_paths(key, old) != without_paths(key, new):
            raise _other(folder, f"{key}={_short(old, new)}", _short(new, old))
    return config


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


def check(loading: DataOptions, watching: CallbackOptions) -> None:
    """Refuse options that are out of range, or that need another one.

    Raises:
        ConfigError: so they are.
    """
    if not 0 <= loading.holdout < 1:
        raise ConfigError(f"--holdout {loading.holdout} must lie in [0, 1)")
    for name, value in _given(watching.model_dump()).items():
        if value is not True and value is not False and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be at least 1")
    if (watching.eval_every or watching.patience) and not loading.holdout:
        raise ConfigError("--eval-every and --patience look at held-out training data: add --holdout 0.1")
    if watching.patience and not watching.eval_every:
        raise ConfigError(f"--patience {watching.patience} counts evaluations: add --eval-every STEPS")


def load_data(folder: RunFolder, data: str, seed: int, options: DataOptions) -> tuple[RealData, RealData | None]:
    """Return the training data and the held-out part, if any.

    Raises:
        DDKitError: data that cannot be loaded, or an interruption.
    """
    try:
        real = load(data, "train", root=options.root, zca=options.zca)
        return real.split_off(options.holdout, Streams(seed)("holdout")) if options.holdout else (real, None)
    except KeyboardInterrupt:
        raise InterruptedRunError(how_to_go_on("interrupted while data were read, state kept", folder)) from None


def callbacks(options: CallbackOptions, held_out: RealData | None, show_progress: bool) -> list[Callback]:
    """Return what happens around the loop; progress is a bar on a terminal and lines elsewhere."""
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
