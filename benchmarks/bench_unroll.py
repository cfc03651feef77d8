"""What do the meta-gradients cost: peak memory and seconds by the number of student steps.

    python benchmarks/bench_unroll.py --out benchmarks/results/unroll.json --figure docs/images/unroll-memory.png

Each measurement has a process of its own: ConvNet-D3 of width 128 on a batch of 10 images of 3x32x32, eager, float32.
Memory is the peak resident memory above that of the process before the meta-gradient; it is measured apart from time,
in a process whose allocator hands every tensor back when it is freed, so that fragmentation does not count.
``-momentum`` stands for steps with a learned momentum, for which velocities are kept as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METHODS = ("full", "adjoint", "checkpointed", "tesla", "adjoint-momentum", "checkpointed-momentum")
STEPS = (1, 5, 10, 20, 40, 100)
#: Lets glibc map every large allocation on its own (and thereby slower).
MAPPED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
SHAPE, CLASSES, IMAGES = (3, 32, 32), 10, 10


def main() -> None:
    """Run all measurements, or one of them in a child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--steps", type=int)
    arguments = parser.parse_args()
    if arguments.method:
        print(json.dumps(measure(arguments.method, arguments.steps)))
        return
    results: dict[str, Any] = {"command": "python " + " ".join(sys.argv), "model": "convnet, width 128, depth 3"}
    results["steps"] = list(STEPS)
    for method in METHODS:
        rows = [child(method, steps) for steps in STEPS]
        results[method] = {key: [row[key] for row in rows] for key in rows[0]}
        print(method, json.dumps(results[method]))
    results["ratios_to_full"] = {
        method: {
            key: [round(a / b, 3) for a, b in zip(results[method][key], results["full"][key], strict=True)]
            for key in ("peak_mib", "seconds")
        }
        for method in METHODS[1:]
    }
    from ddkit.engine.run import environment

    results.update(environment("cpu"))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.figure:
        arguments.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(results, arguments.figure)


def child(method: str, steps: int) -> dict[str, float]:
    """Measure in two processes of their own: memory and seconds."""
    return {"peak_mib": in_process(method, steps, MAPPED)["peak_mib"], "seconds": in_process(method, steps)["seconds"]}


def in_process(method: str, steps: int, variables: Mapping[str, str] | None = None) -> dict[str, float]:
    """Measure in a process of its own with additional environment variables."""
    command = [sys.executable, __file__, "--method", method, "--steps", str(steps)]
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def resident(key: str) -> float:
    """Return ``VmRSS`` or ``VmHWM`` (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this benchmark reads /proc/self/status and needs Linux")


def measure(method: str, steps: int) -> dict[str, float]:
    """Return the peak memory (MiB) and the CPU seconds of one meta-gradient."""
    import torch

    from ddkit.models import ModelSpec
    from ddkit.networks import Network
    from ddkit.networks.flat import FlatNetwork
    from ddkit.objectives.unrolling import Batch, InnerProblem, distance_to, registry

    name, _, heavy = method.partition("-")
    network = Network(ModelSpec("convnet"), SHAPE, CLASSES)
    flat, generator = FlatNetwork(network), torch.Generator().manual_seed(0)
    start = torch.cat([parameter.detach().flatten() for parameter in network.module.parameters()])
    target = start + 0.01 * torch.randn(start.shape, generator=generator)
    images = torch.randn(IMAGES, *SHAPE, generator=generator).requires_grad_()
    targets, rate = torch.arange(IMAGES) % CLASSES, torch.tensor(0.01, requires_grad=True)
    momentum = torch.tensor(0.5, requires_grad=True) if heavy else None

    def problem(steps: int, count: int) -> InnerProblem:
        batches: list[Batch] = [lambda: (network.prepare(images[:count]), targets[:count])] * steps
        return InnerProblem(flat.loss, start, batches, rate, distance_to(target, start), momentum)

    registry.get(name)().backward(problem(1, 1))  # libraries are loaded on first use
    before, begin = resident("VmRSS"), time.process_time()
    registry.get(name)().backward(problem(steps, IMAGES))
    seconds = time.process_time() - begin
    return {"peak_mib": round(resident("VmHWM") - before, 1), "seconds": round(seconds, 3)}


def draw(results: dict[str, Any], path: Path) -> None:
    """Plot memory and seconds over the number of steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, key, label in zip(axes, ("peak_mib", "seconds"), ("peak memory, MiB", "CPU seconds"), strict=True):
        for method, marker in zip(METHODS, "osD^x+", strict=True):
            axis.plot(results["steps"], results[method][key], marker=marker, label=method)
        axis.set(xlabel="student steps", ylabel=label, ylim=(0, None))
        axis.grid(alpha=0.3)
    axes[0].legend(title="meta_gradient")
    figure.suptitle("One meta-gradient: ConvNet-D3, width 128, 10 images of 3x32x32")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
