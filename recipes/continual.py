"""Recipe ``continual``: learn classes one after the other from replay memories of equal bytes, compare, report."""

from __future__ import annotations

import functools
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn
from torch.utils.data import Dataset

from ddkit.base.executor import executor
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.distilled.coding import bytes_of_noise
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, unknown_name
from ddkit.evaluation.statistics import summary
from ddkit.integrations.continual.coded import CodedBuffer
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
from ddkit.recipes.job import Frozen, Job, checked, require_known
from ddkit.recipes.page import Page, difference, panels
from ddkit.training.accuracy import accuracies
from ddkit.training.named import recipe
from ddkit.training.recipe import TrainingRecipe
from ddkit.training.train import train_networks

Policy = Literal["none", "joint", "reservoir", "adaptive", "random", "herding", "distilled"]
Protocol = Literal["interleave", "retrain"]
#: Policies of Avalanche itself.
AVALANCHES: dict[str, Any] = {"reservoir": ReservoirSamplingBuffer, "adaptive": ClassBalancedBuffer}
#: Policies without a memory: one run serves all budgets.
WITHOUT_MEMORY = ("none", "joint")
DATA = {"split-digits": "digits", "split-mnist": "mnist", "split-fashionmnist": "fashionmnist",
        "split-cifar10": "cifar10"}  # fmt: skip
COLOURS = {"distilled": "#c0392b", "herding": "#2c6fbb", "random": "#7f8c8d", "adaptive": "#16a085",
           "reservoir": "#8e6bbf", "joint": "#222222", "none": "#aaaaaa"}  # fmt: skip


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
    codec: str | None
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
    """What one task is: a policy, the bytes of its memory in 8-bit images (0 for none), and the seed of all of it."""

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
        bytes: of them at rest or coded, labels included.
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

    def raw(self) -> dict[str, Any]:
        """Return what ``table.json`` keeps of it."""
        stream = self.interleave
        return {
            "policy": self.run.policy,
            "budget": self.run.budget,
            "seed": self.run.seed,
            "accuracy after each experience": stream.after_each if stream else None,
            "matrix": [list(row) for row in stream.matrix] if stream else None,
            "retrain": self.retrain,
            "images": self.images,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 2),
        }


def run(job: Job) -> dict[str, Any]:
    """Run every policy, budget and seed; write ``table.json``, ``table.csv``, ``continual.png`` and ``report.html``."""
    settings = settings_of(job.values)
    train, test = data_of(settings)
    cache = job.out / "distilled"
    runs = runs_of(settings, train, cache)
    cells = job.cells(len(runs))
    job.say(f"{train.name}: {len(train)} training and {len(test)} test images, {len(runs)} runs")
    with executor(settings.executor) as pool:
        named = {"-".join([one.policy, *([str(one.budget)] * (one.budget > 0)), str(one.seed)]): one for one in runs}
        work = functools.partial(execute, settings, train, test, cache)
        outcomes: list[Outcome] = cells.map(Outcome, work, named, pool)
    table = table_of(settings, outcomes)
    facts = {"training images": len(train), "test images": len(test), "runs": len(runs)}
    page = Page(job, f"{settings.benchmark}: replay memories of distilled and real images", facts)
    page.draw("Final accuracy against the memory", draw(settings, outcomes), "continual.png")
    page.add("All results", table)
    page.add("Accuracy after each experience", curves_of(settings, outcomes))
    outcome = page.finish(table, settings.model_dump(mode="json"), runs=[one.raw() for one in outcomes])
    return {key: value for key, value in outcome.items() if key != "runs"}


def settings_of(values: Mapping[str, Any]) -> Settings:
    """Fill what is null from the block of the benchmark."""
    rest = dict(values)
    blocks = rest.pop("benchmarks")
    name = str(rest["benchmark"])
    known = sorted(set(DATA) & set(blocks)) if isinstance(blocks, Mapping) else []
    if name not in known:
        raise unknown_name("benchmark", name, known)
    block = blocks[name]
    require_known(block, rest, f"benchmark '{name}'")
    return checked(Settings, {key: block.get(key) if value is None else value for key, value in rest.items()})


def data_of(settings: Settings) -> tuple[RealData, RealData]:
    """Return class-balanced parts of the data, the same for all seeds."""
    train, test = load_pair(DATA[settings.benchmark], root=settings.data_root)
    streams = Streams(0)
    everything = range(train.num_classes)
    if settings.images_per_class is not None:
        train = train.subset(train.sample_indices(everything, settings.images_per_class, streams("train")))
    if settings.test_images is not None:
        each = max(1, settings.test_images // test.num_classes)
        test = test.subset(test.sample_indices(everything, each, streams("test")))
    return train, test.with_preprocessing(train.preprocessing)


def runs_of(settings: Settings, train: RealData, cache: Path) -> list[Run]:
    """Return all runs; each memory is made once, so that a bad setting is refused before the first run."""
    ModelSpec.parse(settings.model).build(train.shape, train.num_classes, 0)
    retrain_recipe(settings.retrain, train.name)
    if settings.codec is not None:
        bytes_of_noise(settings.codec, train.shape)
    executor(settings.executor).close()
    runs = []
    for seed in range(settings.seeds):
        for policy in dict.fromkeys(settings.policies):
            budgets = [0] if policy in WITHOUT_MEMORY else list(dict.fromkeys(settings.budgets))
            for budget in budgets:
                if budget < train.num_classes and policy not in WITHOUT_MEMORY:
                    raise ConfigError(
                        f"budget {budget} does not hold one image for each of {train.num_classes} classes: "
                        f"give at least {train.num_classes}"
                    )
                runs.append(Run(policy, budget, seed))
                if seed == 0:
                    memory(settings, runs[-1], train, cache)
    return runs


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

    All get the bytes of ``budget`` 8-bit images, whose labels cost nothing: as many images as fit in the codec.

    Raises:
        ConfigError: an unknown method or option of the distillation, or a memory smaller than the classes.
    """
    if run.policy in WITHOUT_MEMORY:
        return None
    max_bytes = run.budget * math.prod(train.shape)
    if run.policy in AVALANCHES:
        make = AVALANCHES[run.policy]
        if settings.codec is None:
            return make(run.budget)
        return CodedBuffer(make(len(train)), max_bytes, settings.codec, train.preprocessing)
    common: dict[str, Any] = {
        "max_bytes": max_bytes,
        "codec": settings.codec,
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
    size = policy.bytes if isinstance(policy, CodedBuffer) else images * math.prod(train.shape)
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


#: Protocol, images of the memory (0 for none), policy.
Cell = tuple[str, int, str]
Values = dict[Cell, list[float]]


def finals(outcomes: list[Outcome]) -> Values:
    """Return the final accuracies of all seeds by protocol, budget and policy."""
    values: Values = {}
    for one in outcomes:
        if one.interleave is not None:
            values.setdefault(("interleave", one.run.budget, one.run.policy), []).append(one.interleave.final)
        if one.retrain:
            values.setdefault(("retrain", one.run.budget, one.run.policy), []).append(one.retrain[-1])
    return values


def best_other(values: Values, protocol: str, budget: int) -> str | None:
    """Return the memory of real images with the largest mean final accuracy; None where there is none."""
    means = {
        policy: summary(numbers).mean
        for (p, b, policy), numbers in values.items()
        if (p, b) == (protocol, budget) and policy not in (*WITHOUT_MEMORY, "distilled")
    }
    return max(means, key=lambda policy: means[policy]) if means else None


def table_of(settings: Settings, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return one row for each protocol, size and policy: mean and standard deviation over the seeds."""
    values = finals(outcomes)
    rows = []
    for protocol in dict.fromkeys(settings.protocols):
        for budget in (0, *dict.fromkeys(settings.budgets)):
            best = best_other(values, protocol, budget)
            for policy in dict.fromkeys(settings.policies):
                key = (protocol, budget, policy)
                if key in values:
                    mine = of_memory(outcomes, policy, budget)
                    against = values[(protocol, budget, best)] if best not in (None, policy) else None
                    rows.append(row_of(key, values[key], mine, against))
    return rows


def row_of(key: Cell, numbers: list[float], mine: list[Outcome], against: list[float] | None) -> dict[str, Any]:
    """Return a row, with the difference to the best memory of real images."""
    protocol, budget, policy = key
    streams = [one.interleave for one in mine if one.interleave is not None and policy != "joint"]
    streams = streams if protocol == "interleave" else []
    curves = [one.retrain for one in mine] if protocol == "retrain" and policy != "joint" else []
    whole = [sum(curve) / len(curve) for curve in curves if len(curve) > 1]

    def percent(values: list[float]) -> str | None:
        return summary(values).percent() if values else None

    return {
        "protocol": protocol,
        "memory": budget or None,
        "bytes": round(bytes_of(mine)) or None,
        "images": round(summary([one.images for one in mine]).mean) or None,
        "policy": policy,
        "final %": percent(numbers),
        "incremental %": percent([one.incremental for one in streams] or whole),
        "forgetting %": percent([one.forgetting for one in streams]),
        "transfer %": percent([one.backward_transfer for one in streams]),
        "minus best other (95 %)": None if against is None else difference(numbers, against),
        "seconds": round(summary([one.seconds for one in mine]).mean, 1),
        "distilling s": round(summary([one.distil_seconds for one in mine]).mean, 1) or None,
        "seeds": len(numbers),
    }


def of_memory(outcomes: list[Outcome], policy: str, budget: int) -> list[Outcome]:
    """Return the outcomes of all seeds of a memory."""
    return [one for one in outcomes if (one.run.policy, one.run.budget) == (policy, budget)]


def bytes_of(mine: list[Outcome]) -> float:
    """Return the mean bytes of a memory."""
    return summary([one.bytes for one in mine]).mean


def curves_of(settings: Settings, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Return the accuracy after each experience, a row for each memory."""
    rows = []
    for budget in (0, *settings.budgets):
        for policy in settings.policies:
            curves = [o.interleave.after_each for o in of_memory(outcomes, policy, budget) if o.interleave is not None]
            if policy != "joint" and curves:
                steps = enumerate(zip(*curves, strict=True), 1)
                cells = {f"after {n}": round(100 * summary(step).mean, 1) for n, step in steps}
                rows.append({"memory": budget or None, "policy": policy, **cells})
    return rows


def draw(settings: Settings, outcomes: list[Outcome]) -> Figure:
    """Draw final accuracy against bytes, one panel a protocol, one line a policy with a band of one deviation."""
    values = finals(outcomes)
    figure, axes = panels(len(settings.protocols), sharey=True)
    for panel, protocol in zip(axes, settings.protocols, strict=True):
        for policy in settings.policies:
            style: dict[str, Any] = {"color": COLOURS[policy], "label": policy}
            if policy in WITHOUT_MEMORY:
                if (protocol, 0, policy) in values:
                    panel.axhline(100 * summary(values[(protocol, 0, policy)]).mean, ls="--", lw=1, **style)
                continue
            budgets = sorted({b for p, b, q in values if (p, q) == (protocol, policy)})
            sizes = [bytes_of(of_memory(outcomes, policy, budget)) for budget in budgets]
            results = [summary(values[(protocol, budget, policy)]) for budget in budgets]
            panel.plot(sizes, [100 * one.mean for one in results], marker="o", ms=4, **style)
            low, high = ([100 * (one.mean + sign * one.std) for one in results] for sign in (-1, 1))
            panel.fill_between(sizes, low, high, color=COLOURS[policy], alpha=0.12, lw=0)
        panel.set(xscale="log", xlabel="bytes of the memory, labels included", title=protocol)
        ticks = sorted({round(bytes_of(of_memory(outcomes, o.run.policy, o.run.budget))) for o in outcomes} - {0})
        panel.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        panel.set_xticks([], minor=True)
        panel.grid(alpha=0.25)
    axes[0].set_ylabel("final accuracy on all classes, %")
    shown = {name: line for panel in axes for line, name in zip(*panel.get_legend_handles_labels(), strict=True)}
    axes[-1].legend(shown.values(), shown.keys(), fontsize=8, loc="lower right")
    return figure
