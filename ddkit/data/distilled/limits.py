"""How much may the stored tensors of an artifact decode to?

A file of a few kilobytes can describe decoders that make terabytes. What decoding takes is known from shapes and
options alone, so it is compared with these limits before anything is decoded. They are the same for who distils and
who loads: what :func:`check_learned` lets a run learn can be loaded again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ddkit.errors import ArtifactError, ConfigError

#: Numbers that any file may decode to, however small it is: 128 MiB of float32.
ROOM = 2**25
#: Decoded numbers for each stored one above that. The largest that the published settings reach is 460: one image per
#: class of ten classes of 64x64 colour images in an addressed memory.
EXPANSION = 1024
#: Most numbers in all decoded images: 4 GiB of float32.
MOST_NUMBERS = 2**30
#: Numbers that a decoder may hold at once between codes and images: 512 MiB of float32.
MOST_AT_ONCE = 2**27
#: Most multiply-adds of all decoding: about a minute of one core.
MOST_WORK = 2**40


@dataclass(frozen=True)
class Decoding:
    """What decoding will take.

    Args:
        images: decoded images N.
        shape: (C, H, W) of each.
        at_once: numbers of the largest intermediate result of one code.
        work: multiply-adds in all.
    """

    images: int
    shape: tuple[int, int, int]
    at_once: int = 0
    work: int = 0

    @property
    def numbers(self) -> int:
        """Numbers in all decoded images."""
        return self.images * math.prod(self.shape)


def most_numbers(stored: int) -> int:
    """Return how many numbers the images may hold that ``stored`` numbers decode to, unless that is no more numbers."""
    return max(ROOM, min(EXPANSION * stored, MOST_NUMBERS))


def check_learned(what: str, numbers: int, stored: int, remedy: str) -> None:
    """Refuse to learn what could not be loaded again.

    Args:
        what: that decodes, in words.
        numbers: in all decoded images.
        stored: numbers that an artifact would keep.
        remedy: what to change.

    Raises:
        ConfigError: the images hold too many numbers.
    """
    most = most_numbers(stored)
    if numbers > max(most, stored):
        raise ConfigError(f"{what} decode to {numbers:,} numbers, the most is {most:,}: {remedy}")


def check_decoding(decoding: Decoding, stored: Mapping[str, Tensor], announced: int | None = None) -> None:
    """Refuse to decode what takes too much, or what is not what the file announces.

    Args:
        decoding: what it takes.
        stored: all stored tensors, labels included.
        announced: decoded images that the budget of the file counts; None where there is no budget.

    Raises:
        ArtifactError: naming the first number that is too large.
    """
    numbers = sum(tensor.numel() for tensor in stored.values())
    size, most = "x".join(map(str, decoding.shape)), most_numbers(numbers)
    if announced is not None and decoding.images != announced:
        raise ArtifactError(
            f"the stored tensors decode to {decoding.images:,} images, the budget announces {announced:,}: write the "
            f"file anew"
        )
    if "labels" in stored and len(stored["labels"]) != decoding.images:
        raise ArtifactError(
            f"the stored tensors decode to {decoding.images:,} images and there are {len(stored['labels']):,} labels: "
            f"write the file anew"
        )
    if decoding.numbers > max(most, numbers):
        raise ArtifactError(
            f"{numbers:,} stored numbers would decode to {decoding.images:,} images of {size}, {decoding.numbers:,} "
            f"numbers, where {most:,} are the most: store more of them, or distil fewer images"
        )
    if decoding.at_once > MOST_AT_ONCE or decoding.work > MOST_WORK:
        raise ArtifactError(
            f"decoding {decoding.images:,} images of {size} would take {decoding.at_once:,} numbers at once (the most "
            f"is {MOST_AT_ONCE:,}) and {decoding.work:,} multiply-adds ({MOST_WORK:,}): distil with a smaller decoder"
        )


def whole(options: Mapping[str, Any], name: str) -> int:
    """Return the option called ``name``, a whole number of at least 1.

    Raises:
        ArtifactError: it is missing or something else.
    """
    value = options.get(name)
    if type(value) is not int or value < 1:
        raise ArtifactError(f"the option '{name}' is no whole number of at least 1: write the file anew")
    return value


def numbers_of(options: Mapping[str, Any], name: str) -> list[float]:
    """Return the option called ``name``, a list of floats.

    Raises:
        ArtifactError: it is missing or something else.
    """
    values = options.get(name)
    if not isinstance(values, list) or not all(isinstance(value, float) for value in values):
        raise ArtifactError(f"the option '{name}' is no list of numbers: write the file anew")
    return values


def image_shape(options: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the option ``shape``, (C, H, W) of whole numbers of at least 1.

    Raises:
        ArtifactError: it is missing or something else.
    """
    sides = options.get("shape")
    if not isinstance(sides, list | tuple) or len(sides) != 3 or not all(type(n) is int and n >= 1 for n in sides):
        raise ArtifactError("the option 'shape' is not (channels, height, width): write the file anew")
    return sides[0], sides[1], sides[2]


def required(stored: Mapping[str, Tensor], dimensions: Mapping[str, int]) -> list[Tensor]:
    """Return the stored tensors of these names, each of as many dimensions as given.

    Raises:
        ArtifactError: one is missing or has other dimensions.
    """
    wrong = [name for name, count in dimensions.items() if name not in stored or stored[name].dim() != count]
    if wrong:
        raise ArtifactError(f"the tensor '{wrong[0]}' is missing or of a wrong shape: write the file anew")
    return [stored[name] for name in dimensions]


def divided(count: int, classes: int, what: str) -> int:
    """Return how many of ``count`` codes each class has.

    Raises:
        ArtifactError: the classes do not have as many each.
    """
    if count % classes:
        raise ArtifactError(f"{count} {what} do not divide among {classes} classes: write the file anew")
    return count // classes


def stored_images(stored: Mapping[str, Tensor]) -> Decoding:
    """Return what images take that are stored as they are, with their labels.

    Raises:
        ArtifactError: one of both is missing, or images are not (N, C, H, W).
    """
    (images,) = required(stored, {"images": 4})
    if "labels" not in stored:
        raise ArtifactError("the tensor 'labels' is missing: write the file anew")
    channels, height, width = images.shape[1:]
    return Decoding(len(images), (channels, height, width))
