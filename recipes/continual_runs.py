"""One run of recipe ``continual``: a stream of experiences learned with one memory, tested after each."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from ddkit.base.streams import Streams, derive_seed
from ddkit.data.distilled.parts import at_rest_bytes
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.integrations.continual.coreset import CoresetReplayBuffer
from ddkit.integrations.continual.distilled import DistilledReplayBuffer
from ddkit.integrations.continual.host import (
    ClassBalancedBuffer,
    EvaluationPlugin,
    Naive,
    ReservoirSamplingBuffer,
    class_incremental_benchmark,
)
from ddkit.integrations.continual.memory import ClassMemory
from ddkit.integrations.continual.metrics import StreamAccuracies
from ddkit.integrations.continual.replay import distilled_replay, replay
from ddkit.models.spec import ModelSpec
from ddkit.recipes.settings import Frozen
from ddkit.training.accuracy import accuracies
from ddkit.training.named import recipe
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

Policy = Literal["none", "joint", "reservoir", "adaptive", "random", "herding", "distilled"]
Protocol = Literal["interleave", "retrain"]
#: Policies without a memory: one run serves all budgets.
WITHOUT_MEMORY = ("none", "joint")


class Training(Frozen):
    """How an experience is learned: plain SGD over mini-batches of the stream and the memory."""

    epochs: int = Field(ge=1)
    lr: float = Field(gt=0)
    momentum: float = Field(ge=0, lt=1)
    batch: int = Field(ge=1)
    memory_batch: int = Field(ge=1)


class Settings(Frozen):
    """The settings of the recipe's file for one benchmark, checked."""

    benchmark: str
    data_root: str | None
    budgets: list[int] = Field(min_length=1)
    policies: list[Policy] = Field(min_length=1)
    protocols: list[Protocol] = Field(min_length=1)
    seeds: int = Field(ge=1)
    classes_per_experience: int = Field(ge=1)
    repeat_to_batch: bool
    images_per_class: int | None = Field(ge=1)
    test_images: int | None = Field(ge=1)
    model: str
    training: Training
    retrain: dict[str, Any]
    retrain_after: Literal["last", "every"]
    distil: dict[str, Any]
    executor: str


@dataclass(frozen=True)
class Run:
    """What one task is: a policy with a memory of a size, and a seed.

    Args:
        policy: name.
        budget: images of the memory; 0 for a policy without one.
        seed: of class order, network, draws and distillation.
    """

    policy: Policy
    budget: int
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a run measured.

    Args:
        run: which one.
        interleave: accuracies of the network that went on training; None where that was not asked for.
        retrain: accuracy of fresh networks on the memory, on all classes seen, after the experiences tested.
        images: in the memory at the end.
        bytes: of them at rest, labels included.
        seconds: of the whole run.
        distil_seconds: of them for distilling; as first measured, where a set comes from the cache.
    """

    run: Run
    interleave: StreamAccuracies | None
    retrain: list[float]
    images: int
    bytes: int
    seconds: float
    distil_seconds: float


class Tensors(Dataset[tuple[Tensor, int]]):
    """Preprocessed images of a real set as a torchvision-like dataset."""

    def __init__(self, real: RealData) -> None:
        self.images, self.targets = real.batch(torch.arange(len(real))), real.labels.tolist()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.targets[index]


def class_order(seed: int, num_classes: int) -> list[int]:
    """Return the order in which classes arrive: the same for all policies of a seed."""
    return torch.randperm(num_classes, generator=Streams(seed)("class-order")).tolist()


def sizes_of(num_classes: int, per_experience: int) -> list[int]:
    """Return the number of classes of each experience; the last one takes what is left."""
    full, rest = divmod(num_classes, per_experience)
    return [per_experience] * full + [rest] * (rest > 0)


def memory(settings: Settings, run: Run, train: RealData, cache: Path) -> Any:
    """Return the storage policy of a run; None for one without a memory.

    The distilled memory gets the bytes of ``budget`` 8-bit images with hard labels, whatever its method stores.

    Raises:
        ConfigError: an unknown method or option of the distillation, or a memory smaller than the classes.
    """
    if run.policy in WITHOUT_MEMORY:
        return None
    if run.policy == "reservoir":
        return ReservoirSamplingBuffer(run.budget)
    if run.policy == "adaptive":
        return ClassBalancedBuffer(run.budget)
    common: dict[str, Any] = {
        "max_bytes": at_rest_bytes(run.budget, train.shape, train.num_classes),
        "num_classes": train.num_classes,
        "seed": run.seed,
        "pixels": train.preprocessing,
        "name": train.name,
    }
    if run.policy == "distilled":
        for key in settings.distil:
            if key in (*common, "max_size", "cache"):
                raise ConfigError(f"distil.{key} is decided by the recipe: leave it out")
        common |= {"model": settings.model, **settings.distil, "cache": cache}
        buffer: ClassMemory = DistilledReplayBuffer(**common)
    else:
        buffer = CoresetReplayBuffer(selection=run.policy, **common)  # type: ignore[arg-type]
    try:
        buffer.check(train.shape, settings.classes_per_experience)
    except ConfigError as error:
        raise ConfigError(f"policy '{run.policy}' with budget {run.budget}: {error}, by larger budgets") from None
    return buffer


def execute(settings: Settings, train: RealData, test: RealData, cache: Path, run: Run) -> Outcome:
    """Learn the stream with one memory; the global random state is put back afterwards.

    Raises:
        ConfigError: as :func:`memory`.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="avalanche")
        torch.random.default_generator.manual_seed(derive_seed(run.seed, "stream", run.policy, run.budget))
        started = time.monotonic()
        if run.policy == "joint":
            return _joint(settings, train, test, run, started)
        return _stream(settings, train, test, cache, run, started)


def _stream(settings: Settings, train: RealData, test: RealData, cache: Path, run: Run, started: float) -> Outcome:
    order = class_order(run.seed, train.num_classes)
    sizes = sizes_of(train.num_classes, settings.classes_per_experience)
    tests = _tests(test, order, sizes)
    data = Tensors(train)
    stream = class_incremental_benchmark(
        {"train": data, "test": data}, num_classes_per_exp=sizes, class_order=order
    ).train_stream
    spec = ModelSpec.parse(settings.model)
    model = spec.build(train.shape, train.num_classes, derive_seed(run.seed, "network"))
    policy = memory(settings, run, train, cache)
    strategy = _strategy(settings, model, policy)
    matrix, retrained = [], []
    for number, experience in enumerate(stream):
        strategy.train(experience)
        matrix.append([accuracies([model], part)[0] for part in tests])
        wanted = settings.retrain_after == "every" or number == len(sizes) - 1
        if policy is not None and "retrain" in settings.protocols and wanted:
            retrained.append(_retrained(settings, policy, test, order[: sum(sizes[: number + 1])], run.seed))
    images = 0 if policy is None else len(policy.buffer)
    size = at_rest_bytes(images, train.shape, train.num_classes)
    distilling = 0.0
    if isinstance(policy, ClassMemory):
        size = policy.budget().bytes
        facts = policy.facts().values()
        distilling = sum({one.experiences[-1]: one.seconds for one in facts}.values())
    interleave = StreamAccuracies(matrix, [len(part) for part in tests]) if "interleave" in settings.protocols else None
    return Outcome(run, interleave, retrained, images, size, time.monotonic() - started, distilling)


def _strategy(settings: Settings, model: nn.Module, policy: Any) -> Any:
    training = settings.training
    plugins = []
    if policy is not None:
        make = distilled_replay if isinstance(policy, ClassMemory) else replay
        plugins = make(policy, training.memory_batch, repeat_to_batch=settings.repeat_to_batch)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=training.lr, momentum=training.momentum),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=training.batch,
        train_epochs=training.epochs,
        plugins=plugins,
        evaluator=EvaluationPlugin(loggers=[]),
    )


def _joint(settings: Settings, train: RealData, test: RealData, run: Run, started: float) -> Outcome:
    """Train on all classes at once, each image as often as in the stream: the upper bound."""
    training = settings.training
    how = TrainingRecipe(
        name="joint",
        epochs=training.epochs,
        lr=training.lr,
        momentum=training.momentum,
        weight_decay=0.0,
        batch_size=training.batch,
        schedule="constant",
    )
    spec, seed = ModelSpec.parse(settings.model), derive_seed(run.seed, "network")
    networks = train_networks(train, None, spec, how, [seed], num_classes=train.num_classes)
    value = accuracies(networks, test)[0]
    return Outcome(run, StreamAccuracies([[value]], [len(test)]), [value], 0, 0, time.monotonic() - started, 0.0)


def _retrained(settings: Settings, policy: Any, test: RealData, classes: Sequence[int], seed: int) -> float:
    """Train a fresh network on the memory alone; return its accuracy on the classes seen."""
    items = [policy.buffer.eval()[index] for index in range(len(policy.buffer))]
    images = torch.stack([item[0] for item in items])
    labels = torch.stack([torch.as_tensor(item[1]) for item in items])
    how = retrain_recipe(settings.retrain, test.name)
    (network,) = train_networks(
        images,
        labels,
        ModelSpec.parse(settings.model),
        how,
        [derive_seed(seed, "retrain")],
        num_classes=test.num_classes,
    )
    return accuracies([network], _of_classes(test, classes))[0]


def retrain_recipe(options: Mapping[str, Any], name: str) -> TrainingRecipe:
    """Return the training recipe of the ``retrain`` setting.

    Raises:
        ConfigError: an unknown name or field.
    """
    fields = dict(options)
    named = fields.pop("name", "dsa")
    if not isinstance(named, str):
        raise ConfigError(f"retrain.name={named!r}: give the name of a training recipe, such as dsa")
    return recipe(named, name, **fields)


def _tests(test: RealData, order: Sequence[int], sizes: Sequence[int]) -> list[RealData]:
    """Return the test images of each experience."""
    parts, start = [], 0
    for size in sizes:
        parts.append(_of_classes(test, order[start : start + size]))
        start += size
    return parts


def _of_classes(real: RealData, classes: Sequence[int]) -> RealData:
    return real.subset(torch.cat([real.class_index[label] for label in classes]).sort().values)
