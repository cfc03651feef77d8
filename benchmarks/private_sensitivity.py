"""By how much does one record more move a private query, for networks that are refused and for those that are not?

    python benchmarks/private_sensitivity.py --out benchmarks/results/private-sensitivity.json

Every figure is the largest L2 change of the clipped sums of one query, in units of the bound that is claimed (1), over
four sets of records, one record more in front of or behind them, and two initialisations: a search over few cases, so a
lower bound of the sensitivity. Noise is left out and the trial of networks is switched off to measure those that it
refuses; whether it refuses them is the other column. ``dp-dm`` and ``dp-dm-iterated`` ask for features, ``psg`` for
gradients; digits of 8x8 pixels.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddkit import data, models
from ddkit.base.files import write_text
from ddkit.base.streams import Streams
from ddkit.data import RealData
from ddkit.engine import environment
from ddkit.errors import ConfigError
from ddkit.integrations.private import PrivacyBudget, PrivateData, Queries
from ddkit.integrations.private import data as walls
from ddkit.integrations.private.gradients import RecordGradients
from ddkit.integrations.private.mutants import Silence
from ddkit.integrations.private.public_norm import public_centre
from ddkit.models import ModelSpec
from ddkit.networks import Network

SEEDS = (0, 1)
ACCEPTED = ("convnet:width=16", "convnet:width=16,norm=none", "mlp:width=64", "lone")
REFUSED = ("standardises", "attends", "centres", "divides", "leans")
#: What ddkit did before: Opacus's gradients of activations in channels-last.
OLD_LAYOUT = "convnet:width=16, channels-last"


class Mixer(nn.Module):
    """One layer, and a function of the whole batch."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int, kind: str = "lone") -> None:
        super().__init__()
        self.kind, self.body = kind, nn.Linear(shape[0] * shape[1] * shape[2], 64)
        self.classifier = nn.Linear(64, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return (N, 64)."""
        rows = self.body(images.flatten(1)).relu()
        if self.kind == "standardises":
            return (rows - rows.mean(0)) / (rows.std(0, unbiased=False) + 1e-3)
        if self.kind == "attends":
            return torch.softmax(rows @ rows.T, dim=1) @ rows
        if self.kind == "centres":
            return rows - rows.mean(0)
        if self.kind == "divides":
            return rows / (rows.amax() + 1e-3)
        if self.kind == "leans":
            return rows + 0.01 * rows.mean(0)
        return rows

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, K)."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def sets() -> Iterator[tuple[RealData, RealData]]:
    """Yield sets and the same with one record more."""
    digits = data.load("digits", split="train")
    images, labels = digits.images[:64], digits.labels[:64]
    grey, blank = torch.full_like(images, 128), torch.zeros_like(images)
    one = images[:1].expand_as(images)
    board = 255 * (torch.arange(64).reshape(1, 1, 8, 8) % 9 % 2).to(torch.uint8)
    for pool in (images, grey, blank, one):
        for more in (board, 255 - blank[:1], blank[:1], digits.images[70:71]):
            for joined in (torch.cat([pool, more]), torch.cat([more, pool])):
                added = torch.zeros(1, dtype=torch.int64)
                theirs = torch.cat([labels, added] if joined[-1].equal(more[0]) else [added, labels])
                yield (
                    RealData.from_tensors(pool, labels, num_classes=10, allow_missing=True),
                    RealData.from_tensors(joined, theirs, num_classes=10, allow_missing=True),
                )


def rows_of(model: str, query: str, seed: int) -> Any:
    """Return the row function of a query, with bound 1."""
    network = Network(ModelSpec.parse(model.removesuffix(", channels-last")), (1, 8, 8), 10)
    network.reset(seed)
    if query == "features":
        centre = public_centre(network, Streams(0))

        def features(images: Tensor, labels: Tensor) -> Tensor:
            with torch.no_grad():
                return centre.scaled(network.features(images))

        return features
    gradients = RecordGradients(network.module, [name for name, _ in network.module.named_parameters()])
    if model == OLD_LAYOUT:
        gradients._wrapped._module.to(memory_format=torch.channels_last)

        def old(images: Tensor, labels: Tensor) -> Tensor:
            return gradients(network, images, labels)

        return old
    return lambda images, labels: gradients(network, images, labels)


def answer(rows: Any, real: RealData, query: str) -> Tensor:
    """Return the sums of one query without noise."""
    plan = PrivacyBudget(1e9, 1e-5, "rdp").plan(Queries(1.0, 1.0, 1))
    wall = PrivateData(real, plan, noise=Silence())
    if query == "features":
        return wall.noisy_class_sums(rows, clip=1.0, sigma=1.0)[0]
    return wall.noisy_sum(rows, clip=1.0, sigma=1.0, chunk=64)


def measure(model: str, query: str) -> dict[str, Any]:
    """Return the largest change, and whether the network is refused."""
    refused = False
    trial, moved = walls.require_separate, 0.0
    for seed in SEEDS:
        rows = rows_of(model, query, seed)
        try:
            answer(rows, next(sets())[0], query)
        except ConfigError:
            refused = True
        walls.require_separate = lambda *_: None
        try:
            for few, more in sets():
                moved = max(moved, float((answer(rows, few, query) - answer(rows, more, query)).norm()))
        finally:
            walls.require_separate = trial
    return {"network": model, "query": query, "refused": refused, "sensitivity": round(moved, 4), "claimed": 1.0}


def main() -> None:
    """Measure every network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    models.register("mixer", Mixer)
    table = []
    names = [name if ":" in name else f"mixer:kind={name}" for name in (*ACCEPTED, *REFUSED)]
    for query, extra in (("features", ()), ("gradients", (OLD_LAYOUT,))):
        for name in (*names, *extra):
            table.append(measure(name, query))
            print(table[-1], flush=True)
    content = {"command": "python " + " ".join(sys.argv), "seeds": SEEDS, "table": table, **environment("cpu")}
    write_text(arguments.out, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
