"""What does an encoded image say of itself before it is decoded: its size, its depth, its frames?"""

from __future__ import annotations

from PIL import Image

from ddkit.errors import DataError

MAXIMUM_PIXELS = 2**26
# The markers of JPEG that start a frame header, which holds the size.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_BARE = frozenset((0x01, *range(0xD0, 0xD9)))


def check_size(height: int, width: int, name: str) -> None:
    """Refuse an image that is too large to be decoded.

    Raises:
        DataError: more than ``MAXIMUM_PIXELS``.
    """
    if height * width > MAXIMUM_PIXELS:
        raise DataError(
            f"image '{name}' is {height}x{width} (height x width), more than {MAXIMUM_PIXELS} pixels: resize it first"
        )


def size_of(data: bytes) -> tuple[int, int] | None:
    """Return height and width as the header of a PNG or JPEG gives them; None for others."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR":
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    return _jpeg_size(data) if is_jpeg(data) else None


def is_jpeg(data: bytes) -> bool:
    """Return whether ``data`` starts like a JPEG."""
    return data[:3] == b"\xff\xd8\xff"


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _JPEG_FRAMES:
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        if marker == 0xFF:  # padding
            position += 1
        elif marker in _JPEG_BARE:
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return None


def check_certain(image: Image.Image, name: str) -> None:
    """Refuse an image of which only one frame, or only some bits, would be read.

    Args:
        image: opened, not yet loaded.
        name: for the message.

    Raises:
        DataError: several frames, or more than 8 bits per channel.
    """
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise DataError(f"image '{name}' has several frames or pages: save each that is wanted as a file of its own")
    if any(";16" in str(tile) for tile in getattr(image, "tile", ())):
        raise DataError(f"image '{name}' has 16 bits per channel: convert it to 8 bits per channel first")
