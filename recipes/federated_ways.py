"""How does recipe ``federated`` run each way of learning on one partition, and what does it measure?"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ddkit.base.config import merge
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.loading import load_pair
from ddkit.data.real import RealData
from ddkit.integrations.federated.client import DistillClient, TrainClient
from ddkit.integrations.federated.dynafed import ServerDistill
from ddkit.integrations.federated.flower import ArrayRecord, Context, FedAvg, FedProx, Message, MetricRecord, Strategy
from ddkit.integrations.federated.partition import dirichlet_partition
from ddkit.integrations.federated.simulation import simulate
from ddkit.integrations.federated.strategy import FedDistill
from ddkit.integrations.federated.task import Task
from ddkit.integrations.federated.traffic import Traffic
from ddkit.integrations.federated.training import train, training_data
from ddkit.integrations.federated.weights import load_arrays, weights_to_arrays
from ddkit.models.spec import ModelSpec
from ddkit.recipes.federated_report import Way
from ddkit.recipes.federated_settings import Settings
from ddkit.training.accuracy import probabilities
from ddkit.training.named import recipe as recipe_called
from ddkit.training.recipe import TrainingRecipe


class _Collecting(FedAvg):
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


def _trained_only(strategy: Averaging) -> Averaging:
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
        self._count(way, outcome.traffic, rounds)
        way.seconds = outcome.seconds - (self.measuring - before)
        return way

    def _count(self, way: Way, traffic: Traffic, rounds: int) -> None:
        way.up = [traffic.uploaded(number) / self.settings.clients for number in range(1, rounds + 1)]
        way.down = [traffic.downloaded(number) / self.settings.clients for number in range(1, rounds + 1)]

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

    def averaging(self) -> list[Way]:
        """Run FedAvg and FedProx."""
        ways = [self._run(Way("FedAvg", "averaging"), _trained_only(FedAvg()), self._local(), self.settings.rounds)]
        for mu in self.settings.mu:
            strategy = _trained_only(FedProx(proximal_mu=mu))
            ways.append(
                self._run(Way(f"FedProx, mu {mu:g}", "averaging"), strategy, self._local(), self.settings.rounds)
            )
        return ways

    def one_shot(self) -> list[Way]:
        """Send weights once: their average, and the ensemble of the clients' models."""
        strategy = _trained_only(_Collecting())
        client = self._local(self.settings.one_shot_epochs)
        average = self._run(Way("one-shot averaging", "averaging"), strategy, client, 1)
        ensemble = Way("one-shot ensemble", "averaging", up=average.up, down=average.down, seconds=average.seconds)
        module = self._fresh()
        each = [probabilities(load_arrays(arrays, module), self.test) for arrays in strategy.collected]
        self.measure(ensemble, torch.stack(each).mean(dim=0))
        return [average, ensemble]

    def images(self, method: str, ipc: int, options: dict[str, Any], kind: str, name: str) -> Way:
        """Send images once: real ones of a coreset, or distilled ones."""
        strategy = FedDistill(
            self.task,
            model=self.settings.model,
            recipe=self._server_recipe(),
            min_clients=self.settings.min_clients,
            max_ipc=ipc,
            folder=self.folder / f"{method}-{ipc}",
            seed=self.seed,
        )
        client = DistillClient(
            self.task,
            self.load,
            method=method,
            ipc=ipc,
            wire=self.settings.wire,
            options=options,
            allow_real_init=kind == "records",
            seed=self.seed,
        )
        way = self._run(Way(name, kind), strategy, client.app(), 1)
        way.images = sum(strategy.reports[-1].accepted.values())
        return way

    def feddm(self) -> Way:
        """Send distilled images round after round, matched around the global model."""
        chosen = self.settings.feddm
        strategy = FedDistill(
            self.task,
            model=self.settings.model,
            recipe=self._server_recipe(),
            rounds="iterative",
            radius=chosen.radius,
            min_clients=self.settings.min_clients,
            max_ipc=chosen.ipc,
            seed=self.seed,
        )
        options = merge(self.settings.options, chosen.options)
        client = DistillClient(
            self.task, self.load, method="dm", ipc=chosen.ipc, wire=self.settings.wire, options=options, seed=self.seed
        )
        way = self._run(Way(f"FedDM, {chosen.ipc} per class", "distilled"), strategy, client.app(), chosen.rounds)
        way.images = sum(strategy.reports[-1].accepted.values())
        return way

    def dynafed(self) -> Way:
        """Average weights, and refine the aggregates on what the server distilled from their trajectory."""
        chosen = self.settings.dynafed
        strategy = ServerDistill(
            self.task,
            _trained_only(FedAvg()),
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

    def all_ways(self, say: Callable[[str], None]) -> list[Way]:
        """Run everything; say what is next."""
        settings = self.settings
        say("  all images in one place, averaging")
        ways = [self.central(), *self.averaging(), *self.one_shot()]
        for ipc in settings.ipc:
            say(f"  images, {ipc} per class and client")
            for method in settings.real:
                # Pixels, as a client has no network that was trained on more than its own classes.
                options = {"selection": {"features": "pixels"}} if method != "random" else {}
                ways.append(self.images(method, ipc, options, "records", f"{method}, {ipc} per class"))
            options = merge({"model": settings.model}, settings.options)
            ways.append(
                self.images(settings.method, ipc, options, "distilled", f"{settings.method} once, {ipc} per class")
            )
        say("  FedDM and DynaFed")
        return [*ways, self.feddm(), self.dynafed()]


def subset(real: RealData, count: int, name: str) -> RealData:
    """Return ``count`` images, drawn once for all partitions; all of a smaller set."""
    if count >= len(real):
        return real
    order = torch.randperm(len(real), generator=Streams(0)(name))
    return real.subset(order[:count].sort().values)


def run_partition(settings: Settings, out: Path, say: Callable[[str], None], item: tuple[float, int]) -> list[Way]:
    """Run every way on the partition ``item`` = (alpha, number of the seed); a unit of work for an executor."""
    alpha, number = item
    say(f"alpha {alpha:g}, partition {number + 1} of {settings.seeds}")
    train_set, test_set = data_of(settings)
    folder = out / "sets" / f"alpha-{alpha:g}-{number}"
    seed = derive_seed(settings.seed, "federated", number)
    return Partition(settings, train_set, test_set, alpha, seed, folder).all_ways(say)


def data_of(settings: Settings) -> tuple[RealData, RealData]:
    """Return the images of the clients and those that accuracies are measured on; both the same for all partitions."""
    train_set, test_set = _pair(settings.data, settings.data_root)
    if settings.measure == "validation":
        order = torch.randperm(len(train_set), generator=Streams(0)("validation"))
        held = len(train_set) // 5
        test_set, train_set = train_set.subset(order[:held]), train_set.subset(order[held:])
    return subset(train_set, settings.train_images, "train"), subset(test_set, settings.test_images, "test")


@functools.cache
def _pair(name: str, root: str | None) -> tuple[RealData, RealData]:
    return load_pair(name, root=root)
