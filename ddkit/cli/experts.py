"""``ddkit experts`` trains networks on real data and keeps their trajectories."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddkit.base.executor import executor as make_executor
from ddkit.base.interrupt import Interrupt
from ddkit.base.progress import Lines, Report, silent
from ddkit.cli.common import DEFAULT_DATA, check_writable, where_data_are
from ddkit.cli.options import Data, DataRoot, Device, Executor, GivenSeed, Json, Verbose, speed, typed_command
from ddkit.cli.tables import print_json, print_table, say
from ddkit.errors import ConfigError, InterruptedRunError

if TYPE_CHECKING:
    from ddkit.data.real import RealData
    from ddkit.training.experts.buffer import ExpertBuffer
    from ddkit.training.experts.identity import Identity
    from ddkit.training.experts.settings import ExpertSettings


def experts(
    out: Annotated[Path, typer.Option(help="Folder of the experts; what it has already is kept.")],
    count: Annotated[int | None, typer.Option(help="Experts wanted in all (published: 100).")] = None,
    data: Data = None,
    method: Annotated[str, typer.Option(help="mtt, tesla, ftd or haba: gives what is left out below.")] = "mtt",
    ipc: Annotated[int, typer.Option(help="Images per class of the distillation to come, likewise.")] = 1,
    model: Annotated[str | None, typer.Option(help="NAME or NAME:option=value,... (default: convnet)")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each (default: the last one that is read).")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of SGD.")] = None,
    momentum: Annotated[float | None, typer.Option(help="Momentum of SGD (default: 0).")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 penalty (default: 0).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Real images per SGD step.")] = None,
    augmentation: Annotated[str | None, typer.Option(help="Strategy.")] = None,
    rho: Annotated[float | None, typer.Option(help="Radius of flat experts; 0 for plain SGD.")] = None,
    alpha: Annotated[float | None, typer.Option(help="Weight of the orthogonal gradient of flat experts.")] = None,
    adaptive: Annotated[bool | None, typer.Option("--adaptive/--no-adaptive", help="Scale rho by the weights.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Store float16: half the size.")] = False,
    seed: GivenSeed = None,
    data_root: DataRoot = None,
    zca: Annotated[str | None, typer.Option(help="Whiten: pixels, standardised (as distill --zca) or none.")] = None,
    holdout: Annotated[float, typer.Option(help="Part of the training data left out, as by distill --holdout.")] = 0.0,
    executor: Executor = "local",
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16 training.")] = "auto",
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Default: what is faster.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be trained, and its size.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Only check the files in --out.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train networks on real data and keep their trajectories, which MTT, FTD, TESLA and HaBa imitate.

    What is left out is what --method asks for on this data at --ipc. Run it again with the same --out to go on after an
    interruption, or with a larger --count to add experts: what is left out then is that of the experts in it.
    """
    from ddkit.base.device import resolve_device
    from ddkit.training.experts.identity import FILE_NAME, Identity
    from ddkit.training.experts.settings import ExpertSettings

    if verify:
        return _verify(out, dry_run, as_json)
    if count is None:
        raise ConfigError("--count is missing: say how many experts to train, for instance --count 20")
    if count < 1:
        raise ConfigError(f"--count {count}: at least 1 expert is needed")
    check_writable(out)
    how: dict[str, Any] = {"device": resolve_device(device)}
    there = Identity.read(out) if (out / FILE_NAME).is_file() else None
    if data is None:
        data = where_data_are({"spec": there.data["name"]}, out) if there else DEFAULT_DATA
    how |= speed(precision, compile)
    if seed is None:
        seed = there.settings.seed if there else 0
    given = {
        "model": model,
        "augmentation": augmentation,
        "epochs": epochs,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "batch_size": batch_size,
        "rho": rho,
        "alpha": alpha,
        "adaptive": adaptive,
        "dtype": "float16" if half else None,
        "seed": seed,
    }
    real = _data(data, data_root, holdout, seed)
    wanted, whitening = _settings(real, there, method, ipc, zca, given)
    settings = ExpertSettings(**wanted)
    real = real.whitened(whitening) if whitening else real
    facts = _facts(real, out, settings, count, how)
    if not as_json:
        say(_in_words(facts))
    if dry_run:
        return print_json(facts) if as_json else None
    buffer = _train(real, out, settings, count, executor, how, shown=not as_json)
    use = _use(out, settings, method, data, ipc, data_root, holdout, whitening)
    _print(buffer, as_json, use=use)


def _verify(out: Path, dry_run: bool, as_json: bool) -> None:
    """Read every file of a buffer and compare checksums."""
    from ddkit.training.experts.buffer import ExpertBuffer

    if dry_run:
        raise ConfigError("--verify and --dry-run exclude each other: leave one of them out")
    buffer = ExpertBuffer(out)
    with _bar(shown=not as_json) as report:
        buffer.verify(report)
    _print(buffer, as_json)


def _data(data: str, root: str | None, holdout: float, seed: int) -> RealData:
    """Load what a distillation with the same options sees."""
    from ddkit.base.streams import Streams
    from ddkit.data.loading import load

    if not 0 <= holdout < 1:
        raise ConfigError(f"--holdout {holdout} must lie in [0, 1)")
    real = load(data, "train", root=root)
    return real.split_off(holdout, Streams(seed)("holdout"))[0] if holdout else real


def _settings(
    real: RealData, there: Identity | None, method: str, ipc: int, zca: str | None, given: Mapping[str, Any]
) -> tuple[dict[str, Any], Any]:
    """Return settings and whitening as given, and for the rest those of the experts that are there or, without, those
    that the method's configuration asks of its experts.

    Raises:
        ConfigError: a method that follows no experts, or a whitening that does not exist.
    """
    from ddkit import methods

    if zca not in (None, "none", "standardised", "pixels"):
        raise ConfigError(f"--zca {zca}: choose standardised, pixels or none")
    config = methods.get(method).configure(real, ipc)
    if config.networks.name != "experts" or config.objective is None:
        raise ConfigError(f"--method {method} follows no experts: choose mtt, tesla, ftd or haba")
    whitening: str | None = config.zca
    if there is not None:
        wanted = there.settings.model_dump()
        whitening = whitening or "pixels" if there.preprocessing["zca"] else None
    else:
        networks, objective = config.networks.options, config.objective.options
        names = ("lr", "batch_size", "rho", "alpha", "adaptive")
        wanted = {
            "epochs": objective["max_start_epoch"] - 1 + objective["expert_epochs"],
            "augmentation": config.augmentation,
            **{name: networks[name] for name in names if name in networks},
        }
    wanted |= {name: value for name, value in given.items() if value is not None}
    if wanted.get("alpha") and not wanted.get("rho"):
        raise ConfigError(f"--alpha {wanted['alpha']} has no effect at rho 0: give --rho as well, such as --rho 0.01")
    if zca is not None:
        whitening = None if zca == "none" else zca
    return wanted, whitening


def _facts(real: RealData, out: Path, settings: ExpertSettings, count: int, how: dict[str, Any]) -> dict[str, Any]:
    """Return what is to be trained, its size and the room there is, JSON-able.

    Raises:
        DDKitError: the disk has no room for it, or the folder holds other experts.
    """
    from ddkit.training.experts import build

    precision = build.resolved_precision(real, settings, **how)
    build.require_room(real, out.absolute(), settings, count)
    _, missing = build.missing_experts(real, out.absolute(), settings, count)
    return {
        "experts": count,
        "missing": len(missing),
        "data": real.name,
        "images": len(real),
        "bytes": build.buffer_bytes(settings, real.shape, real.num_classes, len(missing)),
        "free_bytes": build.free_bytes(out),
        "precision": precision.name,
        "compiled": precision.compile,
        "settings": settings.model_dump(mode="json"),
    }


def _train(
    real: RealData, out: Path, settings: ExpertSettings, count: int, executor: str, how: dict[str, Any], shown: bool
) -> ExpertBuffer:
    """Train what is missing; say what is kept when a signal stops it."""
    from ddkit.training.experts.build import build_buffer

    workers = make_executor(executor)
    used = None if executor == "local" else workers
    with workers, _bar(shown) as report, Interrupt():
        try:
            return build_buffer(real, out, settings, count, executor=used, progress=report, **how)
        except KeyboardInterrupt:
            done = len(list(out.glob("expert-*.safetensors")))
            raise InterruptedRunError(
                f"interrupted: {done} of {count} experts in '{out}' are finished and kept; go on with "
                f"`{typed_command()}`"
            ) from None


def _use(
    out: Path,
    settings: ExpertSettings,
    method: str,
    data: str,
    ipc: int,
    data_root: str | None,
    holdout: float,
    zca: str | None,
) -> str:
    """Return a command that distils with the buffer."""
    words = ["ddkit", "distill", "--method", method, "--data", data, "--ipc", str(ipc)]
    if data_root:
        words += ["--data-root", data_root]
    if holdout:
        words += ["--holdout", f"{holdout:g}", "--seed", str(settings.seed)]
    changed: dict[str, Any] = {"zca": zca or "none", "model": settings.model, "networks.buffer": out}
    if settings.rho:
        changed |= {f"networks.{name}": getattr(settings, name) for name in ("rho", "alpha", "adaptive")}
    words += ["--out", f"runs/{method}"]
    return shlex.join([*words, *(word for key, value in changed.items() for word in ("--set", f"{key}={value}"))])


def _in_words(facts: dict[str, Any]) -> str:
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


def _print(buffer: ExpertBuffer, as_json: bool, **more: str) -> None:
    """Print what a buffer holds."""
    table = buffer.table()
    if as_json:
        return print_json(
            {
                "path": str(buffer.path),
                "experts": buffer.count,
                "epochs": buffer.epochs,
                "bytes": buffer.bytes,
                "digest": buffer.digest(),
                "table": table,
                **more,
            }
        )
    print_table(
        [
            {
                "expert": str(row["expert"]),
                "training loss": f"{row['loss']:.4f}",
                "training accuracy %": f"{100 * row['accuracy']:.1f}",
                "flatness (loss increase)": f"{row['flatness']:.5f}",
                "seconds": f"{row['seconds']:.1f}",
            }
            for row in table
        ]
    )
    typer.echo(f"{buffer.count} experts in {buffer.path} ({buffer.bytes:,} bytes)")
    if "use" in more:
        typer.echo(f"next: {more['use']}")


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
