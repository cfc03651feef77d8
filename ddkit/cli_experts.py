"""What does ``ddkit experts`` do with its options?"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ddkit import augment
from ddkit.cli_common import DEFAULT_DATA, check_writable
from ddkit.data import RealData, load
from ddkit.engine import resolve_device
from ddkit.errors import ConfigError, InterruptedRunError
from ddkit.executor import executor as make_executor
from ddkit.experts import ExpertBuffer, ExpertSettings, buffer_bytes, build_buffer
from ddkit.experts.build import free_bytes, resolved_precision
from ddkit.precision import PrecisionName
from ddkit.progress import Report, silent
from ddkit.streams import Streams


@dataclass(frozen=True)
class ExpertsRequest:
    """The options of ``ddkit experts``; None is what the user left out.

    Args:
        out: folder of the buffer.
        count: experts wanted; None for those that are there, with ``verify``.
        data: what they are trained on.
        data_root: where named data lie.
        zca: whitening, ``standardised`` or ``pixels``; None for none.
        holdout: part of the training data kept aside, as by ``ddkit distill --holdout`` with the same seed.
        augmentation: strategy of the training; None for that of the data's name.
        settings: further fields of :class:`ExpertSettings`.
        executor: where experts are trained.
        device: on what.
        precision: number format of training.
        compile: whether training is compiled; None decides by the length of the training.
        dry_run: only say what would be done.
        verify: only check the files that are there.
        show_progress: draw a bar.
    """

    out: Path
    count: int | None
    data: str | None
    data_root: str | None
    zca: str | None
    holdout: float
    augmentation: str | None
    settings: dict[str, Any]
    executor: str
    device: str
    precision: str
    compile: bool | None
    dry_run: bool
    verify: bool
    show_progress: bool


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
    device, count, data = resolve_device(request.device), request.count, request.data or DEFAULT_DATA
    augmentation = augment.default_strategy(data) if request.augmentation is None else request.augmentation
    settings = ExpertSettings(augmentation=augmentation, **request.settings)
    how = _precision(request)
    real = _data(request, data)
    precision = resolved_precision(real, settings, device, *how)
    facts = {
        "experts": count,
        "data": real.name,
        "images": len(real),
        "bytes": buffer_bytes(settings, real.shape, real.num_classes, count),
        "free_bytes": free_bytes(request.out),
        "precision": precision.name,
        "compiled": precision.compile,
        "settings": settings.model_dump(mode="json"),
    }

    def run() -> dict[str, Any]:
        workers = make_executor(request.executor)
        with workers, _bar(request.show_progress) as report:
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
                    f"interrupted: {done} of {count} experts in '{request.out}' are finished; the same command trains "
                    f"the others"
                ) from None
        return {**summary(buffer), "use": _use(request, data, settings)}

    return ExpertsPlan(facts, run)


def _precision(request: ExpertsRequest) -> tuple[PrecisionName, bool | Literal["auto"]]:
    if request.precision not in get_args(PrecisionName):
        raise ConfigError(f"--precision {request.precision}: choose {', '.join(get_args(PrecisionName))}")
    return cast(PrecisionName, request.precision), "auto" if request.compile is None else request.compile


def _data(request: ExpertsRequest, data: str) -> RealData:
    """Load what a distillation with the same options sees."""
    if request.zca not in (None, "standardised", "pixels"):
        raise ConfigError(f"--zca {request.zca}: choose standardised or pixels")
    if not 0 <= request.holdout < 1:
        raise ConfigError(f"--holdout {request.holdout} must lie in [0, 1)")
    real = load(data, "train", root=request.data_root)
    if request.holdout:
        real, _ = real.split_off(request.holdout, Streams(int(request.settings["seed"]))("holdout"))
    return real.whitened(request.zca) if request.zca else real  # type: ignore[arg-type]


def _use(request: ExpertsRequest, data: str, settings: ExpertSettings) -> str:
    """Return a command that distils with the buffer."""
    words = ["ddkit", "distill", "--method", "mtt", "--data", data, "--ipc", "1", "--out", "runs/mtt"]
    if request.data_root:
        words += ["--data-root", request.data_root]
    if request.holdout:
        words += ["--holdout", f"{request.holdout:g}", "--seed", str(settings.seed)]
    words += ["--set", f"zca={request.zca or 'null'}", "--set", f"model={settings.model}"]
    return shlex.join([*words, "--set", f"networks.buffer={request.out}"])


def in_words(facts: dict[str, Any]) -> str:
    """Return, on one line, what is going to be trained and what room it takes."""
    settings = facts["settings"]
    kind = f"flat (rho {settings['rho']:g}, alpha {settings['alpha']:g})" if settings["rho"] else "plain SGD"
    size, free = (_size(facts[key]) for key in ("bytes", "free_bytes"))
    return (
        f"{facts['experts']} experts of {settings['model']}, {settings['epochs']} epochs each on {facts['images']:,} "
        f"images of {facts['data']}, {kind}: {size} in {settings['dtype']}, {free} free"
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
    """Draw a bar on standard error."""
    if not shown:
        yield silent
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
