"""How do encoded images become one uint8 tensor: each is decoded once, many at a time, all of one size."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddkit.data.raw import EncodedImages
from ddkit.data.storage import MappedFile, gather_images
from ddkit.errors import DataError

_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB")
_BLOCK = 32  # images that one thread decodes at a time


class _ColourFoundError(Exception):
    """A colour image turned up while decoding to one channel."""


def pixels_of(image: Image.Image, name: str) -> np.ndarray:
    """Return a PIL image as uint8 ``(C, H, W)``: C is 1 for grey modes, else 3; transparency is dropped.

    Raises:
        DataError: a mode with more than 8 bits per channel.
    """
    if image.mode in _GREY_MODES:
        return np.asarray(image.convert("L"))[None]
    if image.mode in _COLOUR_MODES:
        return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    raise DataError(f"image '{name}' has mode {image.mode}: convert it to 8 bits per channel first")


def decode_one(name: str, source: bytes | Path) -> np.ndarray:
    """Decode one image file to uint8 ``(C, H, W)``, C 1 or 3.

    Raises:
        DataError: the file is missing, truncated, not an image, or has more than 8 bits per channel.
    """
    try:
        data = source.read_bytes() if isinstance(source, Path) else source
        if data[:3] == b"\xff\xd8\xff":
            pixels = _decode_jpeg(data)
            if pixels is not None:
                return pixels
        with Image.open(io.BytesIO(data)) as image:
            return pixels_of(image, name)
    except DataError:
        raise
    except Exception as error:  # decoders raise many types on damaged files
        reason = "not a known image format" if "cannot identify" in str(error) else one_line(error)
        raise DataError(f"cannot decode image '{name}': {reason}; replace or remove the file") from error


def _decode_jpeg(data: bytes) -> np.ndarray | None:
    """Decode a JPEG with torchvision; None where only Pillow can.

    Measured on 10 000 images of 32 x 32: the same pixels as Pillow in 40 % of the time.
    """
    from torchvision.io import decode_jpeg

    try:
        pixels = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8)).numpy()
    except RuntimeError:
        return None
    return pixels if pixels.shape[0] in (1, 3) else None


def one_line(error: BaseException) -> str:
    """Return an error's text on one line, at most 200 characters, or its type where it has none."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def decode_images(
    encoded: EncodedImages, memory_map_above: int, channels: int | None = None
) -> tuple[Tensor, MappedFile | None]:
    """Decode all images to one tensor; one channel when every image is grey, three otherwise.

    Args:
        encoded: at least one image.
        memory_map_above: size in bytes beyond which the result is a memory map.
        channels: 1 or 3 to demand that many, None to decide by the images.

    Returns:
        uint8 ``(N, C, H, W)``, and the file when it is mapped.

    Raises:
        DataError: a damaged image, images of different sizes, or colour images where one channel is demanded.
    """
    first_name, first_source = next(encoded.chunks())[0]
    first = decode_one(first_name, first_source)
    attempts = (channels,) if channels else ((1, 3) if len(first) == 1 else (3,))
    for attempt in attempts:
        shape = (len(encoded), attempt, *first.shape[1:])
        chunks = _decoded_chunks(encoded, first_name, shape[1:])
        try:
            return gather_images(chunks, shape, encoded.key, memory_map_above)
        except _ColourFoundError:
            continue
    raise DataError("these images are in colour while those of the training split are grey: make both alike")


def _decoded_chunks(encoded: EncodedImages, first_name: str, shape: tuple[int, int, int]) -> Iterator[Tensor]:
    decode = partial(_decode_block, first_name=first_name, shape=shape)
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for chunk in encoded.chunks():
            blocks = [chunk[start : start + _BLOCK] for start in range(0, len(chunk), _BLOCK)]
            yield torch.from_numpy(np.concatenate(list(pool.map(decode, blocks))))


def _decode_block(block: list[tuple[str, bytes | Path]], first_name: str, shape: tuple[int, int, int]) -> np.ndarray:
    output = np.empty((len(block), *shape), dtype=np.uint8)
    for position, (name, source) in enumerate(block):
        pixels = decode_one(name, source)
        check_same_size(pixels, name, shape, first_name)
        if len(pixels) > shape[0]:
            raise _ColourFoundError
        output[position] = pixels
    return output


def check_same_size(pixels: Any, name: str, shape: tuple[int, int, int], first_name: str) -> None:
    """Refuse an image ``(C, H, W)`` whose height or width is not that of the first one.

    Raises:
        DataError: naming both images and their sizes.
    """
    if tuple(pixels.shape[1:]) != tuple(shape[1:]):
        sizes = "{}x{} while '{}' is {}x{}".format(*pixels.shape[1:], first_name, *shape[1:])
        raise DataError(f"image '{name}' is {sizes} (height x width): resize all images to one size first")
