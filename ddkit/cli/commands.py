"""The commands: parse, call, print; nothing else."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ddkit.cli.audit import audit
from ddkit.cli.options import (
    DataRoot,
    Json,
    RunPath,
    Seed,
    Settings,
    Verbose,
    refuse_empty_words,
    silent_text,
    typed_command,
)
from ddkit.cli.recipes import recipe_app
from ddkit.cli.tables import accuracy_rows, comparison_row, headline, print_json, print_table, say
from ddkit.errors import ConfigError

if TYPE_CHECKING:
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.engine.run import RunFolder

DATA_HELP = "digits, a torchvision name, a folder, a Parquet file or folder, or .npz."

app = typer.Typer(
    name="ddkit",
    help="Learn a tiny synthetic dataset that trains models almost as well as the full one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(recipe_app, name="recipe")


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Learn a tiny synthetic dataset that trains models almost as well as the full one."""
    if show:
        from ddkit.base.version import __version__

        typer.echo(f"ddkit {__version__}")
        raise typer.Exit


@app.command()
def methods(
    pieces: Annotated[
        bool, typer.Option("--pieces", help="List the pieces that --synthesis, --objective and --networks take.")
    ] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List every method: family, what it learns, paper, cost class."""
    from ddkit import methods as named

    if pieces:
        from ddkit.cli.pieces import list_pieces

        listed = list_pieces()
        return print_json(listed) if as_json else print_table(listed)
    rows = [named.get(name).describe() for name in named.available()]
    if as_json:
        return print_json(rows)
    columns = {
        "name": "method",
        "family": "family",
        "learns": "learns",
        "cost": "full cost",
        "paper": "paper",
    }
    print_table([{title: row[key] for key, title in columns.items()} for row in rows])


@app.command()
def distill(
    out: Annotated[Path, typer.Option(help="Folder that keeps the run.")],
    method: Annotated[str | None, typer.Option(help="A name from `ddkit methods`.")] = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} (default: digits)")] = None,
    ipc: Annotated[int | None, typer.Option(help="Images per class (default: 10).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The only seed (default: 0).")] = None,
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
    data_root: DataRoot = None,
    zca: Annotated[bool, typer.Option("--zca", help="Whiten images (regularised ZCA).")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Distil a dataset into IPC images per class.

    A method is a composition and every piece can be replaced: --synthesis multi-formation:factor=2, --objective
    gradient, --networks fresh (`ddkit methods --pieces` lists them). Any setting can be overridden: --set
    optimiser.lr=0.5 --set model=convnet:width=64 --set augmentation=none. Ctrl-C saves the state; --resume goes on.
    """
    from ddkit.cli.distil import DistillRequest, distil
    from ddkit.engine.run import RunFolder

    folder = RunFolder(out)
    finished = resume and folder.finished
    result = distil(
        DistillRequest(
            out=out,
            resume=resume,
            method=method,
            data=data,
            ipc=ipc,
            seed=seed,
            settings=settings or (),
            shortcuts={
                "steps": steps,
                "device": device,
                "synthesis": synthesis,
                "objective": objective,
                "networks": networks,
            },
            data_options={"root": data_root, "zca": zca or None, "holdout": holdout},
            callback_options={
                "eval_every": eval_every,
                "patience": patience,
                "images_every": images_every,
                "tensorboard": tensorboard or None,
            },
            checkpoint_every=checkpoint_every,
            show_progress=not as_json,
            command=typed_command(),
        )
    )
    _print_run(folder, result, finished, as_json)


def _print_run(folder: RunFolder, result: DistilledDataset, finished: bool, as_json: bool) -> None:
    if as_json:
        summary = {"artifact": str(folder.artifact), "budget": result.budget.as_dict(), **headline(result)}
        return print_json(summary)
    if finished:
        typer.echo("the run was finished already")
    size = f"{folder.artifact.stat().st_size:,} bytes"
    typer.echo(f"{len(result)} images of {result.num_classes} classes in {folder.artifact} ({size})")
    where = shlex.quote(str(folder.path))
    typer.echo(f"next: ddkit evaluate {where} --baseline random    then: ddkit show {where}")


@app.command()
def evaluate(
    run: RunPath,
    arch: Annotated[list[str] | None, typer.Option(help="Architecture, repeatable (default: the run's).")] = None,
    repeats: Annotated[int, typer.Option(help="Networks per architecture.")] = 5,
    baseline: Annotated[
        list[str] | None,
        typer.Option(help="random, herding, random-soft, random-bytes, class-mean or whole; repeatable."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="dc, dsa, idc, quick, ... (default: the artifact's own, and the common one).")
    ] = None,
    settings: Settings = None,
    data: Annotated[str | None, typer.Option(help="Test data (default: what was distilled).")] = None,
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
    """Train fresh networks on a distilled set, test them on untouched data, compare with baselines.

    --set changes the training recipe: --set epochs=300 --set augmentation=none.
    """
    from ddkit.cli.evaluate import EvaluateRequest
    from ddkit.cli.evaluate import evaluate as evaluate_run

    distilled, results, extra = evaluate_run(
        EvaluateRequest(
            run=run,
            architectures=arch,
            repeats=repeats,
            baselines=baseline or (),
            recipe=recipe,
            settings=settings or (),
            data=data,
            data_root=data_root,
            seed=seed,
            scores=scores,
            executor=executor,
            device=device,
            precision=precision,
            compile=compile,
            say=silent_text if as_json else say,
            command=typed_command(),
        )
    )
    if as_json:
        return print_json({"results": [{"label": n, "result": r.as_dict()} for n, r in results], **extra})
    print_table([row for label, result in results for row in accuracy_rows(label, result, distilled)])
    for name, value in extra.get("scores", {}).items():
        if isinstance(value, float):
            typer.echo(f"{name}: {value:.3f}")


@app.command()
def show(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    out: Annotated[Path | None, typer.Option(help="HTML file (default: report.html in the run).")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write one self-contained HTML report: images, curves, accuracies, cost, exact command."""
    from ddkit.evaluation.report.html import write_report

    if out is not None and out.is_file() and out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"'{out}' exists and is no HTML file: choose another --out, nothing was overwritten")
    path = write_report(runs, out)
    print_json({"report": str(path)}) if as_json else typer.echo(f"report: {path}")


@app.command()
def export(
    run: RunPath,
    format: Annotated[str, typer.Option(help="parquet, imagefolder or npz.")],
    out: Annotated[Path | None, typer.Option(help="Where to (default: beside the run).")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the distilled images in a format that other tools read, and say what was lost."""
    from ddkit.data.distilled.dataset import DistilledDataset

    distilled = DistilledDataset.load(run)
    base = run if run.is_dir() else run.parent
    name = "distilled.npz" if format == "npz" else format
    result = distilled.export(out or base / "export" / name, format)
    summary = {
        "path": str(result.path),
        "files": result.files,
        "lossy": result.lossy,
        "clipped_fraction": result.clipped_fraction,
        **({"privacy": result.privacy} if result.privacy else {}),
    }
    if as_json:
        return print_json(summary)
    typer.echo(f"{result.files} file{'s' * (result.files != 1)} in {result.path}")
    if result.lossy:
        typer.echo(f"lost: {result.lossy}")
    if result.privacy:
        typer.echo(f"privacy: {result.privacy} The statement goes with the images.")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    baselines: Annotated[bool, typer.Option("--baselines", help="Also the baselines evaluated with them.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare runs with each other and with the published figures."""
    from ddkit.evaluation.report.compare import comparison_table

    rows = comparison_table(runs, baselines=baselines)
    if as_json:
        return print_json(rows)
    private = any(row["epsilon"] is not None for row in rows)
    print_table([comparison_row(row, private=private) for row in rows])


@app.command()
def experts(
    out: Annotated[Path, typer.Option(help="Folder of the experts; what it has already is kept.")],
    count: Annotated[int | None, typer.Option(help="Experts wanted in all (published: 100).")] = None,
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} (default: digits)")] = None,
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
    seed: Annotated[int | None, typer.Option(min=0, help="The only seed (default: 0).")] = None,
    data_root: DataRoot = None,
    zca: Annotated[str | None, typer.Option(help="Whiten: pixels, standardised (as distill --zca) or none.")] = None,
    holdout: Annotated[float, typer.Option(help="Part of the training data left out, as by distill --holdout.")] = 0.0,
    executor: Annotated[str, typer.Option(help="local or ray.")] = "local",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
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
    from ddkit.cli import experts as cli_experts

    request = cli_experts.ExpertsRequest(
        out=out,
        method=method,
        ipc=ipc,
        count=count,
        data=data,
        data_root=data_root,
        zca=zca,
        holdout=holdout,
        settings={
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
        },
        executor=executor,
        device=device,
        precision=precision,
        compile=compile,
        dry_run=dry_run,
        verify=verify,
        show_progress=not as_json,
        command=typed_command(),
    )
    if verify:
        outcome = cli_experts.verify(request)
    else:
        plan = cli_experts.plan(request)
        if not as_json:
            say(cli_experts.in_words(plan.facts))
        outcome = plan.facts if dry_run else plan.run()
    if as_json:
        return print_json(outcome)
    if "table" in outcome:
        print_table(cli_experts.table_rows(outcome))
        typer.echo(f"{outcome['experts']} experts in {outcome['path']} ({outcome['bytes']:,} bytes)")
    if "use" in outcome:
        typer.echo(f"next: {outcome['use']}")


@app.command()
def doctor(data_root: DataRoot = None, as_json: Json = False, verbose: Verbose = False) -> None:
    """Say which versions, extras, devices and data are there."""
    from ddkit.cli.doctor import examine

    report = examine(data_root)
    if as_json:
        return print_json(report)
    for title, rows in report.items():
        typer.echo(f"\n{title}")
        print_table(rows)


app.command()(audit)


def invoke(arguments: list[str]) -> None:
    """Run a command without click's own handling of errors, whose boxes take several lines."""
    command = typer.main.get_command(app)
    shown = [*arguments, "--help"] if arguments in ([], ["recipe"]) else arguments
    with command.make_context("ddkit", list(shown), obj=arguments) as context:
        refuse_empty_words(arguments)
        command.invoke(context)
    sys.stdout.flush()
