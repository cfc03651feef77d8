"""What does ``ddkit experts`` do with its options?"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ddkit import methods
from ddkit.base.device import resolve_device
from ddkit.base.executor import executor as make_executor
from ddkit.base.interrupt import Interrupt
from ddkit.base.precision import PrecisionName
from ddkit.base.progress import Lines, Report, silent
from ddkit.base.streams import Streams
from ddkit.cli.common import DEFAULT_DATA, check_writable, where_data_are
from ddkit.cli.tables import say
from ddkit.data.loading import load
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, InterruptedRunError
from ddkit.training.experts.buffer import ExpertBuffer
from ddkit.training.experts.build import (
    buffer_bytes,
    build_buffer,
    free_bytes,
    missing_experts,
    require_room,
    resolved_precision,
)
from ddkit.training.experts.identity import FILE_NAME, Identity
from ddkit.training.experts.settings import ExpertSettings


@dataclass(frozen=True)
class ExpertsRequest:
    """The options of ``ddkit experts``; None is what the user left out.

    Args:
        out: folder of the buffer.
        method: whose settings fill in what is left out.
        ipc: images per class of the distillation that will follow them, likewise.
        count: experts wanted; None for those that are there, with ``verify``.
        data: what they are trained on; None for that of the experts that are there, or the embedded data.
        data_root: where named data lie.
        zca: whitening, ``standardised``, ``pixels`` or ``none``; None for that of the method.
        holdout: part of the training data kept aside, as by ``ddkit distill --holdout`` with the same seed.
        settings: further fields of :class:`ExpertSettings`; None for those of the experts that are there, or of the
            method.
        executor: where experts are trained.
        device: on what.
        precision: number format of training.
        compile: whether training is compiled; None decides by the length of the training.
        dry_run: only say what would be done.
        verify: only check the files that are there.
        show_progress: say how far it is, by a bar on a terminal and by lines elsewhere.
        command: what the user typed.
    """

    out: Path
    method: str
    ipc: int
    count: int | None
    data: str | None
    data_root: str | None
    zca: str | None
    holdout: float
    settings: dict[str, Any]
    executor: str
    device: str
    precision: str
    compile: bool | None
    dry_run: bool
    verify: bool
    show_progress: bool
    command: str


@dataclass(frozen=True)
class ExpertsPlan:
    """A buffer about to be trained.

    Args:
        facts: what is to be trained, its size and the room there is, JSON-able.
        run: trains it.
    """

    facts: dict[str, Any]
    run: Callable[[], dict[str, Any]]


def verify(request: ExpertsRequest) -> dict[str, Any]:
    """Read every file of a buffer and compare checksums.

    Raises:
        ConfigError: together with ``--dry-run``.
        ArtifactError: a file is missing or was changed.
    """
    if request.dry_run:
        raise ConfigError("--verify and --dry-run exclude each other: leave one of them out")
    buffer = ExpertBuffer(request.out)
    with _bar(request.show_progress) as report:
        buffer.verify(report)
    return summary(buffer)


def plan(request: ExpertsRequest) -> ExpertsPlan:
    """Check all options, load the data and say what is going to be trained.

    Raises:
        DDKitError: a wrong option, or data or a folder that do not fit; nothing was written.
    """
    if request.count is None:
        raise ConfigError("--count is missing: say how many experts to train, for instance --count 20")
    if request.count < 1:
        raise ConfigError(f"--count {request.count}: at least 1 expert is needed")
    check_writable(request.out)
    device, count = resolve_device(request.device), request.count
    there = Identity.read(request.out) if (request.out / FILE_NAME).is_file() else None
    data = request.data
    if data is None:
        data = where_data_are({"spec": there.data["name"]}, request.out) if there else DEFAULT_DATA
    how = _precision(request)
    seed = request.settings["seed"]
    if seed is None:
        seed = there.settings.seed if there else 0
    real = _data(request, data, seed)
    chosen = {**_settings(request, real, there), "seed": seed}
    zca = chosen.pop("zca")
    settings = ExpertSettings(**chosen)
    real = real.whitened(zca) if zca else real
    precision = resolved_precision(real, settings, device, *how)
    require_room(real, request.out.absolute(), settings, count)
    _, missing = missing_experts(real, request.out.absolute(), settings, count)
    facts: dict[str, Any] = {
        "experts": count,
        "missing": len(missing),
        "data": real.name,
        "images": len(real),
        "bytes": buffer_bytes(settings, real.shape, real.num_classes, len(missing)),
        "free_bytes": free_bytes(request.out),
        "precision": precision.name,
        "compiled": precision.compile,
        "settings": settings.model_dump(mode="json"),
    }

    def run() -> dict[str, Any]:
        workers = make_executor(request.executor)
        with workers, _bar(request.show_progress) as report, Interrupt():
            used = None if request.executor == "local" else workers
            try:
                buffer = build_buffer(
                    real,
                    request.out,
                    settings,
                    count,
                    executor=used,
                    device=device,
                    precision=how[0],
                    compile=how[1],
                    progress=report,
                )
            except KeyboardInterrupt:
                done = len(list(request.out.glob("expert-*.safetensors")))
                raise InterruptedRunError(
                    f"interrupted: {done} of {count} experts in '{request.out}' are finished and kept; go on with "
                    f"`{request.command}`"
                ) from None
        return {**summary(buffer), "use": _use(request, data, settings, zca)}

    return ExpertsPlan(facts, run)


def _precision(request: ExpertsRequest) -> tuple[PrecisionName, bool | Literal["auto"]]:
    if request.precision not in get_args(PrecisionName):
        raise ConfigError(f"--precision {request.precision}: choose {', '.join(get_args(PrecisionName))}")
    return cast(PrecisionName, request.precision), "auto" if request.compile is None else request.compile


def _data(request: ExpertsRequest, data: str, seed: int) -> RealData:
    """Load what a distillation with the same options sees."""
    if not 0 <= request.holdout < 1:
        raise ConfigError(f"--holdout {request.holdout} must lie in [0, 1)")
    real = load(data, "train", root=request.data_root)
    if request.holdout:
        real, _ = real.split_off(request.holdout, Streams(seed)("holdout"))
    return real


def _settings(request: ExpertsRequest, real: RealData, there: Identity | None) -> dict[str, Any]:
    """Return the settings given, and for the rest those of the experts that are there or, without, those that the
    method's configuration asks of its experts.

    Raises:
        ConfigError: a method that follows no experts, or a whitening that does not exist.
    """
    if request.zca not in (None, "none", "standardised", "pixels"):
        raise ConfigError(f"--zca {request.zca}: choose standardised, pixels or none")
    config = methods.get(request.method).configure(real, request.ipc)
    if config.networks.name != "experts" or config.objective is None:
        raise ConfigError(f"--method {request.method} follows no experts: choose mtt, tesla, ftd or haba")
    zca: str | None = config.zca
    if there is not None:
        wanted = there.settings.model_dump()
        zca = zca or "pixels" if there.preprocessing["zca"] else None
    else:
        networks, objective = config.networks.options, config.objective.options
        names = ("lr", "batch_size", "rho", "alpha", "adaptive")
        wanted = {
            "epochs": objective["max_start_epoch"] - 1 + objective["expert_epochs"],
            "augmentation": config.augmentation,
            **{name: networks[name] for name in names if name in networks},
        }
    wanted |= {name: value for name, value in request.settings.items() if value is not None}
    if wanted.get("alpha") and not wanted.get("rho"):
        raise ConfigError(f"--alpha {wanted['alpha']} has no effect at rho 0: give --rho as well, such as --rho 0.01")
    if request.zca is not None:
        zca = None if request.zca == "none" else request.zca
    return {**wanted, "zca": zca}


def _use(request: ExpertsRequest, data: str, settings: ExpertSettings, zca: str | None) -> str:
    """Return a command that distils with the buffer."""
    words = ["ddkit", "distill", "--method", request.method, "--data", data, "--ipc", str(request.ipc)]
    if request.data_root:
        words += ["--data-root", request.data_root]
    if request.holdout:
        words += ["--holdout", f"{request.holdout:g}", "--seed", str(settings.seed)]
    changed: dict[str, Any] = {"zca": zca or "none", "model": settings.model, "networks.buffer": request.out}
    if settings.rho:
        changed |= {f"networks.{name}": getattr(settings, name) for name in ("rho", "alpha", "adaptive")}
    words += ["--out", f"runs/{request.method}"]
    return shlex.join([*words, *(word for key, value in changed.items() for word in ("--set", f"{key}={value}"))])


def in_words(facts: dict[str, Any]) -> str:
    """Return, on one line, what is going to be trained and what room it takes."""
    settings = facts["settings"]
    kind = f"flat (rho {settings['rho']:g}, alpha {settings['alpha']:g})" if settings["rho"] else "plain SGD"
    size, free = (_size(facts[key]) for key in ("bytes", "free_bytes"))
    there = facts["experts"] - facts["missing"]
    more = f" ({there} are there)" if there else ""
    return (
        f"{facts['missing']} expert{'s' * (facts['missing'] != 1)}{more} of {settings['model']}, {settings['epochs']} "
        f"epochs each on {facts['images']:,} images of {facts['data']}, {kind}: {size} in {settings['dtype']}, "
        f"{free} free"
    )


def _size(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.2f} MB"


def summary(buffer: ExpertBuffer) -> dict[str, Any]:
    """Return what a buffer holds, JSON-able."""
    return {
        "path": str(buffer.path),
        "experts": buffer.count,
        "epochs": buffer.epochs,
        "bytes": buffer.bytes,
        "digest": buffer.digest(),
        "table": buffer.table(),
    }


def table_rows(outcome: dict[str, Any]) -> list[dict[str, str]]:
    """Return the measures of every expert in the columns of a terminal."""
    return [
        {
            "expert": str(row["expert"]),
            "training loss": f"{row['loss']:.4f}",
            "training accuracy %": f"{100 * row['accuracy']:.1f}",
            "flatness (loss increase)": f"{row['flatness']:.5f}",
            "seconds": f"{row['seconds']:.1f}",
        }
        for row in outcome["table"]
    ]


@contextmanager
def _bar(shown: bool) -> Iterator[Report]:
    """Draw a bar on standard error, or write lines where that is no terminal."""
    if not shown or not sys.stderr.isatty():
        yield Lines(say) if shown else silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4) as bar:
        tasks: dict[str, Any] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report
