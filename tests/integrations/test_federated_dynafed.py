"""Does the server refine aggregates on what it distilled, from weights alone, and leave bad updates out?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ddkit.errors import ConfigError, RunError
from ddkit.integrations.federated import (
    InProcessGrid,
    ServerDistill,
    load_arrays,
    simulate,
    weights_to_arrays,
)
from ddkit.integrations.federated.flower import (
    Array,
    ArrayRecord,
    ClientApp,
    Context,
    Message,
    MetricRecord,
    RecordDict,
    task_identity,
)
from ddkit.integrations.federated.trajectory import GlobalTrajectory, distil_trajectory
from ddkit.integrations.federated.weights import flat
from ddkit.models import ModelSpec
from tests.integrations.federated_small import MODEL, RECIPE, TASK, averaging, initial, trainer


def refining(**more: Any) -> ServerDistill:
    options = {"steps": 2, "objective": {"student_steps": 2}}
    return ServerDistill(
        TASK, averaging(), **{"model": MODEL, "warmup_rounds": 2, "ipc": 1, "options": options, **more}
    )


def test_dynafed_keeps_the_trajectory_then_refines_every_aggregate() -> None:
    strategy = refining(recipe=RECIPE)
    plain = averaging()
    weights = {}
    for name, one in (("refined", strategy), ("plain", plain)):
        seen: list[torch.Tensor] = []

        def keep(server_round: int, arrays: ArrayRecord, seen: list[torch.Tensor] = seen) -> None:
            seen.append(flat(load_arrays(arrays, ModelSpec.parse(MODEL).build(TASK.shape, 3, 1))))

        simulate(one, trainer().app(), clients=3, rounds=3, initial_arrays=initial(), evaluate=keep)
        weights[name] = seen
    assert torch.equal(weights["refined"][1], weights["plain"][1])
    assert not torch.equal(weights["refined"][2], weights["plain"][2])
    assert [torch.equal(a, b) for a, b in zip(strategy.trajectory, weights["plain"], strict=False)] == [True] * 3
    assert strategy.distilled is not None and len(strategy.distilled) == 3
    assert strategy.distilled.label_kind != "hard"
    assert strategy.distilled.metadata["source"]["name"] == "global model over 2 rounds"


def test_dynafed_needs_no_real_image() -> None:
    """The data that the distiller is given are blank: only the trajectory decides."""
    way = [torch.randn(flat(refining().module).numel(), generator=torch.Generator().manual_seed(k)) for k in range(3)]
    options = {"steps": 1, "objective": {"student_steps": 1}}
    one, same = (distil_trajectory(TASK, MODEL, way, 1, 0, options=options) for _ in range(2))
    other = distil_trajectory(TASK, MODEL, [w + 1 for w in way], 1, 0, options=options)
    assert torch.equal(one.images, same.images) and not torch.equal(one.images, other.images)


def test_a_trajectory_that_is_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match="raise warmup_rounds"):
        GlobalTrajectory([torch.zeros(3)] * 2).require_epochs(2)


def poisoned(message: Message, context: Context, reply: Message) -> Message:
    arrays = reply.content["arrays"]
    name = next(iter(arrays))
    arrays[name] = Array(np.full_like(arrays[name].numpy(), np.nan))  # type: ignore[index, union-attr]
    return reply


def weightless(message: Message, context: Context, reply: Message) -> Message:
    reply.content["metrics"]["num-examples"] = -3  # type: ignore[index]
    return reply


def other_model(message: Message, context: Context, reply: Message) -> Message:
    reply.content["arrays"] = weights_to_arrays(torch.nn.Linear(2, 2))
    return reply


def app_with(behaviour: Any) -> ClientApp:
    """Return the app of averaging whose first partition changes its answer."""
    app, honest = ClientApp(), trainer()

    @app.train()
    def reply(message: Message, context: Context) -> Message:
        answer = honest.reply(message, context)
        return behaviour(message, context, answer) if context.node_config["partition-id"] == 0 else answer

    return app


def boundless(message: Message, context: Context, reply: Message) -> Message:
    reply.content["metrics"]["num-examples"] = 1e308  # type: ignore[index]
    return reply


def doubled(message: Message, context: Context, reply: Message) -> Message:
    arrays = reply.content["arrays"]
    name = next(iter(arrays))
    arrays[name] = Array(np.full(arrays[name].shape, 1e300))  # type: ignore[index, union-attr]
    return reply


@pytest.mark.parametrize(
    "behaviour, words",
    [
        (poisoned, "NaN"),
        (doubled, "infinity"),
        (weightless, "positive number"),
        (boundless, "positive number"),
        (other_model, "same model"),
    ],
)
def test_dynafed_leaves_out_updates_that_would_end_or_spoil_averaging(behaviour: Any, words: str) -> None:
    strategy = refining()
    simulate(strategy, app_with(behaviour), clients=3, initial_arrays=initial())
    assert words in strategy.reports[0].refused[1] and sorted(strategy.reports[0].accepted) == [2, 3]
    assert bool(flat(strategy.module).isfinite().all())


def renamed(message: Message, context: Context, reply: Message) -> Message:
    metrics = MetricRecord({"num-examples": 3, "list": [1.0], "nan": float("nan"), "own": 1})
    return Message(RecordDict({"evil": reply.content["arrays"], "odd": metrics}), reply_to=message)


def test_records_of_other_names_and_metrics_do_not_end_averaging() -> None:
    strategy = refining()
    outcome = simulate(strategy, app_with(renamed), clients=3, initial_arrays=initial())
    assert sorted(strategy.reports[0].accepted) == [1, 2, 3]
    assert dict(outcome.result.train_metrics_clientapp[1]) == {}
    plain = refining()
    kept = simulate(plain, trainer().app(), clients=3, initial_arrays=initial())
    assert set(kept.result.train_metrics_clientapp[1]) == {"train-loss"}


def huge(message: Message, context: Context, reply: Message) -> Message:
    arrays = reply.content["arrays"]
    for name in list(arrays):
        arrays[name] = Array(np.full_like(arrays[name].numpy(), 1e38))  # type: ignore[index, union-attr]
    return reply


def test_a_refinement_that_diverges_is_left_out_and_noted() -> None:
    strategy = refining(warmup_rounds=1)
    simulate(strategy, app_with(huge), clients=3, initial_arrays=initial())
    assert "not refined" in strategy.reports[0].note and strategy.distilled is None


def test_dynafed_waits_no_longer_than_it_is_told() -> None:
    strategy = refining(wait=0)
    with task_identity(1), pytest.raises(RunError, match="1 clients are connected after 0 seconds"):
        strategy.start(InProcessGrid(trainer().app(), 1))


def test_dynafed_refuses_batch_norm() -> None:
    with pytest.raises(ConfigError, match="batch norm"):
        refining(model="convnet:width=4,depth=2,norm=batch")
