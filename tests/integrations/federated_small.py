"""A federation that runs in a second: three classes, four clients, a tiny ConvNet."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("flwr", reason="needs ddkit[federated]")

from ddkit.data import RealData
from ddkit.integrations.federated import DistillClient, FedDistill, Task, TrainClient, weights_to_arrays
from ddkit.integrations.federated.flower import ArrayRecord, ClientApp, Context, FedAvg, Message
from ddkit.models import ModelSpec
from ddkit.testing.small import toy_data
from ddkit.training import TrainingRecipe

MODEL = "convnet:width=4,depth=2"
DATA = toy_data(counts=(24, 30, 28))
TASK = Task.of(DATA)
RECIPE = TrainingRecipe(name="tiny", epochs=2, schedule="constant")
OPTIONS: dict[str, Any] = {"steps": 2, "model": MODEL, "objective": {"real_batch": 4}, "augmentation": "none"}


def shard(partition: int, clients: int = 4) -> RealData:
    """Return every ``clients``-th image."""
    return DATA.subset(torch.arange(partition, len(DATA), clients))


def load(context: Context) -> RealData:
    """Return the images of a client."""
    return shard(int(context.node_config["partition-id"]), int(context.node_config["num-partitions"]))


def client(**more: Any) -> DistillClient:
    """Return a client that distils in a moment."""
    return DistillClient(TASK, load, **{"ipc": 1, "options": OPTIONS, **more})


def server(**more: Any) -> FedDistill:
    """Return a strategy that trains in a moment."""
    return FedDistill(TASK, **{"model": MODEL, "recipe": RECIPE, **more})


def app_where(behaviour: dict[int, Any], base: DistillClient | None = None) -> ClientApp:
    """Return an app whose partitions in ``behaviour`` answer by ``behaviour[partition](message, context, reply)``."""
    app, honest = ClientApp(), base or client()

    @app.train("distil")
    def distil(message: Message, context: Context) -> Message:
        reply = honest.reply(message, context)
        change = behaviour.get(int(context.node_config["partition-id"]))
        return reply if change is None else change(message, context, reply)

    return app


LOCAL = RECIPE.replace(epochs=1, batch_size=8, lr=0.05)


def trainer() -> TrainClient:
    """Return a client of federated averaging."""
    return TrainClient(TASK, load, model=MODEL, recipe=LOCAL)


def averaging(kind: type[FedAvg] = FedAvg, **more: Any) -> FedAvg:
    """Return a strategy of Flower's whose clients do not evaluate."""
    strategy = kind(**more)
    strategy.fraction_evaluate = 0.0
    return strategy


def initial() -> ArrayRecord:
    """Return initial weights."""
    return weights_to_arrays(ModelSpec.parse(MODEL).build(TASK.shape, 3, 0))
