"""``ddkit evaluate`` trains networks on a distilled set.

Whatever is wrong with the options or the result is refused before work starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddkit.base.executor import executor as make_executor
from ddkit.base.interrupt import Interrupt
from ddkit.base.progress import Lines
from ddkit.cli.common import is_writable, where_data_are
from ddkit.cli.options import (
    DataRoot,
    Device,
    Executor,
    Json,
    RunPath,
    Seed,
    Settings,
    Verbose,
    silent_text,
    speed,
    typed_command,
)
from ddkit.cli.tables import print_json, print_table, say
from ddkit.errors import ConfigError, InterruptedRunError, unknown_name

if TYPE_CHECKING:
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.evaluation.finished import Finished
    from ddkit.evaluation.results import EvaluationResult
    from ddkit.training.recipe import TrainingRecipe


def evaluate(
    run: RunPath,
    arch: Annotated[list[str] | None, typer.Option(help="Architecture, repeatable (default: the run's).")] = None,
    repeats: Annotated[int, typer.Option(help="Networks per architecture.")] = 5,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="random, herding, kmeans, random-soft, class-mean, whole, or real images in as many bytes: "
            "random-bytes, random-coded, herding-coded, random-best (bytes: these four); repeatable."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="dc, dsa, idc, quick, ... (default: the artifact's own, and the common one).")
    ] = None,
    settings: Settings = None,
    data: Annotated[str | None, typer.Option(help="Test data (default: what was distilled).")] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    scores: Annotated[bool, typer.Option("--scores", help="Also label- and augmentation-robust scores.")] = False,
    executor: Executor = "local",
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16 training.")] = "auto",
    compile: Annotated[bool | None, typer.Option(help="Compile training (default: where it repays).")] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train fresh networks on a distilled set, test them on untouched data, compare with baselines.

    --set changes the training recipe: --set epochs=300 --set augmentation=none.
    """
    from ddkit import evaluation as ev
    from ddkit.base.device import resolve_device
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.data.loading import load_pair
    from ddkit.models.spec import ModelSpec

    tell, command = silent_text if as_json else say, typed_command()
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats}: at least 1 network must be trained")
    how: dict[str, Any] = {"device": resolve_device(device), **speed(precision, compile)}
    distilled = DistilledDataset.load(run)
    folder = _where_it_is_kept(run, tell)
    spec, root = data_of(run, distilled, data, data_root)
    chosen = recipe_for(distilled, recipe, settings or [], spec)
    architectures = arch or [ev.own_model(distilled)]
    for text in architectures:
        ModelSpec.parse(text)
    workers = make_executor(executor)
    how |= {"repeats": repeats, "recipe": chosen, "seed": seed, "executor": workers if executor != "local" else None}
    with workers, stopped(folder, command) as finished:
        how |= {"finished": finished, "progress": Lines(tell, "network epochs")}
        train, test = load_pair(spec, root=root)

        def keep(found: list[tuple[str, EvaluationResult]], **more: Any) -> None:
            if folder is not None:
                ev.write_evaluation(folder, found, command, **more)

        results = ev.assess(
            distilled,
            test,
            train=train,
            baselines=_baselines(baseline or [], tell),
            architectures=architectures,
            common_architectures=None if arch or chosen else ["convnet"],
            report_progress=tell,
            on_results=keep,
            **how,
        )
        extra: dict[str, Any] = {}
        if scores:
            tell("computing label- and augmentation-robust scores")
            robust = ev.robust_scores(distilled, train, test, architecture=architectures[0], **how)
            extra["scores"] = robust.as_dict()
        keep(results, **extra)
        finished.clear()
    if as_json:
        return print_json({"results": [{"label": n, "result": r.as_dict()} for n, r in results], **extra})
    print_table([row for label, result in results for row in _rows(label, result, distilled)])
    for name, value in extra.get("scores", {}).items():
        if isinstance(value, float):
            typer.echo(f"{name}: {value:.3f}")


def _baselines(kinds: list[str], tell: Callable[[str], None]) -> list[str]:
    """Return kinds of baselines; raw pixels in as many bytes never stand alone."""
    from ddkit.evaluation.baselines import expanded

    if "random-bytes" not in expanded(kinds) or "random-coded" in expanded(kinds):
        return kinds
    tell("random-bytes are raw pixels, the weakest form of real images: random-coded is evaluated beside them")
    place = kinds.index("random-bytes") + 1
    return [*kinds[:place], "random-coded", *kinds[place:]]


def _where_it_is_kept(run: Path, tell: Callable[[str], None]) -> Path | None:
    """Return the folder of the results; None where there is none that can be written.

    Raises:
        ConfigError: the results that it holds are damaged.
    """
    from ddkit.data.distilled.privacy import folder_for_figures
    from ddkit.evaluation.assess import read_evaluation

    folder = folder_for_figures(run) if run.is_dir() else None
    if folder is not None and not is_writable(folder):
        tell(f"'{folder}' cannot be written: the results are printed and not kept")
        return None
    if folder is not None:
        read_evaluation(folder)
    return folder


@contextmanager
def stopped(folder: Path | None, command: str) -> Iterator[Finished]:
    """Give the place of finished trainings, and say what is kept when a signal stops the evaluation."""
    from ddkit.evaluation.finished import FOLDER_NAME, Finished

    finished = Finished(folder and folder / FOLDER_NAME)
    try:
        with Interrupt():
            yield finished
    except KeyboardInterrupt:
        kept = (
            f"{finished.count()} finished trainings are kept in '{finished.folder}'" if folder else "nothing was kept"
        )
        raise InterruptedRunError(f"interrupted: {kept}; go on with `{command}`") from None


def data_of(run: Path, distilled: DistilledDataset, data: str | None, root: str | None) -> tuple[str, str | None]:
    """Return name and root of the test data: as given, else as the run kept them, else as the artifact says."""
    from ddkit.engine.run import RunFolder

    folder = RunFolder(run)
    if data is not None:
        return data, root
    if run.is_dir() and folder.config.is_file():
        stored = folder.read()["data"]
        return where_data_are(stored, folder.path), root or stored.get("options", {}).get("root")
    name = distilled.card.source.name
    if not name:
        raise ConfigError("the artifact does not say what it was distilled from: name it with --data")
    return where_data_are({"spec": name}, run), root


def recipe_for(distilled: DistilledDataset, name: str | None, settings: list[str], spec: str) -> TrainingRecipe | None:
    """Return the recipe that was asked for; None for all the ways in which the set wants to be judged."""
    from ddkit.base.config import parse_assignments
    from ddkit.evaluation.choice import recipe_of
    from ddkit.training.named import recipe as named_recipe
    from ddkit.training.recipe import TrainingRecipe

    changes = parse_assignments(settings)
    for key in changes:
        if key not in TrainingRecipe.model_fields:
            raise unknown_name("recipe field", key, TrainingRecipe.model_fields)
    if name is None:
        own = recipe_of(distilled)  # refuses a damaged one
        return own.replace(**changes) if changes else None
    return named_recipe(name, distilled.card.source.name or spec, **changes)


def _rows(label: str, result: EvaluationResult, distilled: DistilledDataset) -> list[dict[str, Any]]:
    """Return one row per architecture, with the published figure where there is one."""
    from ddkit.evaluation.published import published

    ipc, rows = distilled.card.config.ipc, []
    for row in result.rows:
        figure = published(label, result.data, ipc, row.architecture)
        interval = row.interval95
        rows.append(
            {
                "set": label,
                "recipe": result.recipe.name,
                "architecture": row.architecture,
                "images": result.train_images,
                "bytes": result.budget.get("payload", "-"),
                "accuracy %": f"{100 * row.mean:.1f} ± {100 * row.std:.1f}",
                "95% interval": f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "-",
                "networks": len(row.accuracies),
                "published %": f"{figure.accuracy:.1f}" if figure else "-",
                "seconds": f"{row.seconds:.1f}",
            }
        )
    return rows
