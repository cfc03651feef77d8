"""What does one liar of eight clients do to a federation on distilled sets, before and after its share is bounded?

    DDKIT_DATA=... python benchmarks/federated_liars.py --out benchmarks/results/federated-liars.json [--data mnist]

Eight clients of a Dirichlet partition distil one image per class by ``dm``; the server trains a ConvNet on the union
by the recipe of ``ddkit recipe run federated`` and is measured on test images, on which nothing was chosen. The liar is
client 1; it calls every class the next one. ``claims 10^6`` is the same liar that says it has a million images of each
of its classes. ``median only`` weighs images as ddkit did before: by claimed counts, cut at ten times the median image.

``flagged`` counts suspects: each client lies in turn (``liars``), while the others do not (``honest beside a liar``),
or nobody lies. Liars call every class the next one (``flipped``), exchange two classes (``exchanged``), or send random
pixels under their own labels (``noise``).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddkit.base.files import write_text
from ddkit.base.streams import Streams, derive_seed
from ddkit.data import RealData, load_pair
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.parts import relabelled
from ddkit.engine import environment
from ddkit.integrations.federated import ClientSet, Task, dirichlet_partition
from ddkit.integrations.federated.shard import distil_shard
from ddkit.integrations.federated.suspects import find_suspects
from ddkit.integrations.federated.training import train, training_data
from ddkit.integrations.federated.union import MOST_IMPORTANCE, joined
from ddkit.models import ModelSpec
from ddkit.training import accuracy, recipe

CLIENTS, LIAR, CLAIM, IPC = 8, 1, 10**6, 1
MODELS = {"digits": "convnet:width=32,depth=2", "mnist": "convnet:width=32"}
STEPS = {"digits": 20, "mnist": 50}
#: Most images that are divided among the clients, and that accuracies are measured on.
MOST = (5000, 2000)


def main() -> None:
    """Measure one data set and keep it beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", choices=MODELS, default="digits")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.1, 0.5])
    parser.add_argument("--seeds", type=int, default=2, help="partitions that networks are trained on")
    parser.add_argument("--partitions", type=int, default=6, help="partitions in which suspects are counted")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
    real, test = (_part(images, most) for images, most in zip(load_pair(arguments.data), MOST, strict=True))
    for alpha in arguments.alphas:
        row = measure(arguments.data, real, test, alpha, arguments.seeds, arguments.partitions)
        row["command"] = "python " + " ".join(sys.argv)
        results[f"{arguments.data}, alpha {alpha:g}"] = {**row, **environment("cpu")}
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")


def measure(name: str, real: RealData, test: RealData, alpha: float, seeds: int, partitions: int) -> dict[str, Any]:
    """Return accuracies and shares over ``seeds`` partitions, and flags over ``partitions``."""
    accuracies: dict[str, list[float]] = {}
    shares: list[float] = []
    flags: Counter[str] = Counter()
    for seed in range(partitions):
        sets = distilled(name, real, alpha, seed)
        flags.update(flagged(sets))
        if seed >= seeds:
            continue
        for way, (sent, bound) in ways(sets).items():
            percent = 100 * trained(name, sent, bound, test, seed)
            accuracies.setdefault(way, []).append(round(percent, 2))
            print(f"{name} alpha {alpha:g} partition {seed}, {way}: {percent:.1f} %", flush=True)
        shares.append(round(joined(lying(sets, LIAR, flipped, CLAIM), "counts").shares[LIAR], 4))
    return {
        "accuracies_percent": accuracies,
        "mean": {way: round(statistics.mean(values), 1) for way, values in accuracies.items()},
        "share_of_the_liar": shares,
        "partitions": partitions,
        "flagged": dict(sorted(flags.items())),
    }


def distilled(name: str, real: RealData, alpha: float, seed: int) -> list[ClientSet]:
    """Return the sets of all clients of one partition."""
    task, sets = Task.of(real), []
    options = {"steps": STEPS[name], "model": MODELS[name], "objective": {"real_batch": 32}}
    for number, index in enumerate(dirichlet_partition(real, CLIENTS, alpha, derive_seed(seed, "partition"))):
        shard = task.require(real.subset(index))
        own = distil_shard(shard, "dm", IPC, derive_seed(seed, "client", number), options=options)
        sets.append(ClientSet(own, tuple(shard.class_counts.tolist())))
    return sets


def ways(sets: Sequence[ClientSet]) -> dict[str, tuple[list[ClientSet], bool]]:
    """Return what is trained on, and whether shares are bounded."""
    quiet, loud = lying(sets, LIAR, flipped), lying(sets, LIAR, flipped, CLAIM)
    suspects = find_suspects(loud)
    return {
        "honest, median only": (list(sets), False),
        "honest": (list(sets), True),
        "liar": (quiet, True),
        "liar claims 10^6, median only": (loud, False),
        "liar claims 10^6": (loud, True),
        "liar claims 10^6, suspects left out": ([one for k, one in enumerate(loud) if k not in suspects], True),
    }


def trained(name: str, sets: Sequence[ClientSet], bound: bool, test: RealData, seed: int) -> float:
    """Return the test accuracy of a network trained on the union."""
    whole = joined(sets, "counts")
    importance = whole.importance if bound else by_median(sets)
    module = ModelSpec.parse(MODELS[name]).build(test.shape, test.num_classes, derive_seed(seed, "weights"))
    streams = Streams(derive_seed(seed, "server"))
    train(module, training_data(whole.images), recipe("dsa", name, epochs=100), streams, weights=importance)
    return float(accuracy(module, test))


def by_median(sets: Sequence[ClientSet]) -> Tensor:
    """Return importances (N,) by claimed counts, cut at ``MOST_IMPORTANCE`` times their median alone."""
    parts = []
    for one in sets:
        labels, counts = one.distilled.hard_labels(), torch.tensor(one.counts, dtype=torch.float64)
        parts.append(counts[labels] / torch.bincount(labels, minlength=len(counts))[labels])
    importance = torch.cat(parts)
    importance = importance.clamp(max=MOST_IMPORTANCE * float(importance.median()))
    return (importance / importance.mean()).float()


def flipped(one: ClientSet, seed: int) -> DistilledDataset:
    """Call every class the next one."""
    names = one.distilled.class_names
    return relabelled(one.distilled, [(number + 1) % len(names) for number in range(len(names))], names)


def exchanged(one: ClientSet, seed: int) -> DistilledDataset:
    """Exchange the first two classes that are sent; of a single one, call it the next."""
    names, sent = one.distilled.class_names, one.distilled.hard_labels().unique().tolist()
    if len(sent) < 2:
        return flipped(one, seed)
    new = list(range(len(names)))
    new[sent[0]], new[sent[1]] = sent[1], sent[0]
    return relabelled(one.distilled, new, names)


def noise(one: ClientSet, seed: int) -> DistilledDataset:
    """Send random pixels."""
    own = one.distilled
    images = torch.rand(own.unclipped().shape, generator=torch.Generator().manual_seed(seed))
    return DistilledDataset(
        own.preprocessing.apply(images), own.labels, class_names=own.class_names, preprocessing=own.preprocessing
    )


def lying(sets: Sequence[ClientSet], liar: int, how: Any, claim: int | None = None) -> list[ClientSet]:
    """Return all sets with that of one client changed; ``claim`` images are said of each class that it sends."""
    sent = list(sets)
    changed = how(sets[liar], liar)
    in_class = torch.bincount(changed.hard_labels(), minlength=changed.num_classes)
    counts = (in_class > 0).long() * (CLAIM if claim else 1)
    if claim is None:
        counts = counts * (sum(sets[liar].counts) // int(counts.sum()))
    sent[liar] = ClientSet(changed, tuple(counts.tolist()))
    return sent


def flagged(sets: Sequence[ClientSet]) -> Counter[str]:
    """Count suspects: with nobody lying, and with each client lying in each way."""
    found = Counter({"honest where nobody lies": len(find_suspects(sets)), "clients": len(sets)})
    for how in (flipped, exchanged, noise):
        for liar in range(len(sets)):
            suspects = set(find_suspects(lying(sets, liar, how)))
            found[f"liars, {how.__name__}"] += liar in suspects
            found[f"honest beside a liar, {how.__name__}"] += len(suspects - {liar})
    return found


def _part(real: RealData, most: int) -> RealData:
    """Return at most so many images, drawn once."""
    order = torch.randperm(len(real), generator=Streams(0)("part"))[:most]
    return real if len(real) <= most else real.subset(order.sort().values)


if __name__ == "__main__":
    main()
