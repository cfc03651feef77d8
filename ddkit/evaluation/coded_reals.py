"""Real images in few bytes: the forms in which they can be kept, and how many of them fit."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.config import piece_from_text
from ddkit.base.registry import checked_options
from ddkit.codecs import base as codecs
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ConfigError, unknown_name
from ddkit.evaluation import pictures

#: Resolutions at which images are kept, as 1/R.
RESOLUTIONS = (1, 2, 4)

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
    """A way to keep real images, at full resolution or shrunk (by area, enlarged bilinearly when decoded).

    Args:
        text: as users give it, without the resolution.
        resolution: R of 1/R.
    """

    def __init__(self, text: str, resolution: int) -> None:
        self.text, self.resolution = text, resolution

    @property
    def name(self) -> str:
        """As users give it: ``uniform:bits=2 at 1/2``."""
        return self.text if self.resolution == 1 else f"{self.text} at 1/{self.resolution}"

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Say whether images ``shape`` (N, C, H, W) can be kept this way."""
        return min(shape[2:]) >= self.resolution

    @abstractmethod
    def keep(self, images: Tensor, preprocessing: Preprocessing) -> Kept:
        """Keep uint8 images (N, C, H, W).

        Raises:
            ConfigError: images that this form cannot hold.
        """

    def _small(self, images: Tensor) -> Tensor:
        if self.resolution == 1:
            return images
        return F.interpolate(images, size=self._sides(tuple(images.shape)), mode="area")

    def _sides(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return -(-shape[2] // self.resolution), -(-shape[3] // self.resolution)

    def _large(self, images: Tensor, sides: torch.Size) -> Tensor:
        if self.resolution == 1:
            return images
        return F.interpolate(images, size=tuple(sides), mode="bilinear", align_corners=False)


class CodecForm(Form):
    """A codec of :data:`ddkit.codecs.registry`, in the preprocessed space, fitted to the images that it keeps."""

    def __init__(self, text: str, resolution: int) -> None:
        super().__init__(text, resolution)
        piece = piece_from_text(text)
        self._codec: codecs.Codec = codecs.registry.create(piece.pop("name"), piece)

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Ask the codec."""
        try:
            self._codec.fit(torch.zeros(1, shape[1], *self._sides(shape)))
        except ConfigError:
            return False
        return super().suits(shape)

    def keep(self, images: Tensor, preprocessing: Preprocessing) -> Kept:
        """Code them."""
        coded = codecs.encode(self._codec, self._small(preprocessing.apply(images)))
        sides = images.shape[2:]
        return Kept(coded.nbytes, lambda: self._large(codecs.decode(coded.entry, coded.parts), sides))


class PictureForm(Form):
    """One JPEG or lossy WebP picture of all images.

    Pillow's version and the SHA-256 of the decoded pixels are recorded, as other versions may give other pixels.
    """

    def __init__(self, text: str, resolution: int) -> None:
        super().__init__(text, resolution)
        piece = piece_from_text(text)
        self._kind = piece.pop("name")
        self._quality: int = checked_options(f"form '{self._kind}'", _picture, piece)["quality"]
        if not 1 <= self._quality <= 95:
            raise ConfigError(f"form '{text}': qualities are 1 to 95")

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Ask the kind of picture."""
        return super().suits(shape) and pictures.suits(self._kind, (*shape[:2], *self._sides(shape)))

    def keep(self, images: Tensor, preprocessing: Preprocessing) -> Kept:
        """Write the picture."""
        small, sides = _pixels(self._small(images.float())), images.shape[2:]
        data, shape = pictures.encode(small, self._kind, self._quality), tuple(small.shape)

        def decoded() -> Tensor:
            return _pixels(self._large(pictures.decode(data, shape).float(), sides))

        return Kept(len(data), decoded, {"pillow": _pillow()})


def _picture(quality: int) -> None:
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
        text: a codec with its options (``uniform:bits=3``), ``jpeg:quality=30`` or ``webp:quality=30``, followed by
            `` at 1/2`` or `` at 1/4`` where images are shrunk.

    Raises:
        UnknownNameError: no such form.
        ConfigError: an option or a resolution out of range.
    """
    own, at, share = text.partition(" at 1/")
    if at and share not in {str(resolution) for resolution in RESOLUTIONS}:
        raise ConfigError(f"form '{text}': resolutions are 1/1, 1/2 and 1/4")
    name, resolution = own.partition(":")[0], int(share or 1)
    if name in pictures.SIDES:
        return PictureForm(own, resolution)
    if name not in codecs.registry:
        raise unknown_name("form", name, (*codecs.registry, *pictures.SIDES))
    return CodecForm(own, resolution)


def all_forms() -> list[str]:
    """Return the forms among which the best one is searched, the ones that lose least first."""
    at = ["" if resolution == 1 else f" at 1/{resolution}" for resolution in RESOLUTIONS]
    names = [f"uniform:bits={bits}" for bits in (8, 4, 3, 2, 1)]
    pictured = [f"jpeg:quality={quality}" for quality in (75, 50, 30, 20, 10)]
    pictured += [f"webp:quality={quality}" for quality in (80, 50, 30)]
    transformed = [
        f"dct:step={step}" + ("" if resolution == 1 else f",resolution={resolution}")
        for step in (0.5, 1.0, 2.0)
        for resolution in RESOLUTIONS
    ]
    return [*(name + share for name in (*names, *pictured) for share in at), *transformed]


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
