"""The command line: parses, calls, prints; nothing else."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddkit.errors import ConfigError, DDKitError

if TYPE_CHECKING:
    from ddkit.artifact import DistilledDataset
    from ddkit.data import RealData
    from ddkit.engine import Callback

app = typer.Typer(
    name="ddkit",
    help="Learn a tiny synthetic dataset that trains models almost as well as the full one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recipe_app = typer.Typer(help="End-to-end jobs: list, show, copy and run them.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on standard output.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show the traceback of an error.")]
Data = Annotated[str, typer.Option(help="digits, a torchvision name, a folder, a Parquet file or folder, or .npz.")]
DataRoot = Annotated[str | None, typer.Option(help="Where named data lie [default: $DDKIT_DATA].")]
Seed = Annotated[int, typer.Option(min=0, help="The only seed.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting.")]
RunPath = Annotated[Path, typer.Argument(help="A run folder or a .safetensors file.")]


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Learn a tiny synthetic dataset that trains models almost as well as the full one."""
    if show:
        from ddkit import __version__

        typer.echo(f"ddkit {__version__}")
        raise typer.Exit


@app.command()
def methods(as_json: Json = False, verbose: Verbose = False) -> None:
    """List every method: family, what it learns, paper, cost class."""
    from ddkit import methods as named

    rows = [named.get(name).describe() for name in named.available()]
    if as_json:
        return _print_json(rows)
    columns = {
        "name": "method",
        "family": "family",
        "learns": "learns",
        "cost": "full cost",
        "paper": "paper",
    }
    _print_table([{title: row[key] for key, title in columns.items()} for row in rows])


@app.command()
def distill(
    out: Annotated[Path, typer.Option(help="Folder that keeps the run.")],
    method: Annotated[str | None, typer.Option(help="A name from `ddkit methods`.")] = None,
    data: Data = "digits",
    ipc: Annotated[int, typer.Option(help="Images per class.")] = 10,
    seed: Seed = 0,
    steps: Annotated[int | None, typer.Option(help="Outer steps [default: the published schedule].")] = None,
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    holdout: Annotated[float, typer.Option(help="Part of the training data kept aside for evaluation.")] = 0.0,
    eval_every: Annotated[int | None, typer.Option(help="Steps between evaluations on the held-out part.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many evaluations without gain.")] = None,
    images_every: Annotated[int | None, typer.Option(help="Steps between pictures [default: ten a run].")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints [default: a minute].")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard scalars.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    data_root: DataRoot = None,
    zca: Annotated[bool, typer.Option("--zca", help="Whiten images (regularised ZCA).")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Distil a dataset into IPC images per class.

    Any setting of the method can be overridden: --set optimiser.lr=0.5 --set model=convnet:width=64
    --set objective.real_batch=128 --set augmentation=none. Ctrl-C saves the state; --resume goes on.
    """
    from ddkit.config import DistillConfig, merge, parse_assignments
    from ddkit.data import load
    from ddkit.engine import Distiller, RunFolder
    from ddkit.streams import Streams

    overrides = parse_assignments(settings or [])
    for key, value in (("steps", steps), ("device", device)):
        if value is not None:
            overrides = merge(overrides, {key: value})
    stored = RunFolder(out).read() if resume else None
    if stored is not None:
        options = stored["data"].get("options", {})
        data, data_root = stored["data"]["spec"], data_root or options.get("root")
        zca, holdout = options.get("zca", zca), options.get("holdout", holdout)
    elif method is None:
        raise ConfigError("--method is missing: choose one from `ddkit methods`")
    else:
        from ddkit import methods as named

        named.get(method)
        if ipc < 1:
            raise ConfigError(f"--ipc {ipc}: at least 1 image per class is needed")
    if not 0 <= holdout < 1:
        raise ConfigError(f"--holdout {holdout} must lie in [0, 1)")
    if (eval_every or patience) and not holdout:
        raise ConfigError("--eval-every and --patience look at held-out training data: add --holdout 0.1")
    real = load(data, "train", root=data_root, zca=zca)
    held_out = None
    if holdout:
        real, held_out = real.split_off(holdout, Streams(seed if stored is None else 0)("holdout"))
    callbacks = _callbacks(held_out, eval_every, patience, images_every, tensorboard, as_json)
    if stored is not None:
        config = DistillConfig.create(merge(stored["config"], overrides))
        distiller = Distiller(config, callbacks=callbacks, checkpoint_every=checkpoint_every)
    else:
        assert method is not None
        distiller = Distiller(
            method, ipc, seed=seed, callbacks=callbacks, checkpoint_every=checkpoint_every, **overrides
        )
    result = distiller.fit(real, out=out, resume=resume, data_spec=data, command=_command())
    artifact = RunFolder(out).artifact
    if as_json:
        return _print_json({"artifact": str(artifact), "budget": result.budget.as_dict(), **_headline(result)})
    typer.echo(
        f"{len(result)} images of {result.num_classes} classes in {artifact} ({artifact.stat().st_size:,} bytes)"
    )
    typer.echo(f"next: ddkit evaluate {out} --baseline random    then: ddkit show {out}")


def _callbacks(
    held_out: RealData | None,
    eval_every: int | None,
    patience: int | None,
    images_every: int | None,
    tensorboard: bool,
    as_json: bool,
) -> list[Callback]:
    from ddkit.engine import EarlyStop, ImageGrids, PeriodicEvaluation, ProgressBar, TensorBoard

    chosen: list[Callback] = []
    if held_out is not None and eval_every:
        chosen.append(PeriodicEvaluation(held_out, eval_every))
    if patience:
        chosen.append(EarlyStop(patience))
    chosen.append(ImageGrids(images_every))
    if tensorboard:
        chosen.append(TensorBoard())
    if not as_json:
        chosen.append(ProgressBar())
    return chosen


@app.command()
def evaluate(
    run: RunPath,
    arch: Annotated[list[str] | None, typer.Option(help="Architecture, repeatable [default: convnet].")] = None,
    repeats: Annotated[int, typer.Option(help="Networks per architecture.")] = 5,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="random, herding, random-soft, random-bytes, class-mean or whole; repeatable."),
    ] = None,
    recipe: Annotated[str | None, typer.Option(help="dc, dsa or quick [default: the artifact's own].")] = None,
    settings: Settings = None,
    data: Annotated[str | None, typer.Option(help="Test data [default: what was distilled].")] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    scores: Annotated[bool, typer.Option("--scores", help="Also label- and augmentation-robust scores.")] = False,
    executor: Annotated[str, typer.Option(help="local or ray.")] = "local",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16 training.")] = "float32",
    compile: Annotated[bool, typer.Option("--compile", help="Compile training (repays long recipes).")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train fresh networks on a distilled set, test them on untouched data, compare with baselines."""
    from ddkit import evaluation as ev
    from ddkit.artifact import DistilledDataset
    from ddkit.config import parse_assignments
    from ddkit.data import load_pair
    from ddkit.engine import RunFolder, resolve_device
    from ddkit.executor import executor as make_executor

    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"--precision {precision}: choose float32 or bfloat16")
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats}: at least 1 network must be trained")
    distilled = DistilledDataset.load(run)
    folder = RunFolder(run) if run.is_dir() else None
    source = distilled.metadata.get("source") or {}
    spec = data or (folder.read()["data"]["spec"] if folder and folder.config.is_file() else source.get("name"))
    if not spec:
        raise ConfigError("the artifact does not say what it was distilled from: name it with --data")
    chosen = ev.recipe_of(distilled)
    changes = parse_assignments(settings or [])
    if recipe is not None:
        chosen = ev.recipe(recipe, str(source.get("name", spec)))
    if changes:
        chosen = chosen.replace(**changes)
    train, test = load_pair(spec, root=data_root)
    workers = None if executor == "local" else make_executor(executor)
    options: dict[str, Any] = {
        "device": resolve_device(device),
        "precision": precision,
        "compile": compile,
        "executor": workers,
    }
    try:
        results = ev.assess(
            distilled,
            test,
            train=train,
            baselines=baseline or (),
            architectures=arch or [str((distilled.metadata.get("config") or {}).get("model", "convnet"))],
            repeats=repeats,
            recipe=chosen,
            seed=seed,
            report_progress=(lambda _: None) if as_json else _say,
            **options,
        )
        extra = {}
        if scores:
            _say("computing label- and augmentation-robust scores")
            spec_of = (arch or ["convnet"])[0]
            robust = ev.robust_scores(
                distilled,
                train,
                test,
                architecture=spec_of,
                recipe=chosen,
                repeats=repeats,
                seed=seed,
                **options,
            )
            extra["scores"] = robust.as_dict()
    finally:
        if workers is not None:
            workers.close()
    if folder is not None:
        ev.write_evaluation(folder.path, results, _command(), **extra)
    if as_json:
        return _print_json({"results": [{"label": n, "result": r.as_dict()} for n, r in results], **extra})
    _print_table([row for label, result in results for row in _accuracy_rows(label, result, distilled)])
    for name, value in extra.get("scores", {}).items():
        typer.echo(f"{name}: {value}")


@app.command()
def show(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="HTML file [default: report.html in the run].")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write one self-contained HTML report: images, curves, accuracies, cost, exact command."""
    from ddkit.report import write_report

    path = write_report(runs, out)
    _print_json({"report": str(path)}) if as_json else typer.echo(f"report: {path}")


@app.command()
def export(
    run: RunPath,
    format: Annotated[str, typer.Option(help="parquet, imagefolder or npz.")],
    out: Annotated[Path | None, typer.Option(help="Where to [default: beside the run].")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the distilled images in a format that other tools read, and say what was lost."""
    from ddkit.artifact import DistilledDataset

    distilled = DistilledDataset.load(run)
    base = run if run.is_dir() else run.parent
    names = {"npz": "distilled.npz", "parquet": "parquet", "imagefolder": "imagefolder"}
    result = distilled.export(out or base / "export" / names.get(format, format), format)  # type: ignore[arg-type]
    summary = {
        "path": str(result.path),
        "files": result.files,
        "lossy": result.lossy,
        "clipped_fraction": result.clipped_fraction,
    }
    if as_json:
        return _print_json(summary)
    typer.echo(f"{summary['files']} files in {result.path}")
    if result.lossy:
        typer.echo(f"lost: {result.lossy}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    baselines: Annotated[bool, typer.Option("--baselines", help="Also the baselines evaluated with them.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs with each other and with the published figures."""
    from ddkit.report import comparison_table

    rows = comparison_table(runs, baselines=baselines)
    if as_json:
        return _print_json(rows)
    _print_table([_comparison_row(row) for row in rows])


@app.command()
def doctor(data_root: DataRoot = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Say which versions, extras, devices and data are there."""
    from ddkit.doctor import examine

    report = examine(data_root)
    if as_json:
        return _print_json(report)
    for title, rows in report.items():
        typer.echo(f"\n{title}")
        _print_table(rows)


@recipe_app.command("list")
def recipe_list(as_json: Json = False, verbose: Verbose = False) -> None:
    """List the recipes with the time they take."""
    from ddkit import recipes

    rows = [
        {"recipe": r.name, "what": r.title, "expected": r.expected}
        for r in (recipes.load(name) for name in recipes.available())
    ]
    _print_json(rows) if as_json else _print_table(rows)


@recipe_app.command("show")
def recipe_show(name: str, as_json: Json = False, verbose: Verbose = False) -> None:
    """Print the file of a recipe."""
    from ddkit import recipes

    recipe = recipes.load(name)
    _print_json(recipe.settings) if as_json else typer.echo(recipe.path.read_text(encoding="utf-8"), nl=False)


@recipe_app.command("copy")
def recipe_copy(name: str, folder: Path, as_json: Json = False, verbose: Verbose = False) -> None:
    """Copy a recipe's file, to edit and run it by path."""
    from ddkit import recipes

    path = recipes.copy(name, folder)
    _print_json({"path": str(path)}) if as_json else typer.echo(f"edit {path}, then: ddkit recipe run {path}")


@recipe_app.command("run")
def recipe_run(
    name: Annotated[str, typer.Argument(help="A name from `ddkit recipe list`, or a .yaml file.")],
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder for runs and report [default: runs/NAME].")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe from end to end: runs, table and report."""
    from ddkit import recipes
    from ddkit.config import parse_assignments

    recipe = recipes.load(name)
    target = out or Path("runs") / recipe.name
    outcome = recipe.run(parse_assignments(settings or []), target, (lambda _: None) if as_json else _say)
    if as_json:
        return _print_json(outcome)
    _print_table(outcome["table"])
    typer.echo(f"report: {outcome['report']}    {outcome['seconds']:.0f} seconds")


def _headline(distilled: DistilledDataset) -> dict[str, Any]:
    keep = ("method", "seed", "steps", "source", "selection")
    return {key: distilled.metadata[key] for key in keep if key in distilled.metadata}


def _accuracy_rows(label: str, result: Any, distilled: DistilledDataset) -> list[dict[str, Any]]:
    from ddkit.evaluation import published

    config = distilled.metadata.get("config") or {}
    rows = []
    for row in result.rows:
        figure = published(label, result.data, config.get("ipc")) if row.architecture.startswith("convnet") else None
        interval = row.interval95
        rows.append(
            {
                "set": label,
                "architecture": row.architecture,
                "images": result.train_images,
                "accuracy %": f"{100 * row.mean:.1f} ± {100 * row.std:.1f}",
                "95% interval": f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "-",
                "networks": len(row.accuracies),
                "published %": f"{figure.accuracy:.1f}" if figure else "-",
                "seconds": f"{row.seconds:.1f}",
            }
        )
    return rows


def _comparison_row(row: dict[str, Any]) -> dict[str, Any]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    measured = "not evaluated" if row["mean"] is None else f"{percent(row['mean'])} ± {percent(row['std'])}"
    return {
        "run": Path(row["run"]).name,
        "set": row["label"],
        "data": row["data"],
        "ipc": row["ipc"],
        "bytes": row["bytes"],
        "architecture": row["architecture"] or "-",
        "accuracy %": measured,
        "networks": row["repeats"],
        "published %": percent(row["published"]),
    }


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return typer.echo("nothing to show")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*("-" if value is None else str(value) for value in row.values()))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def _command() -> str:
    return shlex.join(["ddkit", *sys.argv[1:]])


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one line and an exit status (2 bad input, 1 failed run, 130 interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    verbose = bool({"-v", "--verbose"} & set(arguments))
    if not verbose:
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
    try:
        app(args=arguments)
    except DDKitError as error:
        _fail(error, error.exit_status, verbose)
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(130) from None
    except Exception as error:
        _fail(
            error,
            1,
            verbose,
            prefix=f"{type(error).__name__}: ",
            hint=" (run again with -v for the traceback)",
        )


def _fail(error: BaseException, status: int, verbose: bool, prefix: str = "", hint: str = "") -> None:
    if verbose:
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    _say(f"error: {prefix}{text}{'' if verbose else hint}")
    raise SystemExit(status) from None


if __name__ == "__main__":
    main()
