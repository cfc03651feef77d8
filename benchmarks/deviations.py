"""What do two small differences from the authors' programs change, judged on held-out training images?

    DDKIT_DATA=DATA python benchmarks/deviations.py --out benchmarks/results/deviations.json

``whitening``: RFAD's program whitens pixels without subtracting their mean, ddkit subtracts it. CIFAR-10, 5,000
training images, one image per class, the kernel's accuracy on 1,000 others. ``grey``: the program of the field pads
every grey image by 3 in the first layer of ConvNet, ddkit only those of 28x28. Digits, 10 random real images per class,
networks of width 32 by the standard protocol, tested on 300 others; a depth that both take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ddkit import Distiller, data, evaluate
from ddkit.data import RealData, whitening
from ddkit.evaluation import evaluate_kernel
from ddkit.training import TrainingRecipe

from cells import RFAD  # isort: skip

SEEDS = (0, 1, 2)


def main() -> None:
    """Measure both and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=60, help="outer steps of RFAD")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"command": "python " + " ".join(sys.argv), "torch": torch.__version__}
    results["grey"] = {name: measured(partial(grey, padding=p)) for name, p in (("ddkit", 1), ("program", 3))}
    train, held = held_out(data.load("cifar10"), 5_000, 1_000)
    results["whitening"] = {
        name: measured(partial(rfad, train=train, held=held, steps=arguments.steps, centred=centred))
        for name, centred in (("centred", True), ("not centred", False))
    }
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")


def measured(run: Callable[[int], float]) -> dict[str, Any]:
    """Return accuracies in % by seed, their mean and spread, and the CPU seconds of all."""
    begun = time.process_time()
    values = []
    for seed in SEEDS:
        values.append(round(100 * run(seed), 2))
        print(values[-1], cpu(begun), flush=True)
    spread = round(statistics.stdev(values), 2)
    return {"accuracies": values, "mean": round(statistics.mean(values), 2), "std": spread, "cpu_s": cpu(begun)}


def cpu(begun: float) -> float:
    """Return the CPU seconds since ``begun``."""
    return round(time.process_time() - begun, 1)


def held_out(real: RealData, count: int, others: int) -> tuple[RealData, RealData]:
    """Return ``count`` training images and ``others`` that are none of them."""
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))
    parts = order[:count], order[count : count + others]
    first, second = (
        RealData.from_tensors(real.images[i], real.labels[i], class_names=real.class_names, name=real.name, split=split)
        for i, split in zip(parts, ("train", "test"), strict=True)
    )
    return first, second


def grey(seed: int, padding: int) -> float:
    """Return the accuracy of random digits under ConvNets whose first layer pads by ``padding``."""
    train, held = held_out(data.load("digits"), 1_000, 300)
    with mock.patch("ddkit.models.convnet.is_grey_28", lambda shape: padding == 3):
        chosen = Distiller("random", 10, seed=seed).fit(train)
        recipe = TrainingRecipe.standard("digits").replace(epochs=300)
        return evaluate(chosen, held, ("convnet:width=32,depth=2",), 1, recipe, seed).rows[0].mean


def rfad(seed: int, train: RealData, held: RealData, steps: int, centred: bool) -> float:
    """Return the kernel's accuracy of a set learned on images whitened with or without their mean."""
    fit = whitening.covariance

    def uncentred(images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second moment about the channels' means, and these means, so that nothing more is subtracted."""
        mean, covariance = fit(images)
        pixels = images[0, 0].numel()
        about = (whitening.channel_statistics(images)[0] * 255).repeat_interleave(pixels).to(mean)
        return about, covariance + torch.outer(mean - about, mean - about)

    options: dict[str, Any] = RFAD
    with mock.patch("ddkit.data.whitening.covariance", fit if centred else uncentred):
        distilled = Distiller("rfad", 1, seed=seed, steps=steps, **options).fit(train)
    return evaluate_kernel(distilled, held, repeats=1, seed=seed).rows[0].mean


if __name__ == "__main__":
    main()
