"""``ddkit distill`` starts a run, or continues the one in the folder.

Whatever is wrong with the options or the run folder is refused before work starts.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddkit.cli.options import Data, DataRoot, GivenSeed, Json, Settings, Verbose, typed_command
from ddkit.cli.tables import print_json

if TYPE_CHECKING:
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.engine.minutes import Forecast
    from ddkit.engine.run import RunFolder


def distill(
    out: Annotated[Path | None, typer.Option(help="Folder that keeps the run (default: runs/METHOD-DATA).")] = None,
    method: Annotated[str | None, typer.Option(help="A name from `ddkit methods` (default: auto).")] = None,
    data: Data = None,
    ipc: Annotated[int | None, typer.Option(help="Images per class (default: 10, or what fits --bytes).")] = None,
    size: Annotated[str | None, typer.Option("--bytes", help="Most bytes of the set, such as 4000 or 64KiB.")] = None,
    minutes: Annotated[float | None, typer.Option(help="For all of it (default: the steps of the method).")] = None,
    codec: Annotated[str | None, typer.Option(help="In which it is kept, such as uniform:bits=3.")] = None,
    seed: GivenSeed = None,
    steps: Annotated[int | None, typer.Option(help="Outer steps (default: the published schedule).")] = None,
    synthesis: Annotated[str | None, typer.Option(help="What is learned, NAME or NAME:option=value,...")] = None,
    objective: Annotated[str | None, typer.Option(help="What is matched, NAME or NAME:option=value,...")] = None,
    networks: Annotated[str | None, typer.Option(help="Source of matching networks, likewise.")] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out; without one, start it.")] = False,
    holdout: Annotated[float | None, typer.Option(help="Part of the training data kept for --eval-every.")] = None,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations on the held-out part.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many evaluations without gain.")] = None,
    images_every: Annotated[int | None, typer.Option(help="Steps between pictures (default: ten a run).")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints (default: a minute).")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard scalars.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how long it takes, and its memory.")] = False,
    data_root: DataRoot = None,
    zca: Annotated[bool, typer.Option("--zca", help="Whiten images (regularised ZCA).")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Distil a dataset into IPC images per class, or into a number of bytes.

    With --bytes, codec and images per class are chosen on held-out training images, and the better of the result and
    its coded start is kept. --method auto does that with what ddkit recommends, by default in the bytes of IPC real
    images per class. With --minutes some steps are timed, and as many are taken as fit; it says how many. --dry-run
    takes some steps, says how long all would take, and writes nothing.

    A method is a composition and every piece can be replaced: --synthesis multi-formation:factor=2, --objective
    gradient, --networks fresh (`ddkit methods --pieces` lists them). Any setting can be overridden: --set
    optimiser.lr=0.5 --set model=convnet:width=64 --set augmentation=none. Ctrl-C saves the state; --resume goes on.
    """
    from ddkit.base.sizes import parse_bytes
    from ddkit.cli import runs
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.engine.distiller import Distiller

    folder = runs.folder_of(out, method, data)
    stored = runs.stored_in(folder, resume)
    data = runs.data_of(folder, stored, data)
    limit = None if size is None else parse_bytes(size)
    method, ipc, seed = runs.identity(folder, stored, resume, method, ipc, seed, limit, minutes)
    if stored is None and data_root:
        data_root = str(Path(data_root).expanduser().resolve())
    kept = stored and stored["data"].get("options", {})
    loading = runs.DataOptions.of(folder, kept, root=data_root, zca=zca or None, holdout=holdout)
    watch = {"eval_every": eval_every, "patience": patience, "images_every": images_every}
    kept = stored and stored.get("callbacks", {})
    watching = runs.CallbackOptions.of(folder, kept, **watch, tensorboard=tensorboard or None)
    pieces = {"synthesis": synthesis, "objective": objective, "networks": networks}
    overrides = runs.overrides(settings or [], steps=steps, device=device, codec=codec, **pieces)
    config = runs.same_config(folder, stored, {**overrides, "bytes": limit} if limit else overrides) if stored else None
    if folder.finished:  # which needs neither data nor experts any more
        folder.tidy()
        result = DistilledDataset.load(folder.artifact)
        if not as_json:
            typer.echo("the run was finished already")
        return _print_run(folder, result, as_json)
    runs.check(loading, watching)
    real, held_out = runs.load_data(folder, data, seed, loading)
    callbacks = runs.callbacks(watching, held_out, show_progress=not as_json)
    request: dict[str, Any] = {"ipc": ipc, "bytes": limit, "minutes": minutes, "seed": seed} if config is None else {}
    distiller = Distiller(config or method, callbacks=callbacks, checkpoint_every=checkpoint_every, **request)
    distiller.overrides = overrides  # as they are typed: null stands for no piece here, not for the method's
    if dry_run:
        return _print_forecast(distiller.forecast(real), as_json)
    result = distiller.fit(
        real,
        out=folder.path,
        resume=resume,
        data_spec=data,
        data_options=loading.model_dump(),
        callback_options=watching.model_dump(),
        command=typed_command(),
    )
    _print_run(folder, result, as_json)


def _print_forecast(expected: Forecast, as_json: bool) -> None:
    if as_json:
        numbers = {"steps": expected.steps, "seconds": expected.seconds, "memory_bytes": expected.memory}
        return print_json({"method": expected.config.title, "ipc": expected.config.ipc, **numbers})
    typer.echo(str(expected))


def _print_run(folder: RunFolder, result: DistilledDataset, as_json: bool) -> None:
    if as_json:
        keep = ("method", "seed", "steps", "source", "selection", "promise")
        kept = {key: result.metadata[key] for key in keep if key in result.metadata}
        return print_json({"artifact": str(folder.artifact), "budget": result.budget.as_dict(), **kept})
    size = f"{folder.artifact.stat().st_size:,} bytes"
    typer.echo(f"{len(result)} images of {result.num_classes} classes in {folder.artifact} ({size})")
    if result.coding is not None:
        typer.echo(f"codec {result.coding.codec}: {result.budget.payload:,} bytes without the card")
    if result.card.promise is not None:
        typer.echo(f"kept the {result.card.selection}")
    where = shlex.quote(str(folder.path))
    typer.echo(f"next: ddkit evaluate {where} --baseline random    then: ddkit show {where}")
