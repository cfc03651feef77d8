"""Does the simulation behave like a federation, count its bytes, and leave the process and the disk as they were?"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddkit.errors import ConfigError, UnknownNameError
from ddkit.integrations.federated import (
    FedDistill,
    InProcessGrid,
    load_arrays,
    quiet_environment,
    simulate,
    weights_to_arrays,
)
from ddkit.integrations.federated.flower import (
    ConfigRecord,
    Context,
    FedAvg,
    FedProx,
    Message,
    MetricRecord,
    RecordDict,
    TaskIdentity,
    task_identity,
)
from ddkit.integrations.federated.traffic import content_bytes
from ddkit.integrations.federated.weights import flat
from ddkit.models import ModelSpec
from tests.integrations.federated_small import (
    DATA,
    MODEL,
    TASK,
    app_where,
    averaging,
    client,
    initial,
    load,
    server,
    trainer,
)

ROOT = Path(__file__).parents[2]


def final(strategy: FedAvg, seed: int = 0) -> torch.Tensor:
    outcome = simulate(strategy, trainer().app(), clients=3, rounds=2, initial_arrays=initial())
    module = ModelSpec.parse(MODEL).build(TASK.shape, 3, 1)
    return flat(load_arrays(outcome.result.arrays, module))


def test_flowers_own_strategies_run_and_repeat_exactly() -> None:
    assert torch.equal(final(averaging()), final(averaging()))


def test_fedprox_stays_nearer_to_the_start_than_fedavg() -> None:
    start = flat(ModelSpec.parse(MODEL).build(TASK.shape, 3, 0))
    near, far = final(averaging(FedProx, proximal_mu=5.0)), final(averaging())
    assert 0 < float((near - start).norm()) < float((far - start).norm())


def test_global_random_states_are_left_alone() -> None:
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    simulate(averaging(), trainer().app(), clients=2, initial_arrays=initial())
    simulate(server(), client().app(), clients=2)
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_identity_of_a_surrounding_run_is_put_back() -> None:
    with task_identity(7):
        simulate(server(), client().app(), clients=2)
        assert TaskIdentity.run_id == 7
    with pytest.raises(RuntimeError, match="not set"):
        _ = TaskIdentity.run_id


def test_bytes_are_counted_both_ways_by_round_and_client() -> None:
    strategy = server(rounds="iterative")
    outcome = simulate(strategy, client().app(), clients=3, rounds=2)
    weights = weights_to_arrays(strategy.module).count_bytes()
    for number in (1, 2):
        for node in (1, 2, 3):
            assert weights < outcome.traffic.down[number, node] < weights + 100
    assert outcome.traffic.uploaded() == sum(outcome.traffic.up.values()) > outcome.traffic.uploaded(1) > 0
    assert [row["answers"] for row in outcome.traffic.table()] == [3, 3]
    assert outcome.traffic.uploaded() < outcome.traffic.downloaded()


def test_one_shot_sends_no_weights_down() -> None:
    outcome = simulate(server(), client().app(), clients=3)
    assert outcome.traffic.downloaded() < 3 * 100


def test_an_upload_of_averaging_is_the_model() -> None:
    outcome = simulate(averaging(), trainer().app(), clients=2, initial_arrays=initial())
    assert outcome.traffic.up[1, 1] - initial().count_bytes() in range(100)


def test_clients_share_nothing_with_each_other() -> None:
    def spoiling(message: Message, context: Context, reply: Message) -> Message:
        message.content["config"]["server-round"] = 99  # type: ignore[index]
        return reply

    plain, spoiled = server(), server()
    simulate(plain, client().app(), clients=3)
    simulate(spoiled, app_where({0: spoiling}), clients=3)
    assert torch.equal(flat(plain.module), flat(spoiled.module))


def test_pushed_messages_can_be_pulled() -> None:
    with task_identity(1):
        grid = InProcessGrid(client().app(), 2)
        content = RecordDict({"config": ConfigRecord({"server-round": 1})})
        names = list(grid.push_messages([grid.create_message(content, "train.distil", node, "") for node in (2, 1)]))
        replies = list(grid.pull_messages(names))
    assert [reply.metadata.src_node_id for reply in replies] == [2, 1]
    assert all(content_bytes(reply.content) > 0 for reply in replies)


@pytest.mark.parametrize(
    "bad, error, words",
    [
        ({"clients": 0}, ConfigError, "clients=0"),
        ({"clients": 2, "how": "rai"}, UnknownNameError, "did you mean 'ray'"),
        ({"clients": 0, "how": "ray"}, ConfigError, "clients=0"),
    ],
)
def test_bad_simulations_are_refused(bad: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        simulate(server(), client().app(), **bad)


def test_without_flower_one_line_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['flwr'] = None\n"
        "try:\n    import ddkit.integrations.federated\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'ddkit[federated]'" in done.stdout and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize("given, switch", [(None, "0"), ("1", "1")])
def test_telemetry_is_off_before_flower_is_imported_unless_the_user_wants_it(
    given: str | None, switch: str, tmp_path: Path
) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_", "HF_"))}
    environment["HOME"] = str(tmp_path)
    if given is not None:
        environment["FLWR_TELEMETRY_ENABLED"] = given
    code = (
        "import ddkit.integrations.federated, flwr.supercore.telemetry as t, os\n"
        "print(t.FLWR_TELEMETRY_ENABLED)\n"
        "print(os.environ['RAY_USAGE_STATS_ENABLED'], os.environ['FLWR_DISABLE_UPDATE_CHECK'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == [switch, "0", "1"]
    assert list(tmp_path.iterdir()) == []


def test_flower_is_imported_in_one_file_only() -> None:
    for path in (ROOT / "integrations" / "federated").rglob("*.py"):
        imports = [
            line for line in path.read_text().splitlines() if line.strip().startswith(("from flwr", "import flwr"))
        ]
        assert bool(imports) == (path.name == "flower.py"), path


def test_commands_of_flower_write_into_the_folder_and_install_nothing(tmp_path: Path) -> None:
    environment = quiet_environment(tmp_path)
    assert environment["FLWR_HOME"] == str(tmp_path)
    assert environment["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0" and environment["PATH"] == os.environ["PATH"]


def test_the_metrics_of_a_round_are_kept_by_flower() -> None:
    outcome = simulate(server(), client().app(), clients=3, evaluate=lambda r, a: MetricRecord({"round": r}))
    assert outcome.result.train_metrics_clientapp[1]["clients-accepted"] == 3
    assert [metrics["round"] for metrics in outcome.result.evaluate_metrics_serverapp.values()] == [0, 1]


@pytest.mark.slow
def test_ray_gives_what_one_process_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("HOME", str(tmp_path))
    strategies: list[FedDistill] = []
    for how in ("in-process", "ray"):
        strategies.append(server())
        simulate(strategies[-1], client().app(), clients=3, how=how, cpus=2)  # type: ignore[arg-type]
    assert len(strategies[1].sets) == 3
    assert torch.allclose(flat(strategies[0].module), flat(strategies[1].module), atol=1e-5)
    assert not (tmp_path / ".flwr").exists()


def test_the_data_of_a_client_are_its_own() -> None:
    sizes = [len(load(Context(1, k, {"partition-id": k, "num-partitions": 3}, RecordDict(), {}))) for k in range(3)]
    assert sum(sizes) == len(DATA)
