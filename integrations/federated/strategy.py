"""Which strategy trains the server's model on distilled sets: FedDistill, in one shot or round after round (FedDM)?"""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any, Literal

import torch

from ddkit.base.ranges import Count, Rate, Whole, in_range
from ddkit.base.streams import Streams, derive_seed
from ddkit.errors import ConfigError, RunError, unknown_name
from ddkit.integrations.federated.client import ARRAYS, CONFIG, DISTIL, MODEL, RADIUS, ROUND
from ddkit.integrations.federated.flower import (
    ArrayRecord,
    ConfigRecord,
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
from ddkit.integrations.federated.store import RoundStore
from ddkit.integrations.federated.suspects import find_suspects
from ddkit.integrations.federated.task import Task
from ddkit.integrations.federated.training import check_recipe, train, training_data
from ddkit.integrations.federated.union import Weighting, gradient_cosines, in_order, joined
from ddkit.integrations.federated.weights import load_arrays, weights_to_arrays
from ddkit.integrations.federated.wire import ClientSet, Limits, bytes_of, unpack
from ddkit.models.spec import ModelSpec
from ddkit.training.recipe import TrainingRecipe

Rounds = Literal["one-shot", "iterative"]
_logger = getLogger("ddkit.federated")


class FedDistill(Strategy):
    """Trains a model on the union of the sets that clients distilled.

    In one shot clients send one set each and a fresh model is trained on all of them (FedD3, Song et al. 2022). In
    iterative mode (FedDM, Xiong et al. 2023) every round sends the global weights down; clients match around them, and
    the server goes on training from them within ``radius``.

    Nothing that a client sends can end the run: what cannot be used is refused, with the reason in ``reports``. Nor
    can one client outweigh the others: its share of the training is bounded, see
    :func:`~ddkit.integrations.federated.shares.largest_share`, and labels that contradict the images of the other
    clients are reported, see :func:`~ddkit.integrations.federated.suspects.find_suspects`.

    Attributes:
        reports: one :class:`RoundReport` per round.
        sets: what the last round accepted, by node, with provenance in the metadata.

    Args:
        task: what the federation learns.
        model: architecture of the global model.
        recipe: how the server trains, in each round where there are several.
        rounds: ``one-shot`` or ``iterative``.
        radius: of iterative mode: how far the networks that clients match on, and a round's training, may go.
        weighting: ``counts`` (real images of each client and class, as the client says, within the bound of a client's
            share) or ``equal``.
        min_clients: a round needs as many usable sets.
        max_bytes_per_client: bytes of one set, an integer or for instance ``"2MB"``.
        max_ipc: most images of a class from one client.
        staleness: iterative mode: for how many rounds the last set of a client that fails, is silent or is no longer
            connected is used again.
        min_cosine: robust step: sets whose loss gradient has a smaller cosine with the median gradient are left out;
            None for none. Honest clients with few classes may be hit as well.
        exclude_suspects: leave out the sets of clients whose labels contradict the images of the others, instead of
            reporting them only.
        wait: seconds to wait for ``min_clients`` to connect.
        folder: keeps accepted sets and weights, so that a killed server asks only those that are missing.
        seed: of the initial weights and of training.

    Raises:
        ConfigError: an option out of range, or a model or recipe that does not exist.
    """

    @in_range("")
    def __init__(
        self,
        task: Task,
        *,
        model: str = "convnet",
        recipe: TrainingRecipe | None = None,
        rounds: Rounds = "one-shot",
        radius: Rate = 5.0,
        weighting: Weighting = "counts",
        min_clients: Count = 2,
        max_bytes_per_client: int | str = "2MB",
        max_ipc: Count = 50,
        staleness: Whole = 0,
        min_cosine: float | None = None,
        exclude_suspects: bool = False,
        wait: float = 600.0,
        folder: Path | str | None = None,
        seed: int = 0,
    ) -> None:
        if rounds not in ("one-shot", "iterative"):
            raise unknown_name("kind of rounds", rounds, ("one-shot", "iterative"))
        if weighting not in ("counts", "equal"):
            raise unknown_name("weighting", weighting, ("counts", "equal"))
        self.task, self.spec = task, ModelSpec.parse(model)
        self.recipe = TrainingRecipe.standard("mnist") if recipe is None else recipe
        check_recipe(self.recipe)
        self.iterative, self.radius = rounds == "iterative", radius
        self.weighting, self.min_clients = weighting, min_clients
        self.limits = Limits(task, bytes_of(max_bytes_per_client), max_ipc)
        self.staleness, self.min_cosine, self.wait, self.seed = staleness, min_cosine, checked_wait(wait), seed
        self.exclude_suspects = exclude_suspects
        self.module = self.spec.build(task.shape, task.num_classes, derive_seed(seed, "global-model"))
        self.reports: list[RoundReport] = []
        self.sets: dict[int, ClientSet] = {}
        self._history: dict[int, tuple[int, ClientSet]] = {}
        self._asked: list[Message] = []
        self.store = None if folder is None else RoundStore(folder, self._settings())

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.spec.canonical(),
            "recipe": self.recipe.model_dump(mode="json"),
            "iterative": self.iterative,
            "radius": self.radius,
            "weighting": self.weighting,
            "staleness": self.staleness,
            "min_cosine": self.min_cosine,
            "exclude_suspects": self.exclude_suspects,
            "seed": self.seed,
            "shape": list(self.task.shape),
            "class_names": list(self.task.class_names),
        }

    def summary(self) -> None:
        """Log what is done."""
        how = f"iterative within radius {self.radius:g}" if self.iterative else "one shot"
        _logger.info("FedDistill, %s: %s on the union of distilled sets", how, self.spec.canonical())

    def start(  # type: ignore[override]
        self, grid: Grid, initial_arrays: ArrayRecord | None = None, num_rounds: int = 1, **more: Any
    ) -> Result:
        """Run the strategy; see Flower's ``Strategy.start`` for the arguments.

        Args:
            grid: of the run.
            initial_arrays: weights to start from; None for those of the seed.
            num_rounds: 1 in one-shot mode.
            more: ``timeout``, ``evaluate_fn`` and others of Flower's.

        Raises:
            ConfigError: several rounds of one-shot mode, or a folder whose run began with other weights.
            RunError: too few clients connect or send usable sets.
        """
        if not self.iterative and num_rounds != 1:
            raise ConfigError(f"num_rounds={num_rounds} with one-shot sets: use 1, or rounds='iterative'")
        if initial_arrays is not None:
            load_arrays(initial_arrays, self.module)
        if self.store is not None:
            self.store.require_start(self.module)
        return super().start(grid, weights_to_arrays(self.module), num_rounds, **more)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every connected client for its set; those whose set of this round is on disk are not asked again."""
        report = RoundReport(server_round)
        self.reports.append(report)
        kept = {} if self.store is None else self.store.sets(server_round)
        self.sets = kept
        self._history.update({node: (server_round, one) for node, one in kept.items()})
        report.accepted = {node: len(one.distilled) for node, one in kept.items()}
        if self.store is not None and self.store.has_model(server_round):
            return []
        nodes = [node for node in connected(grid, self.min_clients, self.wait) if node not in kept]
        report.asked = tuple(nodes)
        config[ROUND] = server_round
        content = RecordDict({CONFIG: config})
        if self.iterative:
            config[MODEL], config[RADIUS] = self.spec.canonical(), self.radius
            content[ARRAYS] = arrays
        self._asked = [Message(content, node, DISTIL) for node in nodes]
        return self._asked

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check what clients sent, train on the union of what can be used.

        Raises:
            RunError: fewer than ``min_clients`` usable sets, or a class of which nobody sent an image.
        """
        report, begun = self.reports[-1], time.monotonic()
        if self.store is not None and self.store.load_model(server_round, self.module):
            return weights_to_arrays(self.module), report.metrics()
        for message in replies:
            self._take(message, report)
        self._reuse_stale(report)
        self._drop_outliers(report)
        self._find_suspects(report)
        self._require_enough(report)
        self._train(report)
        report.seconds = round(time.monotonic() - begun, 3)
        if self.store is not None:
            self.store.keep_model(server_round, self.module)
        return weights_to_arrays(self.module), report.metrics()

    def _take(self, message: Message, report: RoundReport) -> None:
        """Accept or refuse the answer of one client."""
        node = client_of(message, self._asked)
        unexpected = report.unexpected(node)
        if unexpected is not None:
            report.refused.setdefault(node, unexpected)
        elif message.has_error():
            report.failed[node] = reason_of(message)
        else:
            provenance = {"client": node, "round": report.number, "method": "federated"}
            try:
                one = unpack(message.content, self.limits, provenance)
            except PayloadError as error:
                report.refused[node] = one_line(str(error))
            except Exception as error:  # no payload ends the run, whatever it provokes
                report.refused[node] = one_line(f"malformed payload ({type(error).__name__}: {error})")
            else:
                self.sets[node], report.accepted[node] = one, len(one.distilled)
                self._history[node] = report.number, one
                if self.store is not None:
                    self.store.keep_set(report.number, node, one)
                return
        _logger.warning("round %d, client %d: %s", report.number, node, {**report.failed, **report.refused}[node])

    def _reuse_stale(self, report: RoundReport) -> None:
        for node, (number, one) in self._history.items():
            heard = node in self.sets or node in report.refused
            if not heard and report.number - number <= self.staleness:
                self.sets[node], report.accepted[node], report.stale[node] = one, len(one.distilled), number

    def _drop_outliers(self, report: RoundReport) -> None:
        if self.min_cosine is None or len(self.sets) < 3:
            return
        nodes = in_order(self.sets)
        for node, cosine in zip(nodes, gradient_cosines(self.module, [self.sets[n] for n in nodes]), strict=True):
            if cosine < self.min_cosine:
                report.outliers[node] = round(cosine, 4)
                del self.sets[node], report.accepted[node]

    def _find_suspects(self, report: RoundReport) -> None:
        nodes = in_order(self.sets)
        for place, reason in find_suspects([self.sets[node] for node in nodes]).items():
            node = nodes[place]
            report.suspects[node] = reason
            _logger.warning("round %d, client %d: %s", report.number, node, reason)
            if self.exclude_suspects:
                del self.sets[node], report.accepted[node]

    def _require_enough(self, report: RoundReport) -> None:
        if len(self.sets) < self.min_clients:
            raise RunError(
                f"round {report.number}: {len(self.sets)} of {len(report.asked)} clients sent a usable set, "
                f"min_clients={self.min_clients}; missing: {report.reasons()}"
            )
        seen = torch.cat([one.distilled.hard_labels() for one in self.sets.values()]).unique().tolist()
        missing = tuple(name for number, name in enumerate(self.task.class_names) if number not in seen)
        report.missing_classes = missing
        if missing:
            raise RunError(
                f"round {report.number}: no client sent images of class {', '.join(missing)}: lower the clients' "
                f"min_class_size, or leave the class out of the task"
            )

    def _train(self, report: RoundReport) -> None:
        nodes = in_order(self.sets)
        whole = joined([self.sets[node] for node in nodes], self.weighting)
        report.weigh(nodes, whole.shares, whole.claimed)
        streams = Streams(derive_seed(self.seed, "server", report.number))
        radius = self.radius if self.iterative else None
        train(self.module, training_data(whole.images), self.recipe, streams, weights=whole.importance, radius=radius)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask nobody: accuracy is the server's ``evaluate_fn``."""
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return nothing."""
        return None
