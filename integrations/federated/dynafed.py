"""How does the server refine aggregates on a set distilled from the global model's own trajectory (DynaFed)?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

import torch
from torch import Tensor

from ddkit.artifact import DistilledDataset
from ddkit.config import merge
from ddkit.data import RealData
from ddkit.engine import Distiller
from ddkit.errors import ConfigError, RunError
from ddkit.evaluation import TrainingRecipe
from ddkit.integrations.federated.flower import (
    ArrayRecord,
    ConfigRecord,
    FedAvg,
    Grid,
    Message,
    MetricRecord,
    Result,
    Strategy,
)
from ddkit.integrations.federated.npy import PayloadError
from ddkit.integrations.federated.report import REASON, RoundReport, reason_of
from ddkit.integrations.federated.task import Task
from ddkit.integrations.federated.training import check_recipe, train, training_data
from ddkit.integrations.federated.weights import arrays_to_weights, flat, load_arrays, weights_to_arrays
from ddkit.models import ModelSpec, uses_batch_norm
from ddkit.networks import Network, NetworkSource
from ddkit.networks.experts import Segment
from ddkit.streams import Streams, derive_seed
from ddkit.synthesis import Synthesizer

_logger = getLogger("ddkit.federated")


class GlobalTrajectory(NetworkSource):
    """The global model after each of the first rounds, as the one expert of trajectory matching.

    Args:
        weights: W + 1 vectors (P,), the initial weights first.
    """

    def __init__(self, weights: list[Tensor]) -> None:
        self.points = weights
        self.count, self.epochs = 1, len(weights) - 1

    def require_epochs(self, last: int) -> None:
        """Refuse a segment that ends after the last round kept.

        Raises:
            ConfigError: there are fewer.
        """
        if last > self.epochs:
            raise ConfigError(
                f"round {last} of the global model is read, {self.epochs} were kept: raise warmup_rounds, or lower "
                f"objective.max_start_epoch or objective.expert_epochs"
            )

    def weights(self, expert: int, epoch: int) -> Tensor:
        """Return the global weights (P,) after a round, 0 for the initial ones."""
        return self.points[epoch]

    def segment(self, max_start: int, length: int) -> Segment:
        """Draw a start below ``max_start``, uniformly; the target is ``length`` rounds later."""
        self.require_epochs(max_start - 1 + length)
        start = int(torch.randint(max_start, (1,), generator=self.streams("experts")))
        return Segment(self.points[start], self.points[start + length], 0, start)

    def current(self) -> Network:
        """Return the network with its present weights: trajectories alone are matched."""
        return self.network

    def after_step(self, synthesizer: Synthesizer, *, last: bool) -> None:
        """Keep the trajectory as it is."""

    def metadata(self) -> dict[str, Any]:
        """Return the number of rounds."""
        return {"rounds": self.epochs}


def distil_trajectory(
    task: Task,
    model: str,
    trajectory: list[Tensor],
    ipc: int,
    seed: int,
    *,
    method: str = "mtt",
    options: Mapping[str, Any] | None = None,
) -> DistilledDataset:
    """Distil a set that retraces the global model's way (Pi et al. 2023, "DynaFed", CVPR), without any real image.

    Images start from noise, labels are soft and learned, as in the paper. Real images play no part: the data that the
    distiller is given say only how many classes of which shape there are.

    Args:
        task: what the federation learns.
        model: the global model.
        trajectory: W + 1 weight vectors (P,).
        ipc: images per class.
        seed: of the distillation.
        method: a method of trajectory matching.
        options: overrides of its preset.

    Raises:
        ConfigError: options that do not suit, or too short a trajectory.
    """
    rounds = len(trajectory) - 1
    length = min(2, rounds)
    defaults: dict[str, Any] = {
        "model": model,
        "init": "noise",
        "augmentation": "none",
        "synthesis": {"name": "pixels", "labels": "learned"},
        "objective": {"student_steps": 10, "expert_epochs": length, "max_start_epoch": rounds - length + 1},
        "steps": 200,
        "optimiser": {"name": "adam", "lr": 0.05, "groups": {"student_lr": {"name": "adam", "lr": 1e-3}}},
    }
    blank = torch.zeros(task.num_classes, *task.shape, dtype=torch.uint8)
    nobody = RealData.from_tensors(
        blank,
        torch.arange(task.num_classes),
        class_names=task.class_names,
        preprocessing=task.preprocessing,
        name=f"global model over {rounds} rounds",
    )
    settings = merge(defaults, options or {})
    return Distiller(method, ipc, seed=seed, networks=GlobalTrajectory(trajectory), **settings).fit(nobody)


class ServerDistill(Strategy):
    """Refines the aggregate of another strategy on a set distilled on the server (DynaFed, Pi et al. 2023).

    The global weights of the first ``warmup_rounds`` rounds are kept; a set is distilled whose training retraces
    them; from then on every aggregate is trained on that set before it goes down. Clients and messages stay those of
    ``base``. Updates that do not fit the model or are not finite are left out before ``base`` sees them.

    Attributes:
        reports: one :class:`RoundReport` per round.
        distilled: the set, once there is one.

    Args:
        task: what the federation learns.
        base: Flower's FedAvg or a strategy derived from it.
        model: the global model, without batch norm.
        warmup_rounds: rounds of the trajectory.
        ipc: images per class of the set.
        method: a method of trajectory matching.
        options: overrides of its preset.
        recipe: training of an aggregate on the set.
        min_clients: a round needs as many usable updates.
        seed: of the distillation and of training.

    Raises:
        ConfigError: an option out of range, batch norm, or a recipe that does not suit.
    """

    def __init__(
        self,
        task: Task,
        base: FedAvg,
        *,
        model: str = "convnet",
        warmup_rounds: int = 25,
        ipc: int = 15,
        method: str = "mtt",
        options: Mapping[str, Any] | None = None,
        recipe: TrainingRecipe | None = None,
        min_clients: int = 2,
        seed: int = 0,
    ) -> None:
        if warmup_rounds < 1 or ipc < 1 or min_clients < 1:
            raise ConfigError(
                f"warmup_rounds={warmup_rounds}, ipc={ipc} and min_clients={min_clients} must be at least 1"
            )
        self.task, self.base, self.spec = task, base, ModelSpec.parse(model)
        self.module = self.spec.build(task.shape, task.num_classes, derive_seed(seed, "global-model"))
        if uses_batch_norm(self.module):
            raise ConfigError(
                f"model '{self.spec.canonical()}' has batch norm, whose statistics are no part of a trajectory of "
                f"weights: use norm=instance"
            )
        default = TrainingRecipe(name="refine", epochs=20, schedule="constant", weight_decay=0.0)
        self.recipe = default if recipe is None else recipe
        check_recipe(self.recipe)
        self.warmup_rounds, self.ipc, self.method, self.options = warmup_rounds, ipc, method, dict(options or {})
        self.min_clients, self.seed = min_clients, seed
        self.trajectory: list[Tensor] = []
        self.distilled: DistilledDataset | None = None
        self.reports: list[RoundReport] = []

    def summary(self) -> None:
        """Log what is done."""
        _logger.info("ServerDistill after %d rounds, on top of:", self.warmup_rounds)
        self.base.summary()

    def start(  # type: ignore[override]
        self, grid: Grid, initial_arrays: ArrayRecord | None = None, num_rounds: int = 3, **more: Any
    ) -> Result:
        """Run the strategy; see Flower's ``Strategy.start``. ``initial_arrays`` None starts from those of the seed."""
        if initial_arrays is not None:
            load_arrays(initial_arrays, self.module)
        self.trajectory = [flat(self.module)]
        return super().start(grid, weights_to_arrays(self.module), num_rounds, **more)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask whom ``base`` asks, for what it asks."""
        messages = list(self.base.configure_train(server_round, arrays, config, grid))
        self.reports.append(
            RoundReport(server_round, asked=tuple(message.metadata.dst_node_id for message in messages))
        )
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate what can be used, keep it or refine it.

        Raises:
            RunError: fewer than ``min_clients`` usable updates.
        """
        report = self.reports[-1]
        usable = [message for message in replies if self._usable(message, report)]
        if len(usable) < self.min_clients:
            raise RunError(
                f"round {server_round}: {len(usable)} of {len(report.asked)} clients sent a usable update, "
                f"min_clients={self.min_clients}; missing: {report.reasons()}"
            )
        arrays, metrics = self.base.aggregate_train(server_round, usable)
        if arrays is None:
            return arrays, metrics
        load_arrays(arrays, self.module)
        if server_round <= self.warmup_rounds:
            self.trajectory.append(flat(self.module))
        if server_round == self.warmup_rounds:
            self.distilled = distil_trajectory(
                self.task,
                self.spec.canonical(),
                self.trajectory,
                self.ipc,
                derive_seed(self.seed, "server-distil"),
                method=self.method,
                options=self.options,
            )
        if self.distilled is None:
            return arrays, metrics
        streams = Streams(derive_seed(self.seed, "server", server_round))
        train(self.module, training_data(self.distilled), self.recipe, streams)
        return weights_to_arrays(self.module), metrics

    def _usable(self, message: Message, report: RoundReport) -> bool:
        """Say whether an update fits the model and is finite, with a positive weight; report it otherwise."""
        node = message.metadata.src_node_id
        if message.has_error():
            report.failed[node] = reason_of(message)
            return False
        try:
            self._check_update(message)
        except Exception as error:  # no payload ends the run, whatever it provokes
            report.refused[node] = str(error)[:REASON]
            return False
        report.accepted[node] = 1
        return True

    def _check_update(self, message: Message) -> None:
        content = message.content
        if len(content.array_records) != 1 or len(content.metric_records) != 1 or len(content) != 2:
            raise PayloadError(f"records {sorted(map(str, content))[:5]}: expected one of arrays and one of metrics")
        arrays_to_weights(next(iter(content.array_records.values())), self.module)
        weight = next(iter(content.metric_records.values())).get(self.base.weighted_by_key)
        if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise PayloadError(f"'{self.base.weighted_by_key}' is {str(weight)[:40]}: expected a positive number")

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask whom ``base`` asks."""
        return self.base.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate as ``base`` does."""
        return self.base.aggregate_evaluate(server_round, replies)
