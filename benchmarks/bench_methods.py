"""Seconds per outer step and peak memory of every method that distils, at its published batch sizes.

    OMP_NUM_THREADS=1 python benchmarks/bench_methods.py --out benchmarks/results/methods-cpu.json [--only idc ...]

10 classes of 1,000 random images (the cost of a step does not depend on them), IPC 10, ConvNet-D3 of width 128, the
preset's own pieces and batch sizes, precision and compilation as ``auto`` decides for the preset's full schedule. Every
method runs in a process of its own with one thread, so that its peak memory is its own; seconds are those of its CPU,
which other work on the machine hardly changes. The first step (compilation) and what comes before it (a generator or
experts to train, a warm start) are timed apart; starting points are shortened to a tenth and scaled up, one of a
hundred experts is trained and its time multiplied.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
METHODS = (
    "dc",
    "dsa",
    "dcc",
    "dsac",
    "idc-i",
    "idc",
    "dm",
    "cafe",
    "cafe-dsa",
    "itgan",
    "kfs",
    "mtt",
    "tesla",
    "ftd",
    "haba",
)
CLASSES, PER_CLASS, IPC = 10, 1000, 10
#: Options of a synthesis that are steps of its starting point.
STARTING_STEPS = ("generator_steps", "inversion_steps", "warm_steps")


def main() -> None:
    """Measure every method, or one of them in a child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--shapes", nargs="*", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--method")
    parser.add_argument("--shape", choices=sorted(SHAPES))
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments.method, arguments.shape, arguments.steps)))
        return
    results: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    for shape in arguments.shapes:
        for method in arguments.only or METHODS:
            name = f"{method}-{shape}"
            if name in results:
                continue
            results[name] = child(method, shape, arguments.steps)
            print(name, json.dumps(results[name]), flush=True)
            from ddkit.engine import environment

            results.update(command="python " + " ".join(sys.argv), seed=0, ipc=IPC, **environment("cpu"))
            arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def child(method: str, shape: str, steps: int) -> dict[str, Any]:
    """Measure one method in a process of its own."""
    command = [sys.executable, __file__, "--method", method, "--shape", shape, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(method: str, shape: str, steps: int) -> dict[str, Any]:
    """Return seconds per step (median of all but the first), the first step, the starting point, memory and pieces."""
    import torch

    from ddkit import methods
    from ddkit.base.progress import silent
    from ddkit.data import RealData
    from ddkit.engine import peak_memory_bytes
    from ddkit.engine.session import Session

    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CLASSES * PER_CLASS, *SHAPES[shape]), dtype=torch.uint8, generator=generator)
    real = RealData.from_tensors(images, torch.arange(len(images)) % CLASSES, name=shape)
    config = methods.get(method).configure(real, IPC)
    fixed = starting_steps(config.synthesis.name, config.synthesis.options)
    shortened = {key: max(1, value // 10) for key, value in fixed.items()}
    overrides: dict[str, Any] = {"synthesis": shortened} if shortened else {}
    if config.objective is not None and "warmup_networks" in config.objective.options:
        overrides["objective"] = {"warmup_networks": 0, "warmup_steps": 0}  # its steps are those of another method
    experts = config.networks.options.get("count", 0) if config.networks.name == "experts" else 0
    epochs = 1.0
    if experts and config.objective is not None:  # one of them, for the epochs of one segment
        options = config.objective.options
        epochs = (options["max_start_epoch"] - 1 + options["expert_epochs"]) / options["expert_epochs"]
        overrides |= {"networks": {"count": 1}, "objective": {"max_start_epoch": 1}}
    config = methods.get(method).configure(real, IPC, overrides=overrides)
    session = Session(config, real)
    before = time.process_time()
    session.prepare(silent)
    preparing = time.process_time() - before
    before = time.process_time()
    session.start()
    starting = time.process_time() - before
    seconds = []
    for number in range(1, steps + 1):
        before = time.process_time()
        session.step(number)
        seconds.append(time.process_time() - before)
    return {
        "seconds_per_step": round(statistics.median(seconds[1:]), 4),
        "slowest_later_step": round(max(seconds[1:]), 4),
        "first_step_seconds": round(seconds[0], 1),
        "experts_seconds": round(preparing * epochs * max(1, experts), 1),
        "starting_point_seconds": round(starting * (10 if shortened else 1), 1),
        "peak_memory_mib": peak_memory_bytes("cpu") // 2**20,
        "decoded_images_per_class": session.synthesizer.decoded_per_class,
        "steps_of_the_full_schedule": config.steps,
        "threads": torch.get_num_threads(),
        "config": config.as_dict(),
    }


def starting_steps(name: str, options: dict[str, Any]) -> dict[str, int]:
    """Return the options of a synthesis that say how long its starting point takes, with their values."""
    import inspect

    from ddkit.synthesis import registry

    taken = inspect.signature(registry.get(name)).parameters
    return {key: options.get(key, taken[key].default) for key in STARTING_STEPS if key in taken}


if __name__ == "__main__":
    main()
