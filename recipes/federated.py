"""Recipe ``federated``: ten clients, every way of learning from them, accuracy against bytes."""

from __future__ import annotations

import functools
import json
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import Field
from torch import Tensor, nn

from ddkit import methods
from ddkit.base.config import merge
from ddkit.base.executor import executor
from ddkit.base.files import write_text
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.errors import ConfigError
from ddkit.evaluation.statistics import Summary, summary
from ddkit.integrations.federated.client import DistillClient, TrainClient
from ddkit.integrations.federated.dynafed import ServerDistill
from ddkit.integrations.federated.flower import ArrayRecord, Context, FedAvg, FedProx, Message, MetricRecord, Strategy
from ddkit.integrations.federated.partition import dirichlet_partition
from ddkit.integrations.federated.simulation import simulate
from ddkit.integrations.federated.strategy import FedDistill
from ddkit.integrations.federated.task import Task
from ddkit.integrations.federated.training import train, training_data
from ddkit.integrations.federated.weights import load_arrays, weights_to_arrays
from ddkit.integrations.federated.wire import check_wire
from ddkit.models.spec import ModelSpec
from ddkit.recipes.job import Frozen, Job, checked, of_data_set
from ddkit.recipes.page import Page, difference, panels
from ddkit.training.accuracy import probabilities
from ddkit.training.named import recipe as recipe_called
from ddkit.training.recipe import TrainingRecipe

COLOURS = {"averaging": "#3b5b92", "records": "#8a6d1f", "distilled": "#0f766e", "central": "#7b8089"}
MARKERS = "osD^vP*X"


class FedDM(Frozen):
    """Iterative distribution matching; options lie over those of one-shot mode."""

    rounds: int = Field(ge=1)
    ipc: int = Field(ge=1)
    radius: float = Field(gt=0)
    options: dict[str, Any]


class DynaFed(Frozen):
    """Refinement on the server: rounds of the trajectory, the set distilled from it, training of each aggregate."""

    warmup_rounds: int = Field(ge=1)
    ipc: int = Field(ge=1)
    options: dict[str, Any]
    refine: dict[str, Any]


class Settings(Frozen):
    """The settings of the recipe's file, checked."""

    data: str
    data_root: str | None
    measure: Literal["test", "validation"]
    train_images: int = Field(ge=1)
    test_images: int = Field(ge=1)
    clients: int = Field(ge=2)
    alpha: list[float] = Field(min_length=1)
    seed: int = Field(ge=0)
    seeds: int = Field(ge=1)
    model: str
    local: dict[str, Any]
    rounds: int = Field(ge=1)
    mu: list[float]
    one_shot_epochs: int = Field(ge=1)
    server: dict[str, Any]
    central: dict[str, Any]
    ipc: list[int] = Field(min_length=1)
    wire: str
    real: list[str]
    method: str
    options: dict[str, Any]
    feddm: FedDM
    dynafed: DynaFed
    executor: str

    @property
    def min_clients(self) -> int:
        """Clients that a round needs: half of them."""
        return max(1, self.clients // 2)

    def check(self) -> Settings:
        """Refuse names and numbers that would fail later."""
        ModelSpec.parse(self.model)
        for name in self.real:
            if not methods.get(name).is_coreset:
                raise ConfigError(f"real={name} learns images: list methods that pick real ones (random, herding)")
        if methods.get(self.method).is_coreset:
            raise ConfigError(f"method={self.method} picks real images: choose one that distils, such as dm")
        for value in self.alpha:
            if not value > 0:
                raise ConfigError(f"alpha={value:g} must be positive")
        if self.rounds < self.dynafed.warmup_rounds:
            raise ConfigError(
                f"dynafed.warmup_rounds={self.dynafed.warmup_rounds} is more than rounds={self.rounds}: nothing would "
                f"be refined"
            )
        for options in (self.local, self.central, self.dynafed.refine):
            TrainingRecipe(**{"schedule": "constant", **options})
        return self


@dataclass
class Way:
    """One way of learning on one partition.

    Args:
        name: what tables call it.
        kind: ``averaging``, ``records``, ``distilled`` or ``central``.
        accuracy: on the test images, one per point.
        worst: accuracy of the client that does worst, whose classes weigh as in its own images; one per point.
        up: bytes that a client has sent on average, one per point.
        down: bytes that a client has received on average, one per point.
        images: synthetic or real images that the server trained on last; 0 where weights are sent.
        seconds: wall clock of clients and server together, without measuring accuracies.
    """

    name: str
    kind: str
    accuracy: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    up: list[float] = field(default_factory=list)
    down: list[float] = field(default_factory=list)
    images: int = 0
    seconds: float = 0.0


#: The ways of one alpha: one list per partition, in the same order.
Runs = Sequence[Sequence[Way]]
Results = dict[float, list[list[Way]]]


def run(job: Job) -> dict[str, Any]:
    """Run every way on every partition; write ``table.json``, ``table.csv``, ``ways.json``, a figure and the page."""
    settings = checked(Settings, of_data_set(job.values)).check()
    train, _ = load_pair(settings.data, root=settings.data_root)
    check_wire(settings.wire, train.shape)
    partitions = [(alpha, number) for alpha in dict.fromkeys(settings.alpha) for number in range(settings.seeds)]
    items = {
        f"alpha-{a:.12g}-{number}-{name}": (a, number, name) for a, number in partitions for name in ways(settings)
    }
    cells = job.cells(len(items))
    job.say(f"{len(partitions)} partitions over {settings.clients} clients")
    with executor(settings.executor) as pool:
        found = cells.map(list[Way], functools.partial(learn, settings, job.out / "sets"), items, pool)
    results: Results = {alpha: [[] for _ in range(settings.seeds)] for alpha in settings.alpha}
    for (alpha, number, _), few in zip(items.values(), found, strict=True):
        results[alpha][number] += few
    table = rows(results)
    kept = {str(alpha): [[asdict(way) for way in one] for one in runs] for alpha, runs in results.items()}
    write_text(job.out / "ways.json", json.dumps(kept) + "\n")
    facts = {"data": settings.data, "clients": settings.clients, "partitions per alpha": settings.seeds}
    page = Page(job, "Federated learning with distilled sets", {**facts, "accuracies on": f"{settings.measure} images"})
    page.add("Accuracy and bytes", table)
    page.draw("Accuracy against bytes", draw(results, settings), "figure.png")
    return page.finish(table, settings.model_dump(mode="json"))


def subset(real: RealData, count: int, name: str) -> RealData:
    """Return ``count`` images, drawn once for all partitions; all of a smaller set."""
    if count >= len(real):
        return real
    order = torch.randperm(len(real), generator=Streams(0)(name))
    return real.subset(order[:count].sort().values)


def data_of(settings: Settings) -> tuple[RealData, RealData]:
    """Return the images of the clients and those that accuracies are measured on; both the same for all partitions."""
    train_set, test_set = pair(settings.data, settings.data_root)
    if settings.measure == "validation":
        order = torch.randperm(len(train_set), generator=Streams(0)("validation"))
        held = len(train_set) // 5
        test_set, train_set = train_set.subset(order[:held]), train_set.subset(order[held:])
    return subset(train_set, settings.train_images, "train"), subset(test_set, settings.test_images, "test")


@functools.cache
def pair(name: str, root: str | None) -> tuple[RealData, RealData]:
    """Load once."""
    return load_pair(name, root=root)


class Collecting(FedAvg):
    """Federated averaging that keeps the clients' weights of the last round, for an ensemble."""

    collected: list[ArrayRecord]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Keep, then average."""
        messages = list(replies)
        self.collected = [message.content.array_records["arrays"] for message in messages if message.has_content()]
        return super().aggregate_train(server_round, messages)


Averaging = TypeVar("Averaging", bound=FedAvg)


def trained_only(strategy: Averaging) -> Averaging:
    """Let the clients of a strategy train and not evaluate; set afterwards, as Flower warns of it otherwise."""
    strategy.fraction_evaluate = 0.0
    return strategy


class Partition:
    """One partition with its initial weights, and every way of learning on it.

    Args:
        settings: of the recipe.
        train: all training images.
        test: the images that accuracies are measured on.
        alpha: of the Dirichlet distribution.
        seed: of partition, weights and training.
        folder: keeps the sets that clients sent.
    """

    def __init__(
        self, settings: Settings, train: RealData, test: RealData, alpha: float, seed: int, folder: Path
    ) -> None:
        self.settings, self.train, self.test, self.seed, self.folder = settings, train, test, seed, folder
        self.task, self.spec = Task.of(train), ModelSpec.parse(settings.model)
        self.parts = dirichlet_partition(train, settings.clients, alpha, derive_seed(seed, "partition"))
        self.shards = [train.subset(index) for index in self.parts]
        self.initial = weights_to_arrays(self._fresh())
        self.measuring = 0.0

    def _fresh(self) -> nn.Module:
        return self.spec.build(self.task.shape, self.task.num_classes, derive_seed(self.seed, "initial-weights"))

    def load(self, context: Context) -> RealData:
        """Return the images of a client."""
        return self.shards[int(context.node_config["partition-id"])]

    def measure(self, way: Way, chances: Tensor) -> None:
        """Add the accuracy of a prediction, over all test images and for the client that does worst."""
        right = (chances.argmax(dim=1) == self.test.labels).float()
        way.accuracy.append(float(right.mean()))
        counts = self.test.class_counts.clamp(min=1)
        by_class = torch.stack([right[index].sum() for index in self.test.class_index]) / counts
        own = torch.stack([shard.class_counts / len(shard) for shard in self.shards]).float()
        way.worst.append(float((own @ by_class).min()))

    def _evaluate(self, way: Way) -> Callable[[int, ArrayRecord], None]:
        """Return what measures the global model after each round."""
        module = self._fresh()

        def evaluate(server_round: int, arrays: ArrayRecord) -> None:
            begun = time.monotonic()
            if server_round:
                self.measure(way, probabilities(load_arrays(arrays, module), self.test))
            self.measuring += time.monotonic() - begun

        return evaluate

    def _run(self, way: Way, strategy: Strategy, client: Any, rounds: int) -> Way:
        before = self.measuring
        outcome = simulate(
            strategy,
            client,
            clients=self.settings.clients,
            rounds=rounds,
            initial_arrays=self.initial,
            evaluate=self._evaluate(way),
        )
        traffic, share = outcome.traffic, self.settings.clients
        way.up = [traffic.uploaded(number) / share for number in range(1, rounds + 1)]
        way.down = [traffic.downloaded(number) / share for number in range(1, rounds + 1)]
        way.seconds = outcome.seconds - (self.measuring - before)
        return way

    def _local(self, epochs: int | None = None) -> Any:
        options = {"name": "local", "schedule": "constant", **self.settings.local}
        recipe = TrainingRecipe(**(options if epochs is None else {**options, "epochs": epochs}))
        return TrainClient(self.task, self.load, model=self.settings.model, recipe=recipe, seed=self.seed).app()

    def _server_recipe(self) -> TrainingRecipe:
        options = dict(self.settings.server)
        return recipe_called(str(options.pop("name", "dsa")), self.train.name, **options)

    def central(self) -> Way:
        """Train on all images in one place."""
        way, module, begun = Way("all images in one place", "central"), self._fresh(), time.monotonic()
        recipe = TrainingRecipe(**{"name": "central", "schedule": "constant", **self.settings.central})
        train(module, training_data(self.train), recipe, Streams(derive_seed(self.seed, "central")))
        way.seconds = time.monotonic() - begun
        self.measure(way, probabilities(module, self.test))
        return way

    def averaging(self, mu: float | None = None) -> Way:
        """Run FedAvg, or FedProx with a proximal term."""
        name, strategy = "FedAvg", FedAvg()
        if mu is not None:
            name, strategy = f"FedProx, mu {mu:g}", FedProx(proximal_mu=mu)
        return self._run(Way(name, "averaging"), trained_only(strategy), self._local(), self.settings.rounds)

    def one_shot(self) -> list[Way]:
        """Send weights once: their average, and the ensemble of the clients' models."""
        strategy = trained_only(Collecting())
        client = self._local(self.settings.one_shot_epochs)
        average = self._run(Way("one-shot averaging", "averaging"), strategy, client, 1)
        ensemble = Way("one-shot ensemble", "averaging", up=average.up, down=average.down, seconds=average.seconds)
        module = self._fresh()
        each = [probabilities(load_arrays(arrays, module), self.test) for arrays in strategy.collected]
        self.measure(ensemble, torch.stack(each).mean(dim=0))
        return [average, ensemble]

    def images(self, method: str, ipc: int) -> Way:
        """Send images once: real ones of a coreset, or distilled ones."""
        folder = self.folder / f"{method}-{ipc}"
        shutil.rmtree(folder, ignore_errors=True)  # sets that a killed run has received would not be sent, nor counted
        if method not in self.settings.real:
            options = merge({"model": self.settings.model}, self.settings.options)
            return self._send(f"{method} once", "distilled", method, ipc, options, folder=folder)
        # Pixels, as a client has no network that was trained on more than its own classes.
        options = {"selection": {"features": "pixels"}} if method != "random" else {}
        return self._send(method, "records", method, ipc, options, folder=folder)

    def feddm(self) -> Way:
        """Send distilled images round after round, matched around the global model."""
        chosen = self.settings.feddm
        options, how = merge(self.settings.options, chosen.options), {"rounds": "iterative", "radius": chosen.radius}
        return self._send("FedDM", "distilled", "dm", chosen.ipc, options, chosen.rounds, **how)

    def _send(
        self, name: str, kind: str, method: str, ipc: int, options: dict[str, Any], times: int = 1, **how: Any
    ) -> Way:
        strategy = FedDistill(
            self.task,
            model=self.settings.model,
            recipe=self._server_recipe(),
            min_clients=self.settings.min_clients,
            max_ipc=ipc,
            seed=self.seed,
            **how,
        )
        given: dict[str, Any] = {"method": method, "ipc": ipc, "wire": self.settings.wire, "options": options}
        client = DistillClient(self.task, self.load, allow_real_init=kind == "records", seed=self.seed, **given)
        way = self._run(Way(f"{name}, {ipc} per class", kind), strategy, client.app(), times)
        way.images = sum(strategy.reports[-1].accepted.values())
        return way

    def dynafed(self) -> Way:
        """Average weights, and refine the aggregates on what the server distilled from their trajectory."""
        chosen = self.settings.dynafed
        strategy = ServerDistill(
            self.task,
            trained_only(FedAvg()),
            model=self.settings.model,
            warmup_rounds=chosen.warmup_rounds,
            ipc=chosen.ipc,
            options=chosen.options,
            recipe=TrainingRecipe(**{"name": "refine", "schedule": "constant", "weight_decay": 0.0, **chosen.refine}),
            min_clients=self.settings.min_clients,
            seed=self.seed,
        )
        way = self._run(Way("DynaFed", "distilled"), strategy, self._local(), self.settings.rounds)
        way.images = 0 if strategy.distilled is None else len(strategy.distilled)
        return way


def ways(settings: Settings) -> dict[str, Callable[[Partition], Way | list[Way]]]:
    """Return every way by the name of its cell, in the order of the table."""
    found: dict[str, Callable[[Partition], Way | list[Way]]] = {
        "central": Partition.central,
        "fedavg": Partition.averaging,
        **{f"fedprox-{mu:g}": functools.partial(Partition.averaging, mu=mu) for mu in settings.mu},
        "one-shot": Partition.one_shot,
    }
    for ipc in settings.ipc:
        for method in (*settings.real, settings.method):
            found[f"{method}-{ipc}"] = functools.partial(Partition.images, method=method, ipc=ipc)
    return {**found, "feddm": Partition.feddm, "dynafed": Partition.dynafed}


def learn(settings: Settings, folder: Path, item: tuple[float, int, str]) -> list[Way]:
    """Learn in one way on one partition, ``item`` = (alpha, number of the seed, way)."""
    alpha, number, name = item
    train_set, test_set = data_of(settings)
    seed = derive_seed(settings.seed, "federated", number)
    at = Partition(settings, train_set, test_set, alpha, seed, folder / f"alpha-{alpha:g}-{number}")
    found = ways(settings)[name](at)
    return found if isinstance(found, list) else [found]


def over_partitions(runs: Runs) -> list[list[Way]]:
    """Return one list of partitions per way."""
    return [list(ways) for ways in zip(*runs, strict=True)]


def mean(values: Sequence[float]) -> float:
    """Return the mean over partitions."""
    return summary(values).mean


def finals(ways: Sequence[Way]) -> list[float]:
    """Return the accuracies after the last round."""
    return [way.accuracy[-1] for way in ways]


def percent(one: Summary) -> str:
    """Return mean and standard deviation, which one partition does not have."""
    spread = f" ± {100 * one.std:.1f}" if one.count > 1 else ""
    return f"{100 * one.mean:.1f}{spread}"


def against(ways: Sequence[Way], other: Sequence[Way]) -> str:
    """Return the paired difference in points with its 95 % interval."""
    return difference(finals(ways), finals(other), " ± {2:.1f}")


def best_averaging(ways: Sequence[Sequence[Way]]) -> Sequence[Way]:
    """Return the way of averaging with the highest mean accuracy at its end: the hardest of them to beat."""
    return max((one for one in ways if one[0].kind == "averaging"), key=lambda one: mean(finals(one)))


def first_round(fedavg: Sequence[Way], accuracy: float) -> int | None:
    """Return the first round after which FedAvg is at least as accurate on average; None where it never is."""
    for number in range(len(fedavg[0].accuracy)):
        if mean([way.accuracy[number] for way in fedavg]) >= accuracy:
            return number + 1
    return None


def records_beside(ways: Sequence[Sequence[Way]], one: Sequence[Way]) -> Sequence[Way] | None:
    """Return the best real images at the number of images and bytes of a distilled set that is sent once."""
    same = [other for other in ways if other[0].kind == "records" and other[0].images == one[0].images]
    if one[0].kind != "distilled" or len(one[0].accuracy) > 1 or not same:
        return None
    return max(same, key=lambda other: mean(finals(other)))


def rows(results: Results) -> list[dict[str, Any]]:
    """Return one row per alpha and way."""
    table = []
    for alpha, runs in results.items():
        ways = over_partitions(runs)
        best = best_averaging(ways)
        fedavg = next(one for one in ways if one[0].name == "FedAvg")
        for one in ways:
            final = summary(finals(one))
            sent = bool(one[0].up)
            records = records_beside(ways, one)
            reached = first_round(fedavg, final.mean) if one[0].kind != "central" else None
            table.append(
                {
                    "alpha": alpha,
                    "way": one[0].name,
                    "what is sent": {"averaging": "weights", "records": "real images", "central": "all images"}.get(
                        one[0].kind, "weights" if one[0].name == "DynaFed" else "distilled images"
                    ),
                    "rounds": len(one[0].accuracy) if sent else None,
                    "accuracy %": percent(final),
                    "partitions": final.count,
                    "worst client %": round(100 * mean([way.worst[-1] for way in one]), 1),
                    "kB up per client": round(mean([way.up[-1] for way in one]) / 1e3, 2) if sent else None,
                    "kB down per client": round(mean([way.down[-1] for way in one]) / 1e3, 2) if sent else None,
                    "FedAvg gets there": None
                    if one[0].kind == "central"
                    else f"round {reached}"
                    if reached
                    else f"not in {len(fedavg[0].accuracy)}",
                    "− best averaging": against(one, best),
                    "− best real images": None if records is None else against(one, records),
                    "seconds": round(mean([way.seconds for way in one]), 1),
                }
            )
    return table


def draw(results: Results, settings: Settings) -> Figure:
    """Draw accuracy against the bytes that a client has sent, one panel per alpha."""
    figure, row = panels(len(results), sharey=True)
    for axes, (alpha, runs) in zip(row, results.items(), strict=True):
        draw_ways(axes, over_partitions(runs))
        axes.set_title(f"Dirichlet {alpha:g}")
        axes.set_xlabel("sent by a client so far, kB")
    row[0].set_ylabel(f"accuracy on {settings.data}, %")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def draw_ways(axes: Axes, ways: Sequence[Sequence[Way]]) -> None:
    """Draw one line a way; hollow markers are real images."""
    used: dict[str, int] = {}
    for one in ways:
        kind = one[0].kind
        means = [100 * mean([way.accuracy[k] for way in one]) for k in range(len(one[0].accuracy))]
        if kind == "central":
            axes.axhline(means[-1], color=COLOURS[kind], linestyle="--", linewidth=1, label=one[0].name)
            continue
        bytes_up = [mean([way.up[k] for way in one]) / 1e3 for k in range(len(means))]
        spread = 100 * summary(finals(one)).std
        marker = MARKERS[used.get(kind, 0) % len(MARKERS)]
        used[kind] = used.get(kind, 0) + 1
        style: dict[str, Any] = {"color": COLOURS[kind], "marker": marker, "markersize": 5, "linewidth": 1}
        hollow = "none" if kind == "records" else COLOURS[kind]
        axes.plot(bytes_up, means, markerfacecolor=hollow, label=one[0].name, **style)
        axes.errorbar(bytes_up[-1:], means[-1:], yerr=[spread], color=COLOURS[kind], linewidth=1, capsize=2)
    axes.set_xscale("log")
    axes.grid(True, which="major", alpha=0.25)
