"""What does an outer step of kernel regression cost: seconds and peak memory by kernel.

    python benchmarks/bench_kernels.py --out benchmarks/results/kernels.json

Each measurement has a process of its own: objective ``kernel`` with 10 synthetic images, one untimed step, then the
median of ``--repeats``; sizes in ``CASES``. Memory is the peak above that of the process before the first step. The
last part compares the band of pixel covariances, which suffices for a flattened head, with all of them, which global
average pooling needs: three blocks of convolution and pooling on 2 x 4 images, forward and backward.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Network source, model, side of the images, real targets per step.
CASES: dict[str, tuple[dict[str, Any], str, int, int]] = {
    "fc1": ({"name": "infinite", "architecture": "fc1"}, "convnet", 28, 5000),
    "fc3": ({"name": "infinite", "architecture": "fc3"}, "convnet", 28, 5000),
    "conv2": ({"name": "infinite", "architecture": "conv2"}, "convnet", 28, 500),
    "convnet3": ({"name": "infinite", "architecture": "convnet3"}, "convnet", 16, 50),
    "random-features": (
        {"name": "random-features", "bodies": 8},
        "convnet:width=64,depth=3,norm=none,init=ntk",
        28,
        500,
    ),
}
#: Which pixel covariances are followed: those up to an offset, or all.
LAYOUTS = ("band", "all-pairs")


def main() -> None:
    """Run all measurements, or one of them in a child process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=28, help="of the images on which layouts are compared")
    parser.add_argument("--one", choices=[*CASES, *LAYOUTS])
    arguments = parser.parse_args()
    if arguments.one:
        if arguments.one in CASES:
            step = outer_step(arguments.one, arguments.device)
        else:
            step = layout(arguments.one, arguments.side, arguments.device)
        print(json.dumps(measure(step, arguments.repeats, arguments.device)))
        return
    results: dict[str, Any] = {"command": "python " + " ".join(sys.argv)}
    for name in (*CASES, *LAYOUTS):
        results[name] = child(name, arguments)
        print(name, json.dumps(results[name]), flush=True)
    band, full = (results[name] for name in LAYOUTS)
    results["all_pairs_to_band"] = {key: round(full[key] / band[key], 2) for key in band if band[key]}
    from ddkit.engine.run import environment

    results.update(environment(arguments.device))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def child(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Measure in a process of its own."""
    options = ["--repeats", arguments.repeats, "--device", arguments.device, "--side", arguments.side]
    command = [sys.executable, __file__, "--one", name, *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def outer_step(name: str, device: str) -> Callable[[], Any]:
    """Return one backward pass of the objective under a kernel."""
    import torch

    from ddkit.base.config import DistillConfig
    from ddkit.data import RealData
    from ddkit.engine.session import Session

    networks, model, side, targets = CASES[name]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10 * max(20, targets // 10), 1, side, side), generator=generator).byte()
    data = RealData.from_tensors(pixels, torch.arange(len(pixels)) % 10)
    objective = {"name": "kernel", "real_images": targets}
    values = {"ipc": 1, "steps": 1, "objective": objective, "networks": networks, "model": model}
    session = Session(DistillConfig.create({**values, "device": device, "compile": False}), data)
    session.start()

    def step() -> None:
        session.synthesizer.zero_grad()
        session.objective.backward(session.synthesizer)

    return step


def layout(name: str, side: int, device: str) -> Callable[[], Any]:
    """Return forward and backward of three blocks of convolution and pooling on 4 x 8 images in one layout."""
    import torch

    from ddkit.models.kernels import infinite_kernel

    generator = torch.Generator().manual_seed(0)
    support, targets = (torch.randn(count, 1, side, side, generator=generator).to(device) for count in (2, 4))
    # The recursion is the same; only the head, and with it what has to be followed, differs.
    kernel = infinite_kernel("cpcpcpf" if name == "band" else "cpcpcpg", (1, side, side))

    def step() -> None:
        leaf = support.clone().requires_grad_()
        kernel.cross(targets, kernel.represent(leaf)).sum().backward()

    return step


def measure(step: Callable[[], Any], repeats: int, device: str) -> dict[str, float]:
    """Return the median seconds of a step and the peak memory (MiB) above the start."""
    import torch

    cuda = device.startswith("cuda")
    before = 0.0 if cuda else resident("VmRSS")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter() if cuda else time.process_time()
        step()
        if cuda:
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() if cuda else time.process_time()) - start)
    peak = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident("VmHWM") - before
    return {"seconds": round(statistics.median(seconds), 4), "peak_mib": round(peak, 1)}


def resident(key: str) -> float:
    """Return ``VmRSS`` or ``VmHWM`` (peak) of this process in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this benchmark reads /proc/self/status and needs Linux")


if __name__ == "__main__":
    main()
