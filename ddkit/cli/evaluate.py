"""What does ``ddkit evaluate`` do with its options?

Whatever is wrong with the options or the result is refused here before work starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddkit import evaluation as ev
from ddkit.base.config import parse_assignments
from ddkit.base.device import resolve_device
from ddkit.base.executor import executor as make_executor
from ddkit.base.interrupt import Interrupt
from ddkit.base.progress import Lines
from ddkit.cli.common import is_writable, where_data_are
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.privacy import folder_for_figures
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.engine.run import RunFolder
from ddkit.errors import ConfigError, InterruptedRunError, unknown_name
from ddkit.evaluation.finished import FOLDER_NAME, Finished
from ddkit.models.spec import ModelSpec
from ddkit.training.named import recipe as named_recipe
from ddkit.training.recipe import TrainingRecipe

Say = Callable[[str], None]


@dataclass(frozen=True)
class EvaluateRequest:
    """The options of ``ddkit evaluate``; None is what the user left out.

    Args:
        run: run folder or artifact file.
        architectures: what is trained; None for the architecture of the run.
        repeats: networks per architecture.
        baselines: kinds of baselines.
        recipe: name of a training recipe; None for the artifact's own.
        settings: ``KEY=VALUE`` texts that change the recipe.
        data: test data; None for what was distilled.
        data_root: where named data lie; None for where the run found them.
        seed: of the evaluation.
        scores: also compute the robust scores.
        executor: where networks are trained.
        device: on what.
        precision: number format of training.
        compile: whether training is compiled.
        say: called with a line of text before every part.
        command: what the user typed.
    """

    run: Path
    architectures: Sequence[str] | None
    repeats: int
    baselines: Sequence[str]
    recipe: str | None
    settings: Sequence[str]
    data: str | None
    data_root: str | None
    seed: int
    scores: bool
    executor: str
    device: str
    precision: str
    compile: bool
    say: Say
    command: str


Outcome = tuple[DistilledDataset, list[tuple[str, ev.EvaluationResult]], dict[str, Any]]


def evaluate(request: EvaluateRequest) -> Outcome:
    """Evaluate a distilled set and its baselines; keep the result in the run folder, if it is one that can be written.

    Networks that are finished are kept there until the evaluation is: one that was stopped goes on by the same command.

    That of a private release is kept beside it, see :func:`ddkit.data.distilled.privacy.figures_folder`.

    Returns:
        The set, (label, result) pairs, and ``{"scores": ...}`` when asked for.

    Raises:
        DDKitError: a wrong option, a damaged file or data that do not fit; nothing was trained.
        InterruptedRunError: Ctrl-C, SIGTERM or SIGHUP.
    """
    if request.precision not in ("float32", "bfloat16"):
        raise ConfigError(f"--precision {request.precision}: choose float32 or bfloat16")
    if request.repeats < 1:
        raise ConfigError(f"--repeats {request.repeats}: at least 1 network must be trained")
    device = resolve_device(request.device)
    distilled = DistilledDataset.load(request.run)
    folder = folder_for_figures(request.run) if request.run.is_dir() else None
    if folder is not None and not is_writable(folder):
        request.say(f"'{folder}' cannot be written: the results are printed and not kept")
        folder = None
    if folder is not None:
        ev.read_evaluation(folder)
    spec, root = _where_the_data_are(request, distilled)
    recipe = _recipe(request, distilled, spec)
    architectures = list(request.architectures or [ev.own_model(distilled)])
    common = None if request.architectures or recipe is not None else ["convnet"]
    for text in architectures:
        ModelSpec.parse(text)
    workers = make_executor(request.executor)
    options: dict[str, Any] = {
        "device": device,
        "precision": request.precision,
        "compile": request.compile,
        "executor": None if request.executor == "local" else workers,
    }
    with workers, _stopped(request, folder) as finished:
        options |= {"finished": finished, "progress": Lines(request.say, "network epochs")}
        train, test = load_pair(spec, root=root)

        def keep(found: list[tuple[str, ev.EvaluationResult]]) -> None:
            if folder is not None:
                ev.write_evaluation(folder, found, request.command)

        results = ev.assess(
            distilled,
            test,
            train=train,
            baselines=request.baselines,
            architectures=architectures,
            repeats=request.repeats,
            recipe=recipe,
            common_architectures=common,
            seed=request.seed,
            report_progress=request.say,
            on_results=keep,
            **options,
        )
        scored = {"recipe": recipe, "repeats": request.repeats, "seed": request.seed, **options}
        extra = _scores(request.say, distilled, train, test, architectures[0], scored) if request.scores else {}
        if folder is not None:
            ev.write_evaluation(folder, results, request.command, **extra)
            finished.clear()
    return distilled, results, extra


@contextmanager
def _stopped(request: EvaluateRequest, folder: Path | None) -> Iterator[Finished]:
    """Say what is kept when a signal stops the evaluation."""
    finished = Finished(folder and folder / FOLDER_NAME)
    try:
        with Interrupt():
            yield finished
    except KeyboardInterrupt:
        kept = (
            f"{finished.count()} finished trainings are kept in '{finished.folder}'" if folder else "nothing was kept"
        )
        raise InterruptedRunError(f"interrupted: {kept}; go on with `{request.command}`") from None


def _scores(
    say: Say,
    distilled: DistilledDataset,
    train: RealData,
    test: RealData,
    architecture: str,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    say("computing label- and augmentation-robust scores")
    scores = ev.robust_scores(distilled, train, test, architecture=architecture, **options)
    return {"scores": scores.as_dict()}


def _where_the_data_are(request: EvaluateRequest, distilled: DistilledDataset) -> tuple[str, str | None]:
    """Return name and root of the test data: as given, else as the run kept them, else as the artifact says."""
    folder = RunFolder(request.run)
    if request.data is not None:
        return request.data, request.data_root
    if request.run.is_dir() and folder.config.is_file():
        stored = folder.read()["data"]
        return where_data_are(stored, folder.path), request.data_root or stored.get("options", {}).get("root")
    name = (distilled.metadata.get("source") or {}).get("name")
    if not name:
        raise ConfigError("the artifact does not say what it was distilled from: name it with --data")
    return where_data_are({"spec": name}, request.run), request.data_root


def _recipe(request: EvaluateRequest, distilled: DistilledDataset, spec: str) -> TrainingRecipe | None:
    """Return the recipe that was asked for; None for all the ways in which the set wants to be judged."""
    changes = parse_assignments(list(request.settings))
    for key in changes:
        if key not in TrainingRecipe.model_fields:
            raise unknown_name("recipe field", key, TrainingRecipe.model_fields)
    if request.recipe is None and not changes:
        ev.recipe_of(distilled)  # refuses a damaged one
        return None
    if request.recipe is None:
        return ev.recipe_of(distilled).replace(**changes)
    source = distilled.metadata.get("source") or {}
    return named_recipe(request.recipe, str(source.get("name", spec)), **changes)
