"""In which form are real images worth most at a number of bytes? Chosen on training images that are held out."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddkit.base.streams import Streams, derive_seed
from ddkit.data.real import RealData
from ddkit.errors import ConfigError, DataError, DivergedError
from ddkit.evaluation.coded_reals import Form, Kept, form_of, most_that_fit
from ddkit.models.spec import ModelSpec
from ddkit.training.judge import Judge
from ddkit.training.recipe import TrainingRecipe

#: Images that are shown to networks in one search for every epoch of the recipe, and the most in all: by the common
#: protocol about as many as two networks see that are trained on 100 images.
PASSES_PER_EPOCH, MOST_PASSES = 200, 200_000
#: Share of the training set that is held out, and the most images.
HELD_OUT, MOST_HELD_OUT = 0.2, 1000
#: Of so many forms the longest trained one is taken.
FINALISTS = 3
#: Rate of Adam in rungs before the last one, so that few passes say enough.
RATE = 0.003

Order = Callable[[int], Tensor]


@dataclass(frozen=True)
class Tried:
    """A form and what real images in it were worth.

    Args:
        form: its name.
        images_per_class: how many fitted; classes that have fewer gave all.
        accuracy: of the network trained longest on them, on the images held out, a fraction.
    """

    form: str
    images_per_class: int
    accuracy: float


def random_order(train: RealData, generator: torch.Generator) -> Order:
    """Return the positions of the first n images of every class, in one random order of each."""
    orders = [index[torch.randperm(len(index), generator=generator)] for index in train.class_index]
    return lambda n: torch.cat([order[:n] for order in orders])


def fit_in(
    form: Form, train: RealData, order: Order, available: int, slack: float = 0.0
) -> tuple[int, Callable[[int], Kept]]:
    """Return how many real images a class fit into bytes, 0 for none, and what keeps n of them.

    Args:
        form: how they are kept.
        train: the images; its preprocessing is that of coded ones.
        order: of each class.
        available: bytes.
        slack: share of the images that may be left out, for fewer trials.
    """
    images, most = train.images.cpu(), int(train.class_counts.max())

    @functools.lru_cache(maxsize=4)
    def keep(n: int) -> Kept:
        return form.keep(images[order(n)], train.preprocessing)

    def size(n: int) -> int:
        suits = form.suits((len(order(n)), *train.shape))
        return keep(n).nbytes if suits else available + n

    return most_that_fit(size, available, most, slack), keep


def best_form(
    train: RealData,
    available_bytes: int,
    forms: Sequence[str],
    *,
    model: str | ModelSpec,
    recipe: TrainingRecipe,
    seed: int = 0,
    passes: int | None = None,
    device: str | torch.device = "auto",
    report: Callable[[str], None] = lambda _: None,
) -> list[Tried]:
    """Find the form in which random real images that fit some bytes are worth most, by successive halving.

    A share of the training set is held out. Networks are trained on as many of the others as fit in each form and
    tested on what is held out: one network on each form for a short time by Adam, then longer on the best quarter,
    until :data:`FINALISTS` are left, which are trained by the recipe and have half of the passes. The other rungs share
    the other half; inside a rung passes grow with the root of the number of images. Of equal forms the first one leads.

    Args:
        train: training images; their preprocessing is that of the networks.
        available_bytes: for images; whatever else both sides carry is taken off before.
        forms: texts of :func:`~ddkit.evaluation.coded_reals.form_of`; those that images of this shape cannot have are
            left out.
        model: what is trained.
        recipe: by which, but for epochs and batches.
        seed: of what is held out, of the order of images and of the networks.
        passes: images shown to all networks together, each of which sees all of its own at least once; None for
            :data:`PASSES_PER_EPOCH` for every epoch of the recipe, :data:`MOST_PASSES` at most.
        device: where to train.
        report: called with a line of text before every rung.

    Returns:
        What was tried, best first: those of later rungs before those that were left behind.

    Raises:
        UnknownNameError: no such form.
        TooFewBytesError: not one image of each class fits.
        ConfigError: no passes, or an option of a form out of range.
        DataError: the test split, or too few images to hold some out.
    """
    if train.split == "test":
        raise DataError("a form that is chosen on the test split leaks test images: pass the training split")
    passes = min(MOST_PASSES, PASSES_PER_EPOCH * recipe.epochs) if passes is None else passes
    if passes < 1:
        raise ConfigError(f"{passes} passes: a network must see at least 1 image")
    share = min(HELD_OUT, MOST_HELD_OUT / len(train))
    rest, held_out = train.split_off(share, Streams(seed)("best-form/held-out"))
    order = random_order(rest, Streams(seed)("best-form/order"))
    left: list[_Candidate] = []
    built = [form for form in (form_of(text) for text in forms) if form.suits((1, *train.shape))]
    smallest: tuple[int, str] | None = None
    report(f"counting the real images that fit {available_bytes:,} bytes in {len(built)} forms")
    for form in built:
        count, keep = fit_in(form, rest, order, available_bytes, slack=0.03)
        if count:
            left.append(_Candidate(len(left), form.name, count, keep(count), rest.labels.cpu()[order(count)]))
        elif not left:
            smallest = min(smallest or (keep(1).nbytes, form.name), (keep(1).nbytes, form.name))
    if not left:
        takes = f"{smallest[1]}, the smallest form, takes {smallest[0]:,}" if smallest else "no form is for such images"
        raise TooFewBytesError(train, available_bytes, takes)
    network = derive_seed(seed, "best-form")
    shown = passes + sum(len(one.labels) for one in left)  # all of their own at least once
    search = _Search(rest, Judge(ModelSpec.parse(model), held_out, shown, device), recipe, network)
    sizes = [len(left)]
    while sizes[-1] > FINALISTS:
        sizes.append(-(-sizes[-1] // 4))
    ranked: list[Tried] = []
    for rung, size in enumerate(sizes):
        behind, left = left[size:], left[:size]
        ranked = [one.tried for one in behind] + ranked
        report(f"training networks on real images in {size} form{'s' * (size != 1)} of {available_bytes:,} bytes")
        last = rung + 1 == len(sizes)
        together = passes / (1 if len(sizes) == 1 else 2 if last else 2 * (len(sizes) - 1))
        roots = [math.sqrt(len(one.labels)) for one in left]
        for one, root in zip(left, roots, strict=True):
            one.accuracy = search.accuracy(one, together * root / sum(roots), last)
        left.sort(key=lambda one: (-one.accuracy, one.place))
    return [one.tried for one in left] + ranked


class TooFewBytesError(ConfigError):
    """Not one real image of each class fits.

    Args:
        train: the real images.
        available: bytes.
        takes: what would be enough, in words.
    """

    def __init__(self, train: RealData, available: int, takes: str) -> None:
        self.reason = f"{available:,} bytes do not hold one real image of each of {train.num_classes} classes: {takes}"
        super().__init__(f"{self.reason}; leave this baseline out")


@dataclass
class _Candidate:
    place: int
    form: str
    images_per_class: int
    kept: Kept
    labels: Tensor
    accuracy: float = 0.0

    @property
    def tried(self) -> Tried:
        return Tried(self.form, self.images_per_class, self.accuracy)


@dataclass(frozen=True)
class _Search:
    """How candidates are judged."""

    rest: RealData
    judge: Judge
    recipe: TrainingRecipe
    seed: int

    def accuracy(self, one: _Candidate, passes: float, last: bool) -> float:
        """Train a network on a candidate for about so many passes; return its accuracy on what is held out."""
        images = one.kept.decoded()
        images = self.rest.preprocessing.apply(images) if images.dtype == torch.uint8 else images
        how = self.recipe.replace(
            epochs=max(1, round(passes / len(images))),
            loss=self.recipe.loss_for("hard"),
            **({} if last else {"optimiser": "adam", "lr": RATE}),
        )
        try:
            return self.judge.accuracies(images, one.labels, how, [self.seed])[0]
        except DivergedError:
            return 0.0
