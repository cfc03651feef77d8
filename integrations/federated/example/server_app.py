"""Which app does the server run?"""

from __future__ import annotations

import json
from pathlib import Path

from ddkit.integrations.federated.flower import ArrayRecord, Context, Grid, MetricRecord, ServerApp
from ddkit.integrations.federated.strategy import FedDistill
from ddkit.integrations.federated.traffic import CountingGrid
from ddkit.integrations.federated.weights import load_arrays
from ddkit.training.accuracy import accuracy
from ddkit.training.recipe import TrainingRecipe

from .shared import pair, task

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train on what the clients distilled; write accuracy, bytes and reports into the folder ``out``.

    A relative one lies below the folder that the SuperLink was started in.
    """
    settings = context.run_config
    rounds, folder = int(settings["rounds"]), Path(str(settings["out"]))
    strategy = FedDistill(
        task(context),
        model=str(settings["model"]),
        recipe=TrainingRecipe(name="server", epochs=int(settings["epochs"])),
        rounds="one-shot" if rounds == 1 else "iterative",
        min_clients=int(settings["min-clients"]),
    )
    test = pair(str(settings["data"]))[1]

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        return MetricRecord({"accuracy": accuracy(load_arrays(arrays, strategy.module), test)})

    counting = CountingGrid(grid)
    result = strategy.start(counting, num_rounds=rounds, timeout=600, evaluate_fn=evaluate)
    outcome = {
        "accuracy": {number: metrics["accuracy"] for number, metrics in result.evaluate_metrics_serverapp.items()},
        "traffic": counting.traffic.table(),
        "clients": [dict(report.metrics()) for report in strategy.reports],
        "shares": [report.shares for report in strategy.reports],
        "suspects": [report.suspects for report in strategy.reports],
        "missing": [report.reasons() for report in strategy.reports],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "outcome.json").write_text(json.dumps(outcome, indent=2), encoding="utf-8")
