"""What all coreset selections share: checking their input, padding classes to one batch, breaking ties."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ddkit.errors import ConfigError, DataError

Progress = Callable[[int, int], None]
Chunk = tuple[Tensor, Tensor, Tensor]

TIE_TOLERANCE = 1e-12
"""Scores closer than this, relative to their largest term, count as tied; above float64 rounding."""


def nothing(done: int, total: int) -> None:
    """Say nothing."""


def reported(chunks: Iterable[Chunk], total: int, progress: Progress) -> Iterator[Chunk]:
    """Yield chunks of ``total`` classes, and report how many classes are done before each and at the end."""
    done = 0
    for chunk in chunks:
        progress(done, total)
        yield chunk
        done += len(chunk[0])
    progress(done, total)


def check_counts(class_index: Sequence[Tensor], n: int, *, whole: bool = False) -> None:
    """Refuse a number of images per class that some class cannot give.

    Args:
        class_index: for each class its image indices.
        n: images per class.
        whole: whether a smaller class may give all that it has.

    Raises:
        ConfigError: ``n`` is not a positive integer or larger than a class.
        DataError: there is no class, or a class without images.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ConfigError(f"{n!r} images per class: choose an integer of at least 1")
    if not len(class_index):
        raise DataError("there are no classes to select from: give one index tensor per class")
    sizes = [len(index) for index in class_index]
    for label, size in enumerate(sizes):
        if size == 0:
            raise DataError(f"class {label} has no images: remove the class or add images to it")
    smallest = min(sizes)
    if n > smallest and not whole:
        raise ConfigError(
            f"{n} images per class are more than class {sizes.index(smallest)} has: choose {smallest} at most"
        )


def check_features(features: Tensor, class_index: Sequence[Tensor]) -> Tensor:
    """Return ``features`` as (N, D) after refusing what cannot be compared.

    Warns when all images of a class have the same features, because every choice ties.

    Raises:
        DataError: not floating, NaN or infinite, or of another length than the dataset.
    """
    if features.ndim < 1 or not features.is_floating_point():
        raise DataError(f"features have dtype {features.dtype} and shape {tuple(features.shape)}: give floating (N, D)")
    count = sum(len(index) for index in class_index)
    if len(features) != count or any(int(index.max()) >= count or int(index.min()) < 0 for index in class_index):
        raise DataError(
            f"features have {len(features)} rows but the dataset has {count} images: compute the features "
            "of exactly these training images, in their order"
        )
    features = features.detach().flatten(1) if features.ndim > 1 else features.detach()[:, None]
    # NaN and infinity survive a sum, which is much cheaper than a mask; the mask then names the image.
    if not bool(features.sum(dtype=torch.float64).isfinite()):
        broken = (~features.isfinite().all(dim=1)).nonzero()
        if len(broken):
            raise DataError(f"features of image {int(broken[0])} are NaN or infinite: check images and feature network")
    return features


def centred_classes(
    features: Tensor, class_index: Sequence[Tensor], normalise: bool, chunk_bytes: int
) -> Iterator[Chunk]:
    """Yield chunks of classes padded to one batch, in class order.

    Features are centred per class in float64: squared norms of uncentred float32 features cancel and pick
    wrong images.

    Args:
        features: (N, D) floating.
        class_index: for each class its (n_c,) int64 image indices.
        normalise: divide each image's features by their norm first.
        chunk_bytes: largest padded batch, in bytes; at least one class is taken.

    Yields:
        Class features minus the class mean (K', L, D) float64, zero where padded; whether a place holds an
        image (K', L) bool; dataset index (K', L) int64. Both on the device of ``features``.
    """
    chunk: list[tuple[Tensor, Tensor]] = []
    longest = 0
    for label, index in enumerate(class_index):
        index = index.to(features.device).sort().values  # ties go to the lowest dataset index
        if chunk and 8 * (len(chunk) + 1) * max(longest, len(index)) * features.shape[1] > chunk_bytes:
            yield _pad(chunk)
            chunk, longest = [], 0
        rows = features[index].double()
        if normalise:
            rows = torch.nn.functional.normalize(rows)
        if len(index) > 1 and bool((rows == rows[0]).all()):
            warnings.warn(
                f"all images of class {label} have the same features: every choice ties and the first are taken",
                stacklevel=3,
            )
        chunk.append((rows - rows.mean(dim=0), index))
        longest = max(longest, len(index))
    yield _pad(chunk)


def _pad(chunk: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    features = torch.nn.utils.rnn.pad_sequence([rows for rows, _ in chunk], batch_first=True)
    index = torch.nn.utils.rnn.pad_sequence([index for _, index in chunk], batch_first=True, padding_value=-1)
    return features, index >= 0, index


def first_smallest(scores: Tensor, tolerance: Tensor) -> Tensor:
    """Return for each row of ``scores`` (K, L) the lowest position within ``tolerance`` of its minimum."""
    tied = scores <= (scores.amin(dim=1) + tolerance)[:, None]
    positions = torch.arange(scores.shape[1], device=scores.device)
    return torch.where(tied, positions, scores.shape[1]).amin(dim=1)
