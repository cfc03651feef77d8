"""Five tasks whose class numbers restart at 0, one head each: what does a memory of a few images save?

    python benchmarks/multi_head.py --out runs/multi-head
    python benchmarks/recipe_tables.py keep continual-multi-head runs/multi-head --command "..."

Digits in five tasks of two classes, both numbered 0 and 1 in every task, learned one after the other by a network with
a head for each task; the accuracy is the mean over the tasks' tests after the last one. All memories hold as many
images and fill their part of the mini-batch by repetition. ``--add`` takes over rows of another run, such as one of an
older version, whose ``--label`` tells them apart.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddkit.base.files import write_text
from ddkit.base.streams import derive_seed
from ddkit.data import RealData, load_pair
from ddkit.evaluation.statistics import summary
from ddkit.integrations.continual import (
    ClassMemory,
    CoresetReplayBuffer,
    DistilledReplayBuffer,
    distilled_replay,
    replay,
)
from ddkit.integrations.continual.host import ClassBalancedBuffer, EvaluationPlugin, Naive, ReservoirSamplingBuffer
from ddkit.recipes.continual import Tensors, class_order

TASKS, CLASSES, BATCH = 5, 10, 16


def memory(policy: str, size: int, seed: int, train: RealData) -> Any:
    """Return a storage policy; None for none."""
    common: dict[str, Any] = {"num_classes": CLASSES, "seed": seed, "pixels": train.preprocessing, "name": "digits"}
    if policy == "distilled":
        distil: dict[str, Any] = {
            "steps": 100,
            "objective": {"real_batch": 64},
            "model": "convnet:width=16",
        }
        return DistilledReplayBuffer(size, method="dm", **distil, **common)
    if policy in ("random", "herding"):
        return CoresetReplayBuffer(size, selection=policy, **common)  # type: ignore[arg-type]
    avalanche = {"reservoir": ReservoirSamplingBuffer, "class-balanced": ClassBalancedBuffer}
    return avalanche[policy](size) if policy in avalanche else None


def final_accuracy(
    policy: str, size: int, seed: int, train: RealData, test: RealData, settings: dict[str, Any]
) -> float:
    """Learn the stream with one memory; return the mean accuracy over the tasks."""
    from avalanche.benchmarks import nc_benchmark
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.models import MTSimpleMLP

    torch.random.default_generator.manual_seed(derive_seed(seed, "stream", policy))
    benchmark = nc_benchmark(
        Tensors(train), Tensors(test), n_experiences=TASKS, task_labels=True, class_ids_from_zero_in_each_exp=True,
        fixed_class_order=class_order(seed, CLASSES),
    )  # fmt: skip
    buffer = memory(policy, size, seed, train)
    make = distilled_replay if isinstance(buffer, ClassMemory) else replay
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, "network"))
        model = MTSimpleMLP(input_size=64, hidden_size=settings["hidden"])
    evaluator = EvaluationPlugin(accuracy_metrics(experience=True), loggers=[])
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=settings["lr"], momentum=0.9),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=settings["epochs"],
        eval_mb_size=512,
        plugins=[] if buffer is None else make(buffer, BATCH),
        evaluator=evaluator,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
    values = strategy.eval(benchmark.test_stream)
    tasks = [value for name, value in values.items() if name.startswith("Top1_Acc_Exp")]
    assert len(tasks) == TASKS
    return sum(tasks) / TASKS


def main() -> None:
    """Run every policy and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of table.json")
    parser.add_argument("--images", type=int, default=50, help="in the memory")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--hidden", type=int, default=64)
    policies = ["none", "reservoir", "class-balanced", "random", "herding", "distilled"]
    parser.add_argument("--policies", nargs="+", default=policies, choices=policies)
    parser.add_argument("--label", default="", help="of the rows of this run, behind the name of the policy")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="table.json of other runs")
    options = parser.parse_args()
    train, test = load_pair("digits")
    test = test.with_preprocessing(train.preprocessing)
    settings = {"epochs": options.epochs, "lr": options.lr, "hidden": options.hidden}
    started, rows = time.monotonic(), []
    for policy in options.policies:
        begun, values = time.process_time(), []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="avalanche")
            for seed in range(options.seeds):
                values.append(100 * final_accuracy(policy, options.images, seed, train, test, settings))
        result, seconds = summary(values), (time.process_time() - begun) / options.seeds
        rows.append({
            "policy": f"{policy}{options.label and f' ({options.label})'}",
            "memory": None if policy == "none" else options.images,
            "final %": f"{result.mean:.1f} ± {result.std:.1f}",
            "seeds": [round(value, 2) for value in values],
            "CPU s": round(seconds, 1),
        })  # fmt: skip
        print(rows[-1], flush=True)
    for path in options.add:
        rows += json.loads(path.read_text(encoding="utf-8"))["table"]
    content = {"table": rows, "settings": settings, "seconds": round(time.monotonic() - started, 1)}
    options.out.mkdir(parents=True, exist_ok=True)
    write_text(options.out / "table.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
