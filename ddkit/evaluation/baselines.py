"""What a distilled set has to beat: real images at equal count and at equal bytes, under the same recipe."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ddkit.base.streams import Streams
from ddkit.data.coresets.by_pixels import herded
from ddkit.data.coresets.random import random_indices
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError, unknown_name
from ddkit.evaluation.choice import own_model, recipe_for_others, recipe_of
from ddkit.evaluation.coded_reals import CodecForm, Form, all_forms, form_of, most_that_fit, sha256
from ddkit.evaluation.form_search import Order, TooFewBytesError, best_form, fit_in, random_order
from ddkit.synthesis.pixels import kmeans_start

#: What ``bytes`` stands for: real images in as many bytes as the distilled set takes.
AT_EQUAL_BYTES = ("random-bytes", "random-coded", "herding-coded", "random-best")
#: Codec of real images beside a set that is not coded.
PLAIN_CODEC = "uniform:bits=8"


@dataclass(frozen=True)
class _Request:
    """What a kind of baseline is built from: the real training set and the set it stands beside."""

    train: RealData
    distilled: DistilledDataset
    seed: int
    draws: int
    search: Mapping[str, Any] = field(default_factory=dict)

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
    def whitening(self) -> int:
        """Bytes of the whitening, which real images carry as well."""
        return self.distilled.preprocessing.nbytes

    @property
    def available(self) -> int:
        """Bytes that the distilled set leaves for real images."""
        assert self.distilled.budget.payload is not None
        return self.distilled.budget.payload - self.whitening

    def report(self, line: str) -> None:
        """Tell the caller a line of text."""
        self.search.get("report", lambda _: None)(line)

    @functools.cached_property
    def real(self) -> RealData:
        """The training set with the preprocessing of the distilled one."""
        return self.train.with_preprocessing(self.distilled.preprocessing)

    def generator(self, kind: str, draw: int) -> torch.Generator:
        """Return the generator of one draw of one kind."""
        return Streams(self.seed)(f"baseline/{kind}/{draw}")

    def real_set(
        self,
        kind: str,
        index: Tensor,
        labels: Tensor | None = None,
        images: Tensor | None = None,
        **metadata: Any,
    ) -> DistilledDataset:
        """Return real images, stored as bytes, as a set that is evaluated like the distilled one.

        Args:
            kind: name of the baseline.
            index: positions of the images in the training set.
            labels: rows to carry instead of the images' own labels.
            images: what became of them in a form of fewer bytes.
            metadata: what else to record.
        """
        at = index.to(self.train.images.device)
        own = self.train.labels[index.to(self.train.labels.device)].cpu()
        return DistilledDataset(
            images=self.train.images[at] if images is None else images,
            labels=own if labels is None else labels,
            label_kind="hard" if labels is None else self.distilled.label_kind,
            class_names=self.distilled.class_names,
            preprocessing=self.distilled.preprocessing,
            metadata={**self.provenance(kind), **metadata, "indices": index.tolist()},
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

    def kept_set(self, kind: str, form: Form, order: Order, **metadata: Any) -> DistilledDataset:
        """Return as many real images in a form as fit, decoded.

        Raises:
            TooFewBytesError: not even one of each class fits.
        """
        count, keep = fit_in(form, self.real, order, self.available)
        if not count:
            raise TooFewBytesError(self.train, self.available, f"{form.name} takes {keep(1).nbytes:,}")
        index, kept = order(count), keep(count)
        metadata |= {"form": form.name, "images_per_class": count}
        plain = self.real_set(kind, index, **metadata)
        if isinstance(form, CodecForm):
            return plain.coded(form.name)
        images = kept.decoded()
        if kept.about:
            metadata["picture"] = {**kept.about, "bytes": kept.nbytes, "sha256": sha256(images)}
        one = self.real_set(kind, index, images=images, **metadata)
        one.budget = replace(one.budget, bytes=kept.nbytes, payload=kept.nbytes + self.whitening)
        return one

    def order(self, kind: str, draw: int) -> Order:
        """Return the random order of every class of one draw."""
        return random_order(self.train, self.generator(kind, draw))

    def herded_order(self) -> Order:
        """Return the herded order of every class."""
        return lambda n: self.herded([min(n, size) for size in self.train.class_counts.tolist()])

    def random(self, kind: str, draw: int, counts: Sequence[int]) -> Tensor:
        """Draw ``counts[c]`` real images of every class."""
        generator = self.generator(kind, draw)
        drawn = (random_indices([index], len(index), generator) for index in self.train.class_index)
        return torch.cat([chosen[:count] for chosen, count in zip(drawn, counts, strict=True)])

    def herded(self, counts: Sequence[int]) -> Tensor:
        """Choose ``counts[c]`` real images of every class by herding on preprocessed pixels."""
        return herded(self.real, dict(enumerate(counts)))


def _random(request: _Request) -> list[DistilledDataset]:
    counts = request.counts
    return [request.real_set("random", request.random("random", draw, counts)) for draw in range(request.draws)]


def _herding(request: _Request) -> list[DistilledDataset]:
    return [request.real_set("herding", request.herded(request.counts))]


def _kmeans(request: _Request) -> list[DistilledDataset]:
    chosen = [torch.empty(0, dtype=torch.int64)]
    for label, count in enumerate(request.counts):
        if count:
            chosen.append(kmeans_start(request.real, [label], count))
    return [request.real_set("kmeans", torch.cat(chosen))]


def _random_bytes(request: _Request) -> list[DistilledDataset]:
    kind, count = "random-bytes", images_per_class_for_bytes(request.train, request.available)
    return [request.real_set(kind, request.order(kind, draw)(count)) for draw in range(request.draws)]


def _codec(request: _Request) -> Form:
    coding = request.distilled.coding
    return form_of(PLAIN_CODEC if coding is None else coding.codec)


def _random_coded(request: _Request) -> list[DistilledDataset]:
    kind, form = "random-coded", _codec(request)
    return [request.kept_set(kind, form, request.order(kind, draw)) for draw in range(request.draws)]


def _herding_coded(request: _Request) -> list[DistilledDataset]:
    return [request.kept_set("herding-coded", _codec(request), request.herded_order())]


def _random_best(request: _Request) -> list[DistilledDataset]:
    distilled = request.distilled
    search = {
        "forms": all_forms(),
        "model": own_model(distilled),
        "recipe": recipe_for_others(distilled, recipe_of(distilled)),
        **request.search,
    }
    best = best_form(request.real, request.available, seed=request.seed, **search)[0]
    request.report(
        f"real images are worth most as {best.form}: {best.images_per_class} a class, {100 * best.accuracy:.1f} % of "
        f"the training images held out"
    )
    kind, form = "random-best", form_of(best.form)
    found = {"held_out_accuracy": best.accuracy}
    return [request.kept_set(kind, form, request.order(kind, draw), **found) for draw in range(request.draws)]


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
    means = torch.stack([_mean_image(request.real, index) for index in request.train.class_index])
    return [
        DistilledDataset(
            images=means,
            labels=torch.arange(request.train.num_classes),
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
    "kmeans": _kmeans,
    "random-soft": _random_soft,
    "class-mean": _class_mean,
    "random-bytes": _random_bytes,
    "random-coded": _random_coded,
    "herding-coded": _herding_coded,
    "random-best": _random_best,
}


def images_per_class_for_bytes(train: RealData, available: int) -> int:
    """Return how many real images per class fit ``available`` bytes at 8 bits a value.

    An image costs C * H * W bytes; labels in the order of the classes cost nothing. Classes that have fewer images
    give all that they have.

    Raises:
        TooFewBytesError: not even one image per class fits.
    """
    channels, height, width = train.shape
    each, counts = channels * height * width, train.class_counts

    def size(n: int) -> int:
        return each * int(counts.clamp(max=n).sum())

    count = most_that_fit(size, available, int(counts.max()))
    if not count:
        raise TooFewBytesError(train, available, f"8 bits a value take {size(1):,}")
    return count


def expanded(kinds: Sequence[str]) -> list[str]:
    """Return kinds of baselines, ``bytes`` replaced by :data:`AT_EQUAL_BYTES`, none of them twice."""
    named = [one for kind in kinds for one in (AT_EQUAL_BYTES if kind == "bytes" else (kind,))]
    return list(dict.fromkeys(named))


def baseline_sets(
    train: RealData,
    distilled: DistilledDataset,
    kinds: Sequence[str] | None = None,
    seed: int = 0,
    draws: int = 1,
    **search: Any,
) -> dict[str, list[DistilledDataset] | RealData]:
    """Build the controls that stand beside a distilled set; evaluate them with its recipe and seed.

    - ``random``: real images, as many per class as the distilled set has;
    - ``herding``: the same number chosen by herding on preprocessed pixels (one set: the choice is
      deterministic); ``kmeans``: those nearest to the centres of as many clusters of a class's pixels, the start of
      DREAM;
    - ``random-soft``: random real images that carry the distilled set's soft labels, class by class, which
      separates what the labels give from what the images give;
    - ``random-bytes``: as many random real images, stored as 8-bit pixels, as fit the distilled set's payload;
    - ``random-coded`` and ``herding-coded``: as many random or herded ones as fit in the set's own codec, fitted to
      them; beside a set that is not coded, as 8 bits a value in their smallest lossless form;
    - ``random-best``: as many random ones as fit in the form in which they are worth most, chosen on held-out training
      images by :func:`~ddkit.evaluation.form_search.best_form` from few bits, lower resolutions, cosine transforms,
      JPEG and WebP;
    - ``bytes``: those of these four that hold at least one image a class;
    - ``class-mean``: the mean image of every class, one per class;
    - ``whole``: the whole real training set.

    Args:
        train: the real training set.
        distilled: the set to compare with; its preprocessing is used for all.
        kinds: which ones; None takes all that apply ("random-soft" needs soft labels).
        seed: of the draws.
        draws: sets per random kind.
        search: forms, model, recipe, passes, device and report of :func:`~ddkit.evaluation.form_search.best_form`.

    Returns:
        Sets by kind, in the order of ``kinds``; for ``whole`` the training set with the distilled
        preprocessing.

    Raises:
        UnknownNameError: there is no such kind.
        ConfigError: fewer than one draw, or a kind that does not apply.
        TooFewBytesError: a payload in which not one real image a class fits; for ``bytes``, in none of the forms.
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
        soft = distilled.label_kind != "hard"
        kinds = [*(kind for kind in _KINDS if soft or kind != "random-soft"), "bytes", "whole"]
    may_lack, kinds = "bytes" in kinds, expanded(kinds)
    for kind in kinds:
        if kind not in (*_KINDS, "whole"):
            raise unknown_name("baseline", kind, (*_KINDS, "bytes", "whole"))
    request = _Request(train, distilled, seed, draws, search)
    sets: dict[str, list[DistilledDataset] | RealData] = {}
    for kind in sorted(kinds, key=lambda kind: kind == "random-best"):  # what can be refused at once comes first
        try:
            sets[kind] = request.real if kind == "whole" else _KINDS[kind](request)
        except TooFewBytesError as error:
            if not may_lack or (kind == "random-best" and not any(one in sets for one in AT_EQUAL_BYTES)):
                raise
            request.report(f"'{kind}' is left out: {error.reason}")
    return {kind: sets[kind] for kind in kinds if kind in sets}
