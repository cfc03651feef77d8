"""What do the images look like: labelled grids for people, and single tiles for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddkit.errors import ConfigError, DataError

TILE = 92
"""Edge in pixels that a grid's images are brought close to."""

_MARGIN, _GAP, _BAND_GAP, _LABEL_HEIGHT, _FONT_SIZE = 20, 6, 22, 26, 14
_PAPER, _INK = (255, 255, 255), (60, 66, 76)


def image_grid(
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    per_class: int = 10,
    scale: float | None = None,
    columns: int = 10,
) -> Image.Image:
    """Draw images as labelled columns, one a class, on white paper.

    Classes follow their label order and wrap after ``columns``; one without images is left out.

    Args:
        images: ``(N, C, H, W)`` on the [0, 1] scale, C 1 or 3 (``DistilledDataset.viewable()``).
        labels: ``(N,)`` hard labels.
        class_names: the K names.
        per_class: images shown of each class, the first ones.
        scale: enlargement; whole factors repeat pixels, factors below 1 average them. None chooses one that
            brings the width close to 92 pixels: 8 -> 96, 28 -> 84, 32 -> 96, 224 -> 112.
        columns: classes beside each other.

    Returns:
        An RGB image.

    Raises:
        DataError: wrong shapes, values that are not finite or outside [0, 1], labels without a name.
        ConfigError: ``per_class``, ``columns`` or ``scale`` is not positive.
    """
    if per_class < 1 or columns < 1 or (scale is not None and not scale > 0):
        raise ConfigError(
            f"per_class={per_class}, columns={columns}, scale={scale}: "
            "each must be positive; leave them out for defaults"
        )
    classes = images_by_class(images, labels, class_names, per_class)
    height, width = images.shape[2:]
    factor = automatic_scale(width) if scale is None else scale
    tile = (max(1, round(width * factor)), max(1, round(height * factor)))
    bands = [classes[start : start + columns] for start in range(0, len(classes), columns)]
    heights = [_LABEL_HEIGHT + max(len(group) for _, group in band) * (tile[1] + _GAP) - _GAP for band in bands]
    across = min(columns, len(classes))
    canvas = Image.new(
        "RGB",
        (
            2 * _MARGIN + across * (tile[0] + _GAP) - _GAP,
            2 * _MARGIN + sum(heights) + _BAND_GAP * (len(bands) - 1),
        ),
        _PAPER,
    )
    top = _MARGIN
    for band, band_height in zip(bands, heights, strict=True):
        for column, (name, group) in enumerate(band):
            _draw_class(canvas, name, group, tile, (_MARGIN + column * (tile[0] + _GAP), top))
        top += band_height + _BAND_GAP
    return canvas


def images_by_class(
    images: Tensor, labels: Tensor, class_names: Sequence[str], per_class: int
) -> list[tuple[str, list[Image.Image]]]:
    """Return the name and the first ``per_class`` images, at their own size, of each class that has images.

    Raises:
        DataError: as :func:`image_grid`.
    """
    _check(images, labels, class_names)
    classes: list[tuple[str, list[Image.Image]]] = []
    for label in labels.unique().tolist():
        index = (labels == label).nonzero()[:per_class, 0]
        pixels = images[index].mul(255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        group = [Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image) for image in pixels]
        classes.append((str(class_names[label]), group))
    return classes


def automatic_scale(width: int) -> float:
    """Return the enlargement for images ``width`` pixels wide: 1, 2, 3, ..., for large ones 1/2, 1/3, ..."""
    if width <= TILE * 1.5:
        return float(max(1, round(TILE / width)))
    return 1.0 / max(2, round(width / TILE))


def resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring an image to ``size`` (width, height): repeat pixels to enlarge it, average them to reduce it."""
    smaller = size[0] < image.width
    return image.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)


def png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _check(images: Tensor, labels: Tensor, class_names: Sequence[str]) -> None:
    if images.ndim != 4 or images.shape[0] == 0 or images.shape[1] not in (1, 3):
        raise DataError(f"images of shape {tuple(images.shape)} cannot be drawn: (N, C, H, W) with C 1 or 3 is needed")
    if labels.shape != images.shape[:1] or labels.is_floating_point():
        raise DataError(
            f"labels of shape {tuple(labels.shape)} and type {labels.dtype} do not fit {len(images)} images: "
            "give one integer an image (DistilledDataset.hard_labels())"
        )
    if not bool(torch.isfinite(images).all()):
        raise DataError("images hold NaN or infinite values and cannot be drawn: check the run's loss")
    low, high = float(images.min()), float(images.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise DataError(
            f"images range from {low:.3g} to {high:.3g}, [0, 1] is needed: draw DistilledDataset.viewable()"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise DataError(
            f"labels range from {int(labels.min())} to {int(labels.max())} but there are "
            f"{len(class_names)} class names: give one name a class"
        )


@lru_cache(maxsize=4)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that Matplotlib brings along, so that grids look the same on every machine."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), size)


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cut ``text`` so that it fits ``width`` pixels, with an ellipsis where something was cut."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _draw_class(
    canvas: Image.Image, name: str, group: list[Image.Image], tile: tuple[int, int], corner: tuple[int, int]
) -> None:
    font = _font(_FONT_SIZE)
    left, top = corner
    ImageDraw.Draw(canvas).text((left, top), _shorten(name, tile[0], font), fill=_INK, font=font)
    for row, image in enumerate(group):
        canvas.paste(resize(image, tile).convert("RGB"), (left, top + _LABEL_HEIGHT + row * (tile[1] + _GAP)))


def data_uri(content: bytes, media_type: str) -> str:
    """Return ``content`` as an address that needs no file."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"
