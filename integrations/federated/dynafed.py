"""How does the server refine aggregates on a set distilled from the global model's own trajectory (DynaFed)?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

import torch
from torch import Tensor

from ddkit.base.ranges import Count, in_range
from ddkit.base.streams import Streams, derive_seed
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError, DivergedError, RunError
from ddkit.integrations.federated.client import ARRAYS
from ddkit.integrations.federated.flower import (
    ArrayRecord,
    ConfigRecord,
    FedAvg,
    Grid,
    Message,
    MetricRecord,
    RecordDict,
    Result,
    Strategy,
)
from ddkit.integrations.federated.nodes import checked_wait, client_of, connected
from ddkit.integrations.federated.npy import PayloadError
from ddkit.integrations.federated.report import RoundReport, one_line, reason_of
from ddkit.integrations.federated.shares import bounded
from ddkit.integrations.federated.task import Task
from ddkit.integrations.federated.training import check_recipe, train, training_data
from ddkit.integrations.federated.trajectory import distil_trajectory
from ddkit.integrations.federated.weights import arrays_to_weights, flat, load_arrays, weights_to_arrays
from ddkit.integrations.federated.wire import METRICS, MOST_EXAMPLES
from ddkit.models.base import uses_batch_norm
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe

_logger = getLogger("ddkit.federated")


class ServerDistill(Strategy):
    """Refines the aggregate of another strategy on a set distilled on the server (DynaFed, Pi et al. 2023).

    The global weights of the first ``warmup_rounds`` rounds are kept; a set is distilled whose training retraces
    them; from then on every aggregate is trained on that set before it goes down. Clients and messages stay those of
    ``base``. Updates that do not fit the model or are not finite are left out before ``base`` sees them, and of their
    metrics it sees the numbers that all clients sent. No client has more of the average than
    :func:`~ddkit.integrations.federated.shares.largest_share`, whatever number of images it claims. Where a refinement
    diverges the aggregate goes down as it is.

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
        wait: seconds to wait for ``min_clients``, and for as many as ``base`` needs, to connect.
        seed: of the distillation and of training.

    Raises:
        ConfigError: an option out of range, batch norm, or a recipe that does not suit.
    """

    @in_range("")
    def __init__(
        self,
        task: Task,
        base: FedAvg,
        *,
        model: str = "convnet",
        warmup_rounds: Count = 25,
        ipc: Count = 15,
        method: str = "mtt",
        options: Mapping[str, Any] | None = None,
        recipe: TrainingRecipe | None = None,
        min_clients: Count = 2,
        wait: float = 600.0,
        seed: int = 0,
    ) -> None:
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
        self.min_clients, self.wait, self.seed = min_clients, checked_wait(wait), seed
        self.trajectory: list[Tensor] = []
        self.distilled: DistilledDataset | None = None
        self.reports: list[RoundReport] = []
        self._asked: list[Message] = []

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
        """Ask whom ``base`` asks, for what it asks.

        Raises:
            RunError: too few clients connect; ``base`` alone would wait for ever.
        """
        connected(grid, max(self.min_clients, self.base.min_available_nodes, self.base.min_train_nodes), self.wait)
        self._asked = list(self.base.configure_train(server_round, arrays, config, grid))
        self.reports.append(
            RoundReport(server_round, asked=tuple(message.metadata.dst_node_id for message in self._asked))
        )
        return self._asked

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
        _keep_common_metrics(usable)
        self._bound_shares(usable, report)
        arrays, metrics = self.base.aggregate_train(server_round, usable)
        if arrays is None:
            return arrays, metrics
        load_arrays(arrays, self.module)
        if server_round <= self.warmup_rounds:
            self.trajectory.append(flat(self.module))
        try:
            self._refine(server_round)
        except DivergedError as error:
            report.note = one_line(f"not refined: {error}")
            _logger.warning("round %d: %s", server_round, report.note)
            return arrays, metrics
        return (arrays if self.distilled is None else weights_to_arrays(self.module)), metrics

    def _refine(self, server_round: int) -> None:
        """Distil at the end of the warm-up; train on the set once there is one."""
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
        if self.distilled is not None:
            streams = Streams(derive_seed(self.seed, "server", server_round))
            train(self.module, training_data(self.distilled), self.recipe, streams)

    def _usable(self, message: Message, report: RoundReport) -> bool:
        """Say whether an update fits the model and is finite, with a positive weight; report it otherwise.

        A usable one is left with the arrays, and the metrics that are finite numbers.
        """
        node = client_of(message, self._asked)
        unexpected = report.unexpected(node)
        if unexpected is not None:
            report.refused.setdefault(node, unexpected)
            return False
        if message.has_error():
            report.failed[node] = reason_of(message)
            return False
        try:
            message.content = self._checked(message.content)
        except Exception as error:  # no payload ends the run, whatever it provokes
            report.refused[node] = one_line(str(error))
            return False
        report.accepted[node] = 1
        return True

    def _checked(self, content: RecordDict) -> RecordDict:
        """Return an update under the names that all updates get: Flower stops at records that differ."""
        if len(content.array_records) != 1 or len(content.metric_records) != 1 or len(content) != 2:
            raise PayloadError(f"records {sorted(map(str, content))[:5]}: expected one of arrays and one of metrics")
        arrays = next(iter(content.array_records.values()))
        arrays_to_weights(arrays, self.module)
        metrics = next(iter(content.metric_records.values()))
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        weight = numbers.get(self.base.weighted_by_key, 0)
        if not 0 < weight <= MOST_EXAMPLES:
            raise PayloadError(
                f"'{self.base.weighted_by_key}' is {str(weight)[:40]}: expected a positive number up to {MOST_EXAMPLES}"
            )
        finite = {key: value for key, value in numbers.items() if math.isfinite(value)}
        return RecordDict({ARRAYS: arrays, METRICS: MetricRecord({**finite})})

    def _bound_shares(self, messages: list[Message], report: RoundReport) -> None:
        """Cut the weights of clients that would decide more of the average than one may; others stay as they are."""
        metrics, key = [message.content.metric_records[METRICS] for message in messages], self.base.weighted_by_key
        claims = torch.tensor([float(one[key]) for one in metrics], dtype=torch.float64)  # type: ignore[arg-type]
        allowed = bounded(claims)
        for one, claim, weight in zip(metrics, claims.tolist(), allowed.tolist(), strict=True):
            if weight < claim:
                one[key] = weight
        nodes = [message.metadata.src_node_id for message in messages]
        report.weigh(nodes, (allowed / allowed.sum()).tolist(), (claims / claims.sum()).tolist())

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask whom ``base`` asks."""
        return self.base.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate as ``base`` does."""
        return self.base.aggregate_evaluate(server_round, replies)


def _keep_common_metrics(messages: list[Message]) -> None:
    """Keep the metrics that every message has."""
    common = set.intersection(*(set(message.content.metric_records[METRICS]) for message in messages))
    for message in messages:
        metrics = message.content.metric_records[METRICS]
        for key in set(metrics) - common:
            del metrics[key]
