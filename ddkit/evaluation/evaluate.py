"""How a distilled set becomes an accuracy: fresh networks trained on it, tested on untouched real images."""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddkit.base.device import memory_errors, resolve_device
from ddkit.base.executor import Executor
from ddkit.base.precision import Precision, PrecisionName, pass_cost, resolve_precision
from ddkit.base.streams import derive_seed
from ddkit.base.version import __version__
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.data.storage import digest
from ddkit.errors import ConfigError
from ddkit.evaluation.choice import own_model, recipe_of, whole_recipe
from ddkit.evaluation.compatibility import check_compatible, check_splits
from ddkit.evaluation.finished import Finished
from ddkit.evaluation.results import ArchitectureResult, EvaluationResult
from ddkit.models.base import uses_batch_norm
from ddkit.models.spec import ModelSpec
from ddkit.training.accuracy import accuracies
from ddkit.training.experts.identity import describe_preprocessing
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import networks_at_once, train_networks

#: Fewer training images than this make the running statistics of batch norm unreliable.
BATCH_NORM_IMAGES = 100

EvaluationProgress = Callable[[str, int, int], None]
Keep = Callable[[ModelSpec, list[nn.Module]], None]


@dataclass(frozen=True)
class _Task:
    """Networks of one architecture to train and test; a unit of work for an executor."""

    spec: ModelSpec
    seeds: tuple[int, ...]
    precision: Precision

    def options(self, shared: _Shared) -> dict[str, Any]:
        """Return what :func:`train_networks` and :func:`networks_at_once` share."""
        return {
            "num_classes": shared.test.num_classes,
            "device": shared.device,
            "precision": self.precision.name,
            "compile": self.precision.compile,
        }


@dataclass(frozen=True)
class _Shared:
    """What all tasks of one evaluation have in common."""

    images: Tensor | RealData
    labels: Tensor
    test: RealData
    recipe: TrainingRecipe
    device: str
    precision: PrecisionName
    compile: bool | Literal["auto"]
    stacked: bool | None
    finished: Finished = field(default_factory=lambda: Finished(None))

    def precision_of(self, model: nn.Module, repeats: int) -> Precision:
        """Return how an architecture is trained: compiled in bfloat16 where ``auto`` finds that it pays."""
        compile = False if self.stacked and self.compile == "auto" else self.compile
        shown = self.recipe.shown(len(self.images)) * self.recipe.total_epochs * repeats
        cost, device = pass_cost(model, self.test.shape), torch.device(self.device)
        return resolve_precision(self.precision, compile, passes=3.0 * shown, cost=cost, device=device)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What the accuracy of a network depends on beside its architecture, its seed and its precision."""

        def described(real: RealData) -> list[Any]:
            return [real.fingerprint, describe_preprocessing(real.preprocessing, real.shape)]

        real = isinstance(self.images, RealData)
        return {
            "train": described(self.images) if real else digest(self.images, self.labels),  # type: ignore[arg-type]
            "test": described(self.test),
            "recipe": self.recipe.model_dump(mode="json"),
            "how": [torch.device(self.device).type],
            "versions": [__version__, str(torch.__version__)],
        }


def _run_task(
    shared: _Shared, task: _Task, progress: EvaluationProgress | None = None, keep: Keep | None = None
) -> tuple[list[float], float]:
    """Train and test the networks of a task, hand them to ``keep``; return their accuracies and seconds.

    Networks that are trained one after the other, and stacks of networks, do not depend on each other: each is kept
    when it is tested, and one that is there already is not trained again, unless ``keep`` asks for it.
    """
    data, recipe, seeds = (shared.images, shared.labels, task.spec), shared.recipe, task.seeds
    options = task.options(shared)
    size = networks_at_once(*data, recipe, seeds, stacked=shared.stacked, **options)
    values, seconds, networks = [], 0.0, []
    for first in range(0, len(seeds), max(size, 1)):
        some = seeds[first : first + max(size, 1)]
        identity = {**_identity(shared, task), "seeds": some, "stacked": size > 0}
        known = shared.finished.get(identity, len(some)) if shared.finished.folder and keep is None else None
        if known is None:
            start, report = time.perf_counter(), _from(first, len(seeds), len(some), task.spec, progress)
            with memory_errors(f"train and test {task.spec.canonical()}", shared.device):
                part = train_networks(*data, recipe, some, stacked=size > 0, progress=report, **options)
                known = accuracies(part, shared.test), time.perf_counter() - start
            shared.finished.put(identity, *known)
            networks += part if keep is not None else []
        values += known[0]
        seconds += known[1]
    if keep is not None:
        keep(task.spec, networks)
    return values, seconds


def _identity(shared: _Shared, task: _Task) -> dict[str, Any]:
    how = [*shared.identity["how"], task.precision.name, task.precision.compile]
    return {**shared.identity, "how": how, "model": task.spec.canonical()}


def _from(
    first: int, count: int, width: int, spec: ModelSpec, progress: EvaluationProgress | None
) -> Callable[[int, int], None] | None:
    """Report the epochs of networks ``first`` to ``first + width`` as those of all ``count`` networks."""
    if progress is None:
        return None

    def report(done: int, total: int) -> None:
        progress(spec.canonical(), first * (total // width) + done, count * (total // width))

    return report


def network_seeds(seed: int, spec: ModelSpec, repeats: int) -> tuple[int, ...]:
    """Return the seeds of the networks of an evaluation.

    They follow from the evaluation's seed, the architecture and the number of the repeat only, so that any
    two sets evaluated with one seed train the same initialisations and can be compared in pairs.
    """
    return tuple(derive_seed(seed, "evaluation", spec.canonical(), repeat) for repeat in range(repeats))


def _evaluated(
    shared: _Shared,
    recipe: TrainingRecipe,
    architectures: Sequence[str | ModelSpec],
    repeats: int,
    seed: int,
    executor: Executor | None,
    progress: EvaluationProgress | None,
    keep: Keep | None = None,
    **card: Any,
) -> EvaluationResult:
    """Train and test; ``recipe`` and ``card`` go into the result as they are."""
    specs = [ModelSpec.parse(item) for item in architectures]
    if not specs:
        raise ConfigError("no architectures to evaluate; give at least one, such as 'convnet'")
    if repeats < 1:
        raise ConfigError(f"{repeats} repeats: at least 1 network must be trained")
    if shared.recipe.start is not None:
        repeats = 1  # all networks would be the same
    precisions = {}
    for spec in specs:
        model = spec.build(shared.test.shape, shared.test.num_classes, 0)
        precisions[spec] = shared.precision_of(model, repeats)
        if uses_batch_norm(model) and len(shared.images) < BATCH_NORM_IMAGES:
            warnings.warn(
                f"'{spec.canonical()}' has batch norm and the set {len(shared.images)} images: its accuracy "
                "is dominated by running statistics; prefer norm='instance'",
                stacklevel=3,
            )
    seeds = {spec: network_seeds(seed, spec, repeats) for spec in specs}
    if executor is None:
        tasks = [_Task(spec, seeds[spec], precisions[spec]) for spec in specs]
        outcomes = [[_run_task(shared, task, progress, keep)] for task in tasks]
    else:
        tasks = [_Task(spec, (one,), precisions[spec]) for spec in specs for one in seeds[spec]]
        flat = _run_elsewhere(shared, tasks, executor)
        outcomes = [flat[i * repeats : (i + 1) * repeats] for i in range(len(specs))]
    rows = tuple(
        ArchitectureResult(
            architecture=spec.canonical(),
            accuracies=tuple(value for values, _ in outcome for value in values),
            seeds=seeds[spec],
            seconds=sum(seconds for _, seconds in outcome),
            steps=shared.recipe.steps(len(shared.images)),
            precision=precisions[spec].name,
            compiled=precisions[spec].compile,
        )
        for spec, outcome in zip(specs, outcomes, strict=True)
    )
    return EvaluationResult(
        rows=rows,
        recipe=recipe,
        data=shared.test.name,
        split=shared.test.split,
        test_size=len(shared.test),
        train_images=len(shared.images),
        **card,
    )


def _run_elsewhere(shared: _Shared, tasks: Sequence[_Task], executor: Executor) -> list[tuple[list[float], float]]:
    """Let an executor run the tasks of one network each that are not finished already."""
    keys = [
        {**_identity(shared, task), "seeds": task.seeds, "stacked": "elsewhere"} if shared.finished.folder else {}
        for task in tasks
    ]
    found = [shared.finished.get(key, 1) for key in keys]
    missing = [task for task, known in zip(tasks, found, strict=True) if known is None]
    fresh = iter(executor.map(functools.partial(_run_task, replace(shared, finished=Finished(None))), missing))
    outcomes = []
    for key, known in zip(keys, found, strict=True):
        if known is None:
            known = next(fresh)
            shared.finished.put(key, *known)
        outcomes.append(known)
    return outcomes


def evaluate(
    distilled: DistilledDataset,
    test: RealData,
    architectures: Sequence[str | ModelSpec] | None = None,
    repeats: int = 5,
    recipe: TrainingRecipe | None = None,
    seed: int = 0,
    *,
    device: str | torch.device = "auto",
    precision: PrecisionName = "auto",
    compile: bool | Literal["auto"] = "auto",
    executor: Executor | None = None,
    stacked: bool | None = None,
    progress: EvaluationProgress | None = None,
    keep: Keep | None = None,
    finished: Finished | None = None,
) -> EvaluationResult:
    """Train ``repeats`` fresh networks of every architecture on a distilled set and test them.

        acc(S, arch, recipe) = E over theta_0 [ test accuracy of train(S, theta_0; recipe) ]

    The survey's equation 5 (Lei & Tao 2023). The set stays fixed, the last epoch counts, nothing is selected
    on the test images, and these are preprocessed as the artifact says, whatever preprocessing ``test`` came
    with. The test pass is float32.

    Args:
        distilled: the set S.
        test: real test images with the same classes and image shape.
        architectures: None for ``convnet``, or, where the recipe gives steps that were learned with one network,
            for that network; names, texts such as ``"convnet:depth=2,width=32"``, or model specs.
        repeats: networks per architecture.
        recipe: how to train; None takes the recipe that the set carries (see :func:`recipe_of`).
        seed: of the evaluation; see :func:`network_seeds`.
        device: where to train and test; ``auto`` takes an accelerator where there is one.
        precision: number format of training, see :func:`train_networks`; ``auto`` takes bfloat16 where training is
            compiled and the machine is good at it.
        compile: compile training; ``auto`` does so where its eager passes would take over two minutes, see
            :func:`~ddkit.base.precision.resolve_precision`. 100 random CIFAR-10 images a class, 20 epochs, ConvNet of
            width 32, one thread: 4,080 images a second compiled in bfloat16, 972 eager in float32; two seeds each end
            at 36.3 and 37.8 %, 36.2 and 37.9 % of held-out training images.
        executor: where networks are trained, one task per network; None trains here, several at once where
            that is faster.
        stacked: force or forbid training several networks as stacked weights; None decides by measurement.
        progress: called as ``progress(architecture, done, total)`` after every epoch, in network epochs; not
            called with an executor.
        keep: called with every architecture and its trained networks, in the order of their seeds; not called with an
            executor.
        finished: networks that an evaluation which was stopped has left, and where this one leaves its own.

    Returns:
        The result, one row per architecture.

    Raises:
        ConfigError: an unknown architecture or device, fewer than one repeat, or a bad recipe.
        DataError: a set that does not fit the test data (see :func:`check_compatible`).
        DivergedError: training diverged.
    """
    recipe = recipe_of(distilled) if recipe is None else recipe
    if architectures is None:
        architectures = (own_model(distilled) if recipe.schedule == "given" else "convnet",)
    check_compatible(distilled, test)
    _warn_of_other_architectures(distilled, recipe, architectures)
    images, labels = distilled.tensors()
    shared = _Shared(
        images=images,
        labels=labels,
        test=test.with_preprocessing(distilled.preprocessing),
        recipe=recipe.replace(loss=recipe.loss_for(distilled.label_kind)),
        device=str(resolve_device(device)),
        precision=precision,
        compile=compile,
        stacked=stacked,
        finished=finished or Finished(None),
    )
    card: dict[str, Any] = {
        "label_kind": distilled.label_kind,
        "budget": distilled.budget.as_dict(),
        "note": _note(recipe),
    }
    return _evaluated(shared, recipe, architectures, repeats, seed, executor, progress, keep, **card)


def _warn_of_other_architectures(
    distilled: DistilledDataset, recipe: TrainingRecipe, architectures: Sequence[str | ModelSpec]
) -> None:
    """Say that initial weights mean nothing to another architecture than the one they were drawn for."""
    own = distilled.card.config.model
    if recipe.start is None or own is None:
        return
    for other in (ModelSpec.parse(item) for item in architectures):
        if other != ModelSpec.parse(own):
            warnings.warn(
                f"the set was learned for one initialisation of '{own}': '{other.canonical()}' starts elsewhere, which "
                f"costs accuracy: use the common protocol, or a set learned for fresh networks",
                stacklevel=3,
            )


def _note(recipe: TrainingRecipe) -> str:
    """Return what a reader has to know beside the figures."""
    when = "after the steps of the set" if recipe.schedule == "given" else "of the last epoch"
    same = "; one network, from the initial weights that the set was learned for" if recipe.start is not None else ""
    return f"accuracy {when}{same}; nothing was selected on the test set"


def evaluate_real(
    train: RealData,
    test: RealData,
    architectures: Sequence[str | ModelSpec] = ("convnet",),
    repeats: int = 5,
    recipe: TrainingRecipe | None = None,
    seed: int = 0,
    *,
    device: str | torch.device = "auto",
    precision: PrecisionName = "auto",
    compile: bool | Literal["auto"] = "auto",
    executor: Executor | None = None,
    stacked: bool | None = None,
    progress: EvaluationProgress | None = None,
    finished: Finished | None = None,
) -> EvaluationResult:
    """Train fresh networks on a whole real set, the upper reference of a distilled one.

    Args and errors are those of :func:`evaluate`; test images get the preprocessing of ``train``.
    ``recipe=None`` takes that of :func:`~ddkit.evaluation.choice.whole_recipe`.
    """
    recipe = whole_recipe(train) if recipe is None else recipe
    check_splits(train, test)
    shared = _Shared(
        images=train,
        labels=train.labels,
        test=test.with_preprocessing(train.preprocessing),
        recipe=recipe,
        device=str(resolve_device(device)),
        precision=precision,
        compile=compile,
        stacked=stacked,
        finished=finished or Finished(None),
    )
    note = "whole training set; accuracy of the last epoch; nothing was selected on the test set"
    card: dict[str, Any] = {"label_kind": "hard", "budget": {}, "note": note}
    return _evaluated(shared, recipe, architectures, repeats, seed, executor, progress, **card)
