"""What a distilled set has to beat: real images at equal count and at equal bytes, under the same recipe."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddkit.base.streams import Streams
from ddkit.data.coresets.features import pixel_features
from ddkit.data.coresets.herding import herding_indices
from ddkit.data.coresets.random import random_indices
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError, unknown_name
from ddkit.evaluation.choice import recipe_for_others, recipe_of

#: Bytes of a stored hard label.
LABEL_BYTES = 8


@dataclass(frozen=True)
class _Request:
    """What a kind of baseline is built from: the real training set and the set it stands beside."""

    train: RealData
    distilled: DistilledDataset
    seed: int
    draws: int

    @property
    def decoded_counts(self) -> list[int]:
        """Training images per class of the distilled set, after decoding."""
        labels = self.distilled.hard_labels()
        return torch.bincount(labels, minlength=self.distilled.num_classes).tolist()

    @property
    def counts(self) -> list[int]:
        """Stored images per class, a code of several images counted once; no more than a class has real ones."""
        budget = self.distilled.budget
        return self.at_most([round(count * budget.images / budget.decoded_images) for count in self.decoded_counts])

    def at_most(self, counts: Sequence[int]) -> list[int]:
        """Return ``counts`` or, where a class has fewer real images, all that it has; say so."""
        sizes = self.train.class_counts.tolist()
        short = [label for label, count in enumerate(counts) if sizes[label] < count]
        if short:
            warnings.warn(
                f"class '{self.train.class_names[short[0]]}'{f' and {len(short) - 1} more' if short[1:] else ''} of "
                f"'{self.train.name}' has {sizes[short[0]]} image{'s' * (sizes[short[0]] != 1)}, fewer than the "
                f"{counts[short[0]]} of the distilled set: baselines take all that it has",
                stacklevel=2,
            )
        return [min(count, size) for count, size in zip(counts, sizes, strict=True)]

    @property
    def counts_for_bytes(self) -> list[int]:
        """Real images per class that fit the distilled set's bytes."""
        ipc = images_per_class_for_bytes(self.train, self.distilled.budget.bytes)
        return [ipc] * self.train.num_classes

    def generator(self, kind: str, draw: int) -> torch.Generator:
        """Return the generator of one draw of one kind."""
        return Streams(self.seed)(f"baseline/{kind}/{draw}")

    def real_set(self, kind: str, index: Tensor, labels: Tensor | None = None) -> DistilledDataset:
        """Return real images, stored as bytes, as a set that is evaluated like the distilled one.

        Args:
            kind: name of the baseline.
            index: positions of the images in the training set.
            labels: rows to carry instead of the images' own labels.
        """
        at = index.to(self.train.images.device)
        own = self.train.labels[index.to(self.train.labels.device)].cpu()
        return DistilledDataset(
            images=self.train.images[at],
            labels=own if labels is None else labels,
            label_kind="hard" if labels is None else self.distilled.label_kind,
            class_names=self.distilled.class_names,
            preprocessing=self.distilled.preprocessing,
            metadata={**self.provenance(kind), "indices": index.tolist()},
        )

    def provenance(self, kind: str) -> dict[str, Any]:
        """Return the metadata that say where a baseline comes from."""
        source = {
            "name": self.train.name,
            "split": self.train.split,
            "fingerprint": self.train.fingerprint,
            "count": len(self.train),
        }
        provenance = {"method": kind, "seed": self.seed, "source": source}
        if self.distilled.card.recipe:
            recipe = recipe_for_others(self.distilled, recipe_of(self.distilled))
            provenance["recipe"] = recipe.model_dump(mode="json")
        return provenance

    def random(self, kind: str, draw: int, counts: Sequence[int]) -> Tensor:
        """Draw ``counts[c]`` real images of every class."""
        generator = self.generator(kind, draw)
        drawn = (random_indices([index], len(index), generator) for index in self.train.class_index)
        return torch.cat([chosen[:count] for chosen, count in zip(drawn, counts, strict=True)])

    def herded(self, counts: Sequence[int]) -> Tensor:
        """Choose ``counts[c]`` real images of every class by herding on preprocessed pixels."""
        features = pixel_features(self.train.with_preprocessing(self.distilled.preprocessing))
        index, most = self.train.class_index, max(counts)
        if most <= int(self.train.class_counts.min()):
            rows = herding_indices(features, index, most).view(len(counts), most)
            return torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])
        chosen = []
        for members, count in zip((one.sort().values for one in index), counts, strict=True):
            places = herding_indices(features[members.to(features.device)], [torch.arange(len(members))], max(1, count))
            chosen.append(members.cpu()[places][:count])
        return torch.cat(chosen)


def _random(request: _Request, kind: str = "random", counts: Sequence[int] | None = None) -> list[DistilledDataset]:
    counts = request.counts if counts is None else counts
    return [request.real_set(kind, request.random(kind, draw, counts)) for draw in range(request.draws)]


def _herding(request: _Request, kind: str = "herding", counts: Sequence[int] | None = None) -> list[DistilledDataset]:
    return [request.real_set(kind, request.herded(request.counts if counts is None else counts))]


def _random_soft(request: _Request) -> list[DistilledDataset]:
    if request.distilled.label_kind == "hard":
        raise ConfigError("baseline 'random-soft' needs soft labels and the set has hard ones; use 'random'")
    order = torch.argsort(request.distilled.hard_labels(), stable=True)
    counts = request.at_most(request.decoded_counts)
    rows = request.distilled.labels[order].split(request.decoded_counts)
    labels = torch.cat([row[:count] for row, count in zip(rows, counts, strict=True)])
    return [
        request.real_set("random-soft", request.random("random-soft", draw, counts), labels)
        for draw in range(request.draws)
    ]


def _class_mean(request: _Request) -> list[DistilledDataset]:
    train = request.train.with_preprocessing(request.distilled.preprocessing)
    means = torch.stack([_mean_image(train, index) for index in train.class_index])
    return [
        DistilledDataset(
            images=means,
            labels=torch.arange(train.num_classes),
            label_kind="hard",
            class_names=request.distilled.class_names,
            preprocessing=request.distilled.preprocessing,
            metadata=request.provenance("class-mean"),
        )
    ]


def _mean_image(train: RealData, index: Tensor, batch: int = 1024) -> Tensor:
    total = torch.zeros(train.shape, dtype=torch.float64)
    for part in index.split(batch):
        total += train.batch(part).double().sum(dim=0).cpu()
    return (total / len(index)).float()


_KINDS: dict[str, Callable[[_Request], list[DistilledDataset]]] = {
    "random": _random,
    "herding": _herding,
    "random-soft": _random_soft,
    "class-mean": _class_mean,
    "random-bytes": lambda request: _random(request, "random-bytes", request.counts_for_bytes),
    "herding-bytes": lambda request: _herding(request, "herding-bytes", request.counts_for_bytes),
}


def images_per_class_for_bytes(train: RealData, available: int) -> int:
    """Return how many real images per class fit ``available`` bytes.

    An image costs C * H * W bytes (8 bits per value) and its label ``LABEL_BYTES``; no class gives more
    images than the smallest one has.

    Raises:
        ConfigError: not even one image per class fits.
    """
    channels, height, width = train.shape
    each = channels * height * width + LABEL_BYTES
    fits = available // (each * train.num_classes)
    if fits < 1:
        raise ConfigError(
            f"{available} bytes do not hold one real image of {each} bytes for each of {train.num_classes} "
            "classes; leave the baselines at equal bytes out"
        )
    return min(fits, int(train.class_counts.min()))


def baseline_sets(
    train: RealData,
    distilled: DistilledDataset,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = 1,
) -> dict[str, list[DistilledDataset] | RealData]:
    """Build the controls that stand beside a distilled set; evaluate them with its recipe and seed.

    - ``random``: real images, as many per class as the distilled set has;
    - ``herding``: the same number chosen by herding on preprocessed pixels (one set: the choice is
      deterministic);
    - ``random-soft``: random real images that carry the distilled set's soft labels, class by class, which
      separates what the labels give from what the images give;
    - ``random-bytes`` and ``herding-bytes``: as many random or herded real images, stored as 8-bit pixels, as fit
      the distilled set's bytes;
    - ``class-mean``: the mean image of every class, one per class;
    - ``whole``: the whole real training set.

    Args:
        train: the real training set.
        distilled: the set to compare with; its preprocessing is used for all.
        kinds: which ones; None takes all that apply ("random-soft" needs soft labels).
        seed: of the draws.
        draws: sets per random kind.

    Returns:
        Sets by kind, in the order of ``kinds``; for ``whole`` the training set with the distilled
        preprocessing.

    Raises:
        UnknownNameError: there is no such kind.
        ConfigError: fewer than one draw, or a kind that does not apply.
        DataError: the training set has other classes or image shapes than the distilled one.
    """
    if draws < 1:
        raise ConfigError(f"{draws} draws: at least 1 set must be drawn")
    if train.num_classes != distilled.num_classes or tuple(train.shape) != tuple(distilled.shape):
        raise DataError(
            f"the distilled set has {distilled.num_classes} classes of {tuple(distilled.shape)} images, the "
            f"training set {train.num_classes} of {tuple(train.shape)}; use the data that was distilled"
        )
    if kinds is None:
        kinds = [kind for kind in (*_KINDS, "whole") if kind != "random-soft" or distilled.label_kind != "hard"]
    request = _Request(train, distilled, seed, draws)
    sets: dict[str, list[DistilledDataset] | RealData] = {}
    for kind in kinds:
        if kind == "whole":
            sets[kind] = train.with_preprocessing(distilled.preprocessing)
        elif kind in _KINDS:
            sets[kind] = _KINDS[kind](request)
        else:
            raise unknown_name("baseline", kind, (*_KINDS, "whole"))
    return sets
