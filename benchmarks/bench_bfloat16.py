"""Does bfloat16 harm the result? The same distillation in float32 and in bfloat16, evaluated alike.

    DDKIT_DATA=... python benchmarks/bench_bfloat16.py --out benchmarks/results/bfloat16.json

Distribution matching on MNIST at IPC 1, ConvNet-D3 of width 128, 80 steps, 64 real images per class, three seeds; both
compiled. Every set trains one network per seed in float32 from the same initialisation (paired), 300 nominal epochs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ddkit import Distiller, data
from ddkit.base.files import write_text
from ddkit.engine import environment
from ddkit.evaluation import evaluate, paired_difference, summary
from ddkit.training import recipe

SEEDS = (0, 1, 2)


def main() -> None:
    """Run both formats and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    train, test = data.load_pair("mnist", download=False)
    how = recipe("dsa", "mnist", epochs=300)
    accuracies: dict[str, list[float]] = {}
    for precision in ("float32", "bfloat16"):
        for seed in SEEDS:
            distiller = Distiller(
                "dm", 1, seed=seed, steps=80, objective={"real_batch": 64}, precision=precision, compile=True
            )
            result = evaluate(distiller.fit(train), test, repeats=1, recipe=how, seed=seed)
            accuracies.setdefault(precision, []).append(result.rows[0].mean)
            print(precision, seed, result.rows[0].mean, flush=True)
    difference = paired_difference(accuracies["bfloat16"], accuracies["float32"])
    content = {
        "command": "python " + " ".join(sys.argv),
        "seeds": SEEDS,
        "accuracies": accuracies,
        "mean": {name: summary(values).mean for name, values in accuracies.items()},
        "paired_difference_bfloat16_minus_float32": {
            "mean": difference.differences.mean,
            "interval95": difference.differences.interval95,
        },
        "recipe": how.model_dump(mode="json"),
        **environment("cpu"),
    }
    write_text(arguments.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
