"""Real images in few bytes: the forms in which they can be kept, and how many of them fit."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ddkit.base.config import piece_from_text
from ddkit.base.registry import checked_options
from ddkit.codecs import base as codecs
from ddkit.codecs.scaling import Resolution, enlarged, shrunk, smaller
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ConfigError, unknown_name
from ddkit.evaluation import pictures

Size = Callable[[int], int]


@dataclass(frozen=True)
class Kept:
    """Real images in a form.

    Args:
        nbytes: what they cost, their labels being in the order of the classes.
        decoded: returns the images that come back: uint8, or float32 in the preprocessed space.
        about: what is to be recorded of them (JSON-able).
    """

    nbytes: int
    decoded: Callable[[], Tensor]
    about: dict[str, Any] = field(default_factory=dict)


class Form(ABC):
    """A way to keep real images.

    Args:
        name: as users give it, with its options: ``uniform:bits=2,resolution=2``.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def suits(self, shape: tuple[int, ...]) -> bool:
        """Say whether images ``shape`` (N, C, H, W) can be kept this way."""

    @abstractmethod
    def keep(self, images: Tensor, preprocessing: Preprocessing) -> Kept:
        """Keep uint8 images (N, C, H, W).

        Raises:
            ConfigError: images that this form cannot hold.
        """


class CodecForm(Form):
    """A codec of :data:`ddkit.codecs.registry`, in the preprocessed space, fitted to the images that it keeps."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        piece = piece_from_text(name)
        self._codec: codecs.Codec = codecs.registry.create(piece.pop("name"), piece)

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Ask the codec."""
        try:
            self._codec.fit(torch.zeros(1, *shape[1:]))
        except ConfigError:
            return False
        return True

    def keep(self, images: Tensor, preprocessing: Preprocessing) -> Kept:
        """Code them."""
        coded = codecs.encode(self._codec, preprocessing.apply(images))
        return Kept(coded.nbytes, lambda: codecs.decode(coded.entry, coded.parts))


class PictureForm(Form):
    """One JPEG or lossy WebP picture of all images, which may be shrunk as by the codecs.

    Pillow's version and the SHA-256 of the decoded pixels are recorded, as other versions may give other pixels.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        piece = piece_from_text(name)
        self._kind = piece.pop("name")
        options = checked_options(f"form '{self._kind}'", _picture, piece)
        self._quality: int = options["quality"]
        self._resolution: int = options.get("resolution", 1)
        if not 1 <= self._quality <= 95:
            raise ConfigError(f"form '{name}': qualities are 1 to 95")

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Ask the kind of picture."""
        fits = min(shape[2:]) >= self._resolution
        return fits and pictures.suits(self._kind, smaller(shape, self._resolution))

    def keep(self, images: Tensor, preprocessing: Preprocessing) -> Kept:
        """Write the picture."""
        small, whole = _pixels(shrunk(images.float(), self._resolution)), images.shape
        data, shape = pictures.encode(small, self._kind, self._quality), tuple(small.shape)

        def decoded() -> Tensor:
            return _pixels(enlarged(pictures.decode(data, shape).double(), whole))

        return Kept(len(data), decoded, {"pillow": _pillow()})


def _picture(quality: int, resolution: Resolution = 1) -> None:
    """Options of a picture."""


def _pixels(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def _pillow() -> str:
    import PIL

    return str(PIL.__version__)


def sha256(images: Tensor) -> str:
    """Return the SHA-256 (hex) of the bytes of images."""
    return hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()


def form_of(text: str) -> Form:
    """Return the form of a text.

    Args:
        text: a codec with its options (``uniform:bits=3,resolution=2``), ``jpeg:quality=30`` or ``webp:quality=30``;
            ``resolution=2`` and ``resolution=4`` keep images with sides of a half and a quarter.

    Raises:
        UnknownNameError: no such form.
        ConfigError: an option out of range.
    """
    name = text.partition(":")[0]
    if name in pictures.SIDES:
        return PictureForm(text)
    if name not in codecs.registry:
        raise unknown_name("form", name, (*codecs.registry, *pictures.SIDES))
    return CodecForm(text)


def coded_forms() -> list[str]:
    """Return the codecs among which the best one is searched, the ones that lose least first."""
    names = [f"uniform:bits={bits}" for bits in (8, 4, 3, 2, 1)] + [f"dct:step={step}" for step in (0.5, 1.0, 2.0)]
    return _at_each_resolution(names)


def all_forms() -> list[str]:
    """Return the forms among which the best one is searched: :func:`coded_forms` and pictures."""
    names = [f"jpeg:quality={quality}" for quality in (75, 50, 30, 20, 10)]
    return coded_forms() + _at_each_resolution([*names, *(f"webp:quality={quality}" for quality in (80, 50, 30))])


def _at_each_resolution(names: list[str]) -> list[str]:
    options = ["", ",resolution=2", ",resolution=4"]
    return [name + option for name in names for option in options]


def most_that_fit(size: Size, available: int, most: int, slack: float = 0.0) -> int:
    """Return the largest n found whose bytes fit; those of n + 1 do not, unless n is ``most``.

    Bytes grow about linearly with n, so that few sizes have to be measured.

    Args:
        size: bytes of n images a class.
        available: bytes.
        most: largest n.
        slack: share of the bytes or of n that may stay unused, so that fewer sizes are measured.

    Returns:
        n; 0 where not even 1 fits.
    """
    sizes: dict[int, int] = {}
    fits, beyond, guess = 0, most + 1, 1
    while beyond - fits > 1 + slack * fits:
        sizes[guess] = size(guess)
        if sizes[guess] <= available:
            fits = guess
            if sizes[guess] > (1 - slack) * available:
                break
        else:
            beyond = guess
        halve = len(sizes) % 4 == 0 and beyond <= most
        guess = (fits + beyond) // 2 if halve else _crossing(sizes, available)
        guess = min(max(guess, fits + 1), beyond - 1)
    return fits


def _crossing(sizes: dict[int, int], available: int) -> int:
    """Return where a line through the two sizes nearest to ``available`` reaches it."""
    (a, at_a), *others = sorted(sizes.items(), key=lambda item: abs(item[1] - available))
    b, at_b = others[0] if others else (0, 0)
    slope = (at_a - at_b) / (a - b)
    return a + int((available - at_a) // slope) if slope > 0 else 2 * a
