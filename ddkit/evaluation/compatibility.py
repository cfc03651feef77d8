"""Which pairs of training and test set would give a wrong accuracy, and are refused."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.real import RealData
from ddkit.errors import DataError

#: How far a row of declared probabilities may be from summing to one.
SOFT_LABEL_TOLERANCE = 1e-3
#: Sum of a column of soft labels below which no image teaches the class.
LEAST_LABEL_MASS = 0.01


def check_compatible(distilled: DistilledDataset, test: RealData) -> None:
    """Refuse a pair that would give a wrong accuracy; warn when a class has no training image.

    Raises:
        DataError: an empty set, other image shapes or classes than the test set's, values that are not
            finite, labels that are not probabilities though declared so, or a test set that is the set's own
            source.
    """
    images, labels = distilled.tensors()
    if len(images) == 0 or len(test) == 0:
        raise DataError(
            f"cannot evaluate {len(images)} training images on {len(test)} test images; give at least 1 of each"
        )
    if tuple(images.shape[1:]) != tuple(test.shape):
        raise DataError(
            f"distilled images are {_size(images.shape[1:])} but test images {_size(test.shape)}; "
            "use the test split of the distilled data"
        )
    _check_classes(distilled, test)
    if not bool(images.isfinite().all()):
        raise DataError("distilled images contain NaN or infinite values; distill again with a lower rate")
    if labels.is_floating_point():
        if not bool(labels.isfinite().all()):
            raise DataError("distilled labels contain NaN or infinite values; distill again with a lower rate")
        off = float((labels.sum(dim=1) - 1).abs().max())
        if distilled.label_kind == "soft" and (off > SOFT_LABEL_TOLERANCE or float(labels.min()) < 0):
            raise DataError(
                f"soft labels are declared probabilities but a row sums to 1 only within {off:.3g} or has a "
                "negative entry; normalise them or declare them regression labels"
            )
    made_from = distilled.card.source.fingerprint
    if made_from and made_from == test.fingerprint:
        raise DataError(
            f"the test set '{test.name}' ({test.split}) is the data that the set was made from; "
            "evaluate on the test split"
        )
    _warn_of_missing_classes(distilled)


def _check_classes(distilled: DistilledDataset, test: RealData) -> None:
    if distilled.num_classes != test.num_classes:
        raise DataError(
            f"the distilled set has {distilled.num_classes} classes, the test set {test.num_classes}; "
            "use the test split of the distilled data"
        )
    ours, theirs = list(distilled.class_names), list(test.class_names)
    numbers = [str(number) for number in range(test.num_classes)]
    if ours != theirs and numbers not in (ours, theirs):
        first = next(i for i in range(len(ours)) if ours[i] != theirs[i])
        raise DataError(
            f"class {first} is '{ours[first]}' in the distilled set and '{theirs[first]}' in the test set; "
            "use the test split of the distilled data"
        )


def _warn_of_missing_classes(distilled: DistilledDataset) -> None:
    if distilled.label_kind == "hard":
        present = torch.bincount(distilled.labels, minlength=distilled.num_classes) > 0
    else:  # a class may be taught by images in which another one prevails
        present = distilled.labels.abs().sum(0) > LEAST_LABEL_MASS
    missing = [distilled.class_names[label] for label in (~present).nonzero().flatten().tolist()]
    if missing:
        warnings.warn(
            f"the distilled set has no image of class {', '.join(missing)}: networks cannot learn it",
            stacklevel=4,
        )


def _size(shape: Sequence[int]) -> str:
    return "x".join(str(int(side)) for side in shape)


def check_splits(train: RealData, test: RealData) -> None:
    """Refuse two real sets that are not the two splits of one dataset.

    Raises:
        DataError: other image shapes or classes, or the same images.
    """
    if tuple(train.shape) != tuple(test.shape) or train.num_classes != test.num_classes:
        raise DataError(
            f"training images are {_size(train.shape)} in {train.num_classes} classes, test images "
            f"{_size(test.shape)} in {test.num_classes}; use the two splits of one dataset"
        )
    if train.fingerprint == test.fingerprint:
        raise DataError(f"the test set '{test.name}' ({test.split}) is the training set; use the test split")
