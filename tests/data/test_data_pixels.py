"""Are pixels certain: upright, opaque, of 8 bits and one frame; and is their size known before they are decoded?"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from ddkit.data import RealData, load
from ddkit.data.decoding import decode_images, decode_one, pixels_of
from ddkit.data.folder import ImageFiles
from ddkit.errors import DataError
from tests.data.image_files import encoded, pixels, refused, write_folder

# How a camera stores an upright image for each value of the EXIF tag 0x0112, so that a viewer turns it back.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


def photo(form: str, orientation: int, upright: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    stored = np.ascontiguousarray(STORED[orientation](upright))
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    Image.fromarray(stored).save(buffer, form, exif=exif, **options)
    return buffer.getvalue()


def upright_image(channels: int) -> np.ndarray:
    ramp = np.add.outer(np.arange(16) * 4, np.arange(24) * 6).astype(np.uint8)
    return ramp if channels == 1 else np.stack([ramp, ramp // 2, 255 - ramp], axis=-1)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("form", "channels"), [("JPEG", 1), ("JPEG", 3), ("PNG", 3), ("TIFF", 1), ("WEBP", 3)])
def test_images_are_turned_as_their_orientation_says(form: str, channels: int, orientation: int) -> None:
    upright = upright_image(channels)
    found = decode_one("x", photo(form, orientation, upright)).astype(int)
    expected = np.atleast_3d(upright).transpose(2, 0, 1).astype(int)
    assert found.shape == expected.shape and np.abs(found - expected).mean() < (3 if form in ("JPEG", "WEBP") else 0.1)


def test_orientation_in_xmp_and_of_images_in_memory_counts(tmp_path: Path) -> None:
    upright = upright_image(3)
    xmp = b'<x:xmpmeta><rdf:RDF><rdf:Description tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(STORED[6](upright))).save(buffer, "JPEG", quality=100, xmp=xmp)
    assert decode_one("x", buffer.getvalue()).shape == (3, 16, 24)
    opened = Image.open(io.BytesIO(photo("JPEG", 6, upright)))
    real = RealData.from_dataset([(opened, 0), (Image.fromarray(upright), 1)])
    assert real.shape == (3, 16, 24)


def test_photos_in_parquet_are_upright_too(tmp_path: Path) -> None:
    rows = [{"bytes": photo("JPEG", 6 if k % 2 else 1, np.roll(upright_image(3), k, 0))} for k in range(6)]
    pq.write_table(pa.table({"image": rows, "label": [0, 1] * 3}), tmp_path / "train.parquet")
    images = load(tmp_path).images.to(torch.int64)
    for k, image in enumerate(images):
        expected = torch.from_numpy(np.roll(upright_image(3), k, 0).transpose(2, 0, 1).copy()).to(torch.int64)
        assert (image - expected).abs().float().mean() < 3


def test_pixels_decoded_by_an_older_way_are_not_used_again(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a": pixels(2)})
    files = ImageFiles(sorted(tmp_path.rglob("*.png")))
    _, mapped = decode_images(files, 0)
    assert mapped is not None and files.key()[:40] not in mapped.path.name


def transparent(mode: str, shape: np.ndarray) -> Image.Image:
    if mode == "P":
        image = Image.fromarray((shape > 100).astype(np.uint8), "L").convert("P")
        image.putpalette([0] * 768)
        image.info["transparency"] = 1
        return image
    image = Image.new(mode, shape.shape[::-1])
    image.putalpha(Image.fromarray(shape))
    return image


@pytest.mark.parametrize(
    ("form", "mode"), [("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "P"), ("WEBP", "RGBA"), ("GIF", "P")]
)
def test_shapes_drawn_by_transparency_are_refused(form: str, mode: str) -> None:
    shape = pixels(1, 8, 8, channels=1)[0]
    image = transparent(mode, shape)
    buffer = io.BytesIO()
    image.save(buffer, form, **({"transparency": 1} if mode == "P" else {}))
    refused("image 'x.png' is transparent in places", lambda: decode_one("x.png", buffer.getvalue()))
    refused("is transparent in places", lambda: pixels_of(image, "item 0"))


def test_a_colour_that_png_calls_transparent_is_refused_where_it_is_used() -> None:
    array = pixels(1)[0]
    for colour, used in ((tuple(map(int, array[0, 0])), True), ((1, 2, 3), False)):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG", transparency=colour)
        if used:
            refused("transparent in places", lambda data=buffer.getvalue(): decode_one("x", data))  # type: ignore[misc]
        else:
            assert np.array_equal(decode_one("x", buffer.getvalue()), array.transpose(2, 0, 1))


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_per_channel_are_refused_in_every_kind_of_png(kind: int, channels: int) -> None:
    data = png(2, 2, 16, kind, (b"\0" + b"\x0f\xff" * 2 * channels) * 2)
    refused("(16 bits per channel|mode I;16): convert it to 8 bits", lambda: decode_one("x.png", data))


def test_deep_tiffs_are_refused() -> None:
    for array in (np.ones((4, 4), np.float32), np.ones((4, 4), np.int32), np.ones((4, 4), np.uint16)):
        refused("convert it to 8 bits per channel", lambda data=encoded(array, "TIFF"): decode_one("x.tif", data))  # type: ignore[misc]


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PNG", "WEBP"])
def test_images_of_several_frames_are_refused(form: str) -> None:
    frames = [Image.fromarray(frame) for frame in pixels(3, 8, 8)]
    buffer = io.BytesIO()
    frames[0].save(buffer, form, save_all=True, append_images=frames[1:])
    refused("image 'x' has several frames or pages", lambda: decode_one("x", buffer.getvalue()))
    refused("several frames", lambda: RealData.from_dataset([(Image.open(buffer), 0)]))


@pytest.mark.parametrize("marker", [0xC0, 0xC2])
def test_large_images_are_refused_by_their_header(marker: int) -> None:
    frame = bytes((8, 0x75, 0x30, 0x75, 0x30, 1, 1, 0x11, 0))
    jpeg = b"\xff\xd8\xff\xfe\0\x04ab\xff" + bytes((0xFF, marker, 0, 11)) + frame + b"\xff\xd9"
    refused("image 'x' is 30000x30000 .*more than 67108864 pixels", lambda: decode_one("x", jpeg))
    refused("30000x20000 .*more than", lambda: decode_one("x", png(20000, 30000, 8, 0, b"")))
    refused("is 10000x8000 .*more than", lambda: pixels_of(Image.new("1", (8000, 10000)), "x"))


def test_an_image_larger_than_the_first_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    write_folder(tmp_path / "train", {"a": pixels(3), "b": pixels(3, seed=1)})
    (tmp_path / "train" / "b" / "9.png").write_bytes(png(8000, 8000, 1, 0, b"no pixels at all"))
    refused("9.png' is 8000x8000 while '.*' is 6x5", lambda: load(tmp_path))


def test_more_pixels_than_disk_or_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "train", {"a": pixels(3), "b": pixels(3, seed=1)})
    monkeypatch.setattr("ddkit.data.storage._available_memory", lambda: 100)
    refused("6 images of 3x6x5 need 0.0 GB of memory", lambda: load(tmp_path))
    monkeypatch.setattr("ddkit.data.storage.shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    refused("the decoded images need 0.0 GB in '.*DDKIT_CACHE", lambda: load(tmp_path, memory_map_above=0))


def test_a_full_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "train", {"a": pixels(3), "b": pixels(3, seed=1)})

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("ddkit.data.storage.torch.empty", full)
    refused("dataset '.*' does not fit into memory", lambda: load(tmp_path))


def test_large_images_are_decoded_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "train", {"a": pixels(9, seed=1), "b": pixels(7, seed=2)})
    expected = load(tmp_path).images
    monkeypatch.setattr("ddkit.data.decoding._CHUNK_BYTES", 3 * 6 * 5 * 4)
    assert torch.equal(load(tmp_path).images, expected)


@pytest.mark.parametrize("kind", ["folder", "parquet", "npz", "dataset"])
def test_a_set_of_one_image_is_refused_at_every_door(tmp_path: Path, kind: str) -> None:
    images, labels = np.repeat(pixels(1), 6, axis=0), [0, 1] * 3
    if kind == "folder":
        write_folder(tmp_path / "train", {"a": images[:3], "b": images[:3]})
    elif kind == "parquet":
        rows = [{"bytes": encoded(image)} for image in images]
        pq.write_table(pa.table({"image": rows, "label": labels}), tmp_path / "train.parquet")
    else:
        np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=pixels(2), y_test=[0, 1])
    items = list(zip(images, labels, strict=True))
    doors = {"npz": lambda: load(tmp_path / "x.npz"), "dataset": lambda: RealData.from_dataset(items)}
    refused("all 6 images of .* are one image", doors.get(kind, lambda: load(tmp_path)))


def test_blank_tensors_draw_a_warning() -> None:
    with pytest.warns(UserWarning, match="all 4 images of 'tensors' are blank: every pixel is 0"):
        RealData.from_tensors(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), [0, 1, 0, 1])


@pytest.mark.parametrize("scale", [1, 1 / 255])
def test_pixels_on_a_scale_of_bits_are_refused(scale: float) -> None:
    bits = (pixels(8, channels=1) > 100).astype(np.uint8)
    images = bits if scale == 1 else (bits * scale).astype(np.float32)
    refused("reach level 1 of 255.*multiply them by 255", lambda: RealData.from_tensors(images, [0, 1] * 4))
    assert RealData.from_tensors(bits.astype(np.float32), [0, 1] * 4).images.max() == 255


def test_four_bit_levels_draw_a_warning() -> None:
    with pytest.warns(UserWarning, match="reach level 15 of 255 only: if that is white, multiply them by 17"):
        RealData.from_tensors(pixels(8, channels=1) // 17, [0, 1] * 4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 28, 28, 28), "28 channels of 28x28, or volumes"),
        ((4, 64, 7, 7), "64 channels of 7x7, or volumes"),
        ((4, 32, 32, 4), r"\(N, H, W, C\) with 4 channels"),
        ((4, 3, 32, 3), "channels may come first or last"),
        ((4, 1, 28, 3), "channels may come first or last"),
        ((4, 2, 2, 2, 2), r"give \(N, H, W\)"),
    ],
)
def test_axes_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    refused(message, lambda: RealData.from_tensors(images, [0, 1] * 2))
    np.savez(tmp_path / "x.npz", images=images, labels=[0, 1] * 2)
    refused(message, lambda: load(tmp_path / "x.npz"))


def test_many_channels_are_taken_with_a_word() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 13, 32, 32), dtype=np.uint8)
    with pytest.warns(UserWarning, match="taken for images of 13 channels"):
        assert RealData.from_tensors(images, [0, 1] * 2).shape == (13, 32, 32)


def test_damaged_exif_gives_one_line_or_the_image() -> None:
    data = bytearray(photo("JPEG", 6, upright_image(3)))
    for position in range(2, 60):
        broken = bytes(data[:position]) + bytes((data[position] ^ 0xFF,)) + bytes(data[position + 1 :])
        try:
            assert decode_one("x", broken).ndim == 3
        except DataError as error:
            assert "\n" not in str(error)
