"""``ddkit curve`` sets accuracy against bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ddkit.cli.common import is_writable
from ddkit.cli.evaluate import data_of, recipe_for, stopped
from ddkit.cli.options import DataRoot, Device, Json, RunPaths, Seed, Settings, Verbose, silent_text, typed_command
from ddkit.cli.tables import print_json, print_table, say
from ddkit.errors import ConfigError

if TYPE_CHECKING:
    from ddkit.evaluation.rate import Curve, Point


def curve(
    runs: RunPaths,
    codec: Annotated[
        list[str] | None, typer.Option(help="Also every set coded by this, such as uniform:bits=4; repeatable.")
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="random-bytes, random-coded, herding-coded, random-best or whole; repeatable (default: all but whole)."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="HTML file (default: curve.html in or beside the runs).")] = None,
    arch: Annotated[str | None, typer.Option(help="Architecture (default: the runs').")] = None,
    repeats: Annotated[int, typer.Option(help="Networks per point.")] = 5,
    recipe: Annotated[str | None, typer.Option(help="dc, dsa, idc, quick, ... (default: the artifacts' own).")] = None,
    settings: Settings = None,
    data: Annotated[str | None, typer.Option(help="Test data (default: what was distilled).")] = None,
    data_root: DataRoot = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Draw test accuracy against bytes per class: distilled sets, also coded, and real images in as many bytes.

    Points are kept in the run folders as soon as they are measured: a second call measures only what is new. --set
    changes the training recipe, as for evaluate.
    """
    from ddkit.base.device import resolve_device
    from ddkit.data.distilled.dataset import DistilledDataset
    from ddkit.data.loading import load_pair
    from ddkit.evaluation import rate_points as rate
    from ddkit.evaluation.choice import recipe_of
    from ddkit.evaluation.rate_kept import read_kept, write_kept
    from ddkit.evaluation.report.rate import sentence
    from ddkit.evaluation.report.rate_page import write_page
    from ddkit.models.spec import ModelSpec

    tell, command = silent_text if as_json else say, typed_command()
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats}: at least 1 network must be trained")
    sets = {name: DistilledDataset.load(run) for name, run in _named(runs).items()}
    spec, root = data_of(runs[0], next(iter(sets.values())), data, data_root)
    sources = [
        rate.Source(name, one, recipe_for(one, recipe, settings or [], spec) or recipe_of(one))
        for name, one in sets.items()
    ]
    rate.check_same(sources)
    model = ModelSpec.parse(arch) if arch else rate.common_model(sources)
    coded = rate.all_coded(sources, list(dict.fromkeys(codec or ())))
    kinds, chosen = rate.known_baselines(baseline or ()), resolve_device(device)
    page, folders = _page(runs, out), _folders(runs, tell)
    known = {key: point for folder in folders for key, point in read_kept(folder).points.items()}
    found: dict[str, Point] = {}
    with stopped(folders[0] if folders else None, command) as finished:
        train, test = load_pair(spec, root=root)
        measuring = rate.Measuring(train, test, model, repeats, seed, chosen, finished, tell)
        for key, point in measuring.points(coded, kinds, known):
            found[key] = point
            for folder in folders if key not in known else ():
                write_kept(folder, {key: point})
        drawn = rate.curve_of(list(found.values()), measuring, sources[0].recipe)
        for folder in folders:
            write_kept(folder, found, drawn, command)
        finished.clear()
    write_page(page, drawn, command)
    if as_json:
        return print_json({"html": str(page), **drawn.as_dict()})
    print_table([_row(point, drawn) for points in drawn.kinds().values() for point in points])
    for lead in drawn.leads():
        typer.echo(sentence(lead))
    typer.echo(f"curve: {page}")


def _named(runs: list[Path]) -> dict[str, Path]:
    """Return the runs, none of them twice, by their names, or by their paths where names do not tell them apart."""
    paths = {run.resolve(): run for run in runs}
    short = len({path.name for path in paths}) == len(paths)
    return {path.name if short else str(run): run for path, run in paths.items()}


def _folders(runs: list[Path], tell: Callable[[str], None]) -> list[Path]:
    """Return where results are kept: in the run folders that can be written, or beside private releases."""
    from ddkit.data.distilled.privacy import folder_for_figures

    folders = [folder_for_figures(run) for run in runs if run.is_dir()]
    kept = [folder for folder in folders if is_writable(folder)]
    if not kept:
        tell("no run folder can be written: the points are printed and not kept")
    return kept


def _page(runs: list[Path], out: Path | None) -> Path:
    """Return the file of the page.

    Raises:
        ConfigError: a file that is no page, or one inside a private release.
    """
    from ddkit.data.distilled.privacy import folder_for_figures, refuse_inside_release

    if out is None:
        return folder_for_figures(runs[0] if len(runs) == 1 and runs[0].is_dir() else runs[0].parent) / "curve.html"
    page = out / "curve.html" if out.is_dir() else out
    refuse_inside_release(page)
    if page.is_file() and page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"'{page}' exists and is no HTML file: choose another --out, nothing was overwritten")
    return page


def _row(point: Point, curve: Curve) -> dict[str, Any]:
    interval = point.interval95
    return {
        "set": point.kind,
        "run": point.run,
        "codec": point.codec,
        "bytes per class": f"{point.payload / curve.classes:,.1f}",
        "images": point.images,
        "accuracy %": f"{100 * point.mean:.1f}",
        "95% interval": f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}" if interval else "-",
        "networks": sum(map(len, point.accuracies)),
    }
