"""Seconds per outer step and peak memory of an objective against a plainly written version of the same step.

    python benchmarks/bench_steps.py --objective distribution --out benchmarks/results/step-distribution.json
    python benchmarks/bench_steps.py --objective gradient --out benchmarks/results/step-gradient.json

10 classes x 256 real images, IPC 10, ConvNet-D3 of width 128, Siamese augmentation, random pixels (the cost of a step
does not depend on them). Every variant runs in a process of its own, so that its peak memory is its own; the variants
take turns, and ratios are taken within a turn. The losses of one step with the same weights, images and augmentation
are compared across all variants.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
VARIANTS = ("plain", "ddkit-float32-eager", "ddkit-float32-compiled", "ddkit-bfloat16-compiled")
STRATEGY = {"mnist": "color_crop_cutout_scale_rotate", "cifar10": "color_crop_cutout_flip_scale_rotate"}
CLASSES, REAL, IPC, PER_CLASS = 10, 256, 10, 1000


def main() -> None:
    """Run the comparison, or one variant of it in a child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objective", choices=("distribution", "gradient"), default="distribution")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--shape", choices=sorted(SHAPES))
    arguments = parser.parse_args()
    if arguments.variant:
        print(json.dumps(measure(arguments.objective, arguments.variant, arguments.shape, arguments.steps)))
        return
    results: dict[str, Any] = {"command": "python " + " ".join(sys.argv), "objective": arguments.objective, "seed": 0}
    for shape in SHAPES:
        turns = [
            {v: child(arguments.objective, v, shape, arguments.steps) for v in VARIANTS} for _ in range(arguments.turns)
        ]
        results[shape] = summarise(turns)
        print(shape, json.dumps(results[shape], indent=1))
    from ddkit.engine.run import environment

    results.update(environment("cpu"))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def child(objective: str, variant: str, shape: str, steps: int) -> dict[str, float]:
    """Measure one variant in a process of its own."""
    command = [sys.executable, __file__, "--objective", objective, "--variant", variant]
    command += ["--shape", shape, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return json.loads(done.stdout.splitlines()[-1])


def summarise(turns: list[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return medians over turns, ratios within turns, and the largest relative difference of the losses."""
    table: dict[str, Any] = {}
    for variant in VARIANTS:
        rows = [turn[variant] for turn in turns]
        ratios = [turn["plain"]["seconds"] / turn[variant]["seconds"] for turn in turns]
        plain_loss = turns[0]["plain"]["loss"]
        table[variant] = {
            "seconds_per_step": round(statistics.median(r["seconds"] for r in rows), 4),
            "speed_up_over_plain": [round(r, 2) for r in ratios],
            "peak_memory_mib": round(statistics.median(r["memory"] for r in rows)),
            "loss": rows[0]["loss"],
            "relative_loss_difference": abs(rows[0]["loss"] - plain_loss) / plain_loss,
            "first_step_seconds": round(statistics.median(r["first"] for r in rows), 1),
        }
    return table


def measure(objective_name: str, variant: str, shape_name: str, steps: int) -> dict[str, float]:
    """Time ``steps`` outer steps of one variant after warming up."""
    import torch

    from ddkit import augment
    from ddkit.base.precision import Precision
    from ddkit.base.streams import Streams
    from ddkit.data import RealData
    from ddkit.models import ModelSpec
    from ddkit.networks import FreshNetworks, Network, RealSignal
    from ddkit.objectives import Context, DistributionMatching, GradientMatching
    from ddkit.synthesis import Pixels

    shape = SHAPES[shape_name]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (CLASSES * PER_CLASS, *shape), generator=generator, dtype=torch.uint8)
    data = RealData.from_tensors(images, torch.arange(CLASSES).repeat_interleave(PER_CLASS), name=shape_name)
    streams, augmentation = Streams(0), augment.create(STRATEGY[shape_name])
    synthesizer = Pixels(CLASSES, IPC, shape)
    synthesizer.initialise(data, "real", streams("initialisation"))
    optimiser = torch.optim.SGD([synthesizer.images], lr=1.0, momentum=0.5)

    if variant == "plain":
        from reference import looped_distribution_loss, looped_gradient_loss

        looped = looped_distribution_loss if objective_name == "distribution" else looped_gradient_loss
        spec = ModelSpec("convnet")
        model = spec.build(shape, CLASSES, 0)
        model.requires_grad_(objective_name == "gradient")

        def backward() -> float:
            spec.reset_(model, streams.integer("networks"))
            draws = augmentation.draw(CLASSES, streams("augmentation"))
            real, labels = data.sample(range(CLASSES), REAL, streams("real"))
            loss = looped(
                model,
                [real[labels == c] for c in range(CLASSES)],
                [synthesizer.images[synthesizer.classes == c] for c in range(CLASSES)],
                augmentation,
                draws,
            )
            loss.backward(inputs=[synthesizer.images])
            return float(loss.detach())

    else:
        _, dtype, mode = variant.split("-")
        precision = Precision(getattr(torch, dtype), mode == "compiled")
        network = Network(ModelSpec("convnet"), shape, CLASSES, precision=precision)
        networks, signal = FreshNetworks(), RealSignal()
        matching = DistributionMatching if objective_name == "distribution" else GradientMatching
        objective = matching(real_batch=REAL)
        signal.setup(data, streams, augmentation, REAL)
        context = Context(CLASSES, signal, network, augmentation, streams, networks=networks)
        networks.setup(context)
        objective.setup(context, synthesizer)

        def backward() -> float:
            return objective.backward(synthesizer)["loss"]

    def step() -> float:
        optimiser.zero_grad()
        loss = backward()
        optimiser.step()
        return loss

    start = time.perf_counter()
    first_loss = step()
    first = time.perf_counter() - start
    step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    seconds = (time.perf_counter() - start) / steps
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "memory": memory, "loss": first_loss, "first": first}


if __name__ == "__main__":
    main()
