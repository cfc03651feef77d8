"""Makes damaged and made-up data files of every format, by seed."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from tests.data.image_files import encoded, pixels, write_folder, write_parquet

_FORMS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "tif": "TIFF", "webp": "WEBP", "ppm": "PPM"}
_NUMBERS = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def mutated(data: bytes, random: Random) -> bytes:
    """Return ``data`` with one to four changes of the kinds that damages or an attacker make."""
    raw = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        if not raw:
            break
        at = random.randrange(len(raw)) if random.random() < 0.5 else random.randrange(min(len(raw), 64))
        kind = random.randrange(7)
        if kind == 0:
            raw[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            raw[at] = random.randrange(256)
        elif kind == 2:
            number = random.choice(_NUMBERS)
            packed = struct.pack(random.choice("<>") + ("I" if number > 0xFFFF else random.choice("HI")), number)
            raw[at : at + len(packed)] = packed
        elif kind == 3:
            del raw[at:]
        elif kind == 4:
            del raw[at : at + random.randint(1, 16)]
        elif kind == 5:
            raw[at:at] = raw[max(0, at - random.randint(1, 64)) : at]
        else:
            raw[at:at] = bytes(random.randrange(256) for _ in range(random.randint(1, 8)))
    return bytes(raw)


def image_case(ending: str, change: Callable[[bytes, Random], bytes] = mutated) -> Callable[[Path, Random], Path]:
    def make(root: Path, random: Random) -> Path:
        if not (root / "train").is_dir():
            for split in ("train", "test"):
                write_folder(root / split, {"a": pixels(2, 8, 8), "b": pixels(2, 8, 8, seed=1)})
        image = Image.fromarray(pixels(1, 8, 8, seed=2)[0]).convert(random.choice(("L", "RGB", "RGB")))
        exif = Image.Exif()
        exif[0x0112] = random.randint(0, 9)
        buffer = io.BytesIO()
        image.save(buffer, _FORMS[ending], **({"exif": exif} if ending in ("jpg", "png", "tif", "webp") else {}))
        for old in root.glob("*/a/victim*"):
            old.unlink()
        place = root / random.choice(("train", "test")) / "a" / f"{random.choice(('victim0', 'victim'))}.{ending}"
        place.write_bytes(change(buffer.getvalue(), random))
        return root

    return make


def mutated_chunk(data: bytes, random: Random) -> bytes:
    """Mutate one chunk of a PNG and make its checksum right again."""
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    victim = random.randrange(len(chunks))
    kind, content = chunks[victim]
    chunks[victim] = (random.choice((kind, kind, b"tRNS", b"PLTE", b"acTL", b"eXIf")), mutated(content, random))
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return data[:8] + b"".join(parts)


def npz_bytes(random: Random) -> bytes:
    names = random.choice(
        (
            ("x_train", "y_train", "x_test", "y_test"),
            ("images", "labels", "test_images", "test_labels"),
            ("images", "labels"),
        )
    )
    arrays: dict[str, np.ndarray] = {}
    for number, name in enumerate(names):
        images = pixels(8, 4, 4, seed=number)
        labels = np.arange(8) % 2
        if number % 2 == 0:
            arrays[name] = random.choice((images, images / 255, images.astype(np.uint16), np.asfortranarray(images)))
        else:
            arrays[name] = random.choice((labels, labels.astype(np.uint8)[:, None], np.array(["cat", "dog"])[labels]))
    if random.random() < 0.3:
        arrays["class_names"] = np.array(["cat", "dog"])
    buffer = io.BytesIO()
    (np.savez_compressed if random.random() < 0.5 else np.savez)(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def npz_case(root: Path, random: Random) -> Path:
    """Mutate the archive as a whole."""
    (root / "set.npz").write_bytes(mutated(npz_bytes(random), random))
    return root / "set.npz"


def npz_header_case(root: Path, random: Random) -> Path:
    """Mutate one member and pack it again, so that checksums are right."""
    with zipfile.ZipFile(io.BytesIO(npz_bytes(random))) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    victim = random.choice(list(content))
    text = content[victim]
    if random.random() < 0.6:
        numbers = (0, 1, 2, 3, 4, -1, 28, 2**31, 10**18, 10**400)
        shape = tuple(8 if random.random() < 0.7 else random.choice(numbers) for _ in range(random.randrange(5)))
        kind = random.choice(("|u1", "<f4", "<i8", "|b1", "<U3", "<U99999999", "|S4", "|O", "<f8", "<c16", "|V8", "x"))
        head = f"{{'descr': '{kind}', 'fortran_order': {random.random() < 0.3}, 'shape': {shape}, }}".ljust(117) + "\n"
        body = text[10 + int.from_bytes(text[8:10], "little") :]
        content[victim] = b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + body
    else:
        content[victim] = mutated(text, random)
    if random.random() < 0.1:
        content[random.choice(("x_val.npy", "test_y.npy", "odd", "../up.npy"))] = text
    with zipfile.ZipFile(root / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return root / "set.npz"


def parquet_case(root: Path, random: Random) -> Path:
    for split, count in (("train", 8), ("test", 4)):
        data = [encoded(image) for image in pixels(count, 4, 4, seed=count)]
        if random.random() < 0.2:
            data[random.randrange(count)] = mutated(data[0], random)
        labels = [random.choice(([0, 1], ["a", "b"]))[0 if i % 2 else 1] for i in range(count)]
        labels = labels if len({type(label) for label in labels}) == 1 else [i % 2 for i in range(count)]
        names = ["a", "b"] if random.random() < 0.5 else None
        write_parquet(root / "set" / f"{split}.parquet", data, labels, names=names)
    victim = root / "set" / f"{random.choice(('train', 'test'))}.parquet"
    if random.random() < 0.9:
        raw = victim.read_bytes()
        cut = len(raw) - random.choice((0, 0, int.from_bytes(raw[-8:-4], "little") + 8))
        start = random.choice((0, cut if cut < len(raw) else len(raw) // 2))  # the footer, or anywhere
        victim.write_bytes(raw[:start] + mutated(raw[start:], random))
    return root / "set"


def metadata_case(root: Path, random: Random) -> Path:
    """Mutate the text of the schema metadata, which Parquet does not check."""
    names = [random.choice(("a", "b", "", None, 7, ["a"], "x" * 10_000, "\n")) for _ in range(random.randint(0, 3))]
    features = {"label": random.choice(({"names": names, "_type": "ClassLabel"}, {"names": "ab"}, [], None, "label"))}
    text = json.dumps(random.choice(({"info": {"features": features}}, {"info": features}, features, [features], 1)))
    table = pq.read_table(write_parquet(root / "x.parquet", [encoded(i) for i in pixels(8, 4, 4)], [0, 1] * 4))
    data = mutated(text.encode(), random) if random.random() < 0.5 else text.encode()
    pq.write_table(table.replace_schema_metadata({"huggingface": data}), root / "x.parquet")
    return root / "x.parquet"


def idx_case(root: Path, random: Random) -> Path:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for old in raw.iterdir():
        old.unlink()
    packed = random.random() < 0.5
    victim = random.randrange(4)
    for number, prefix in enumerate(("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")):
        array = (
            pixels(20, 28, 28, channels=1, seed=number) if number % 2 == 0 else (np.arange(20) % 10).astype(np.uint8)
        )
        data = bytes((0, 0, 8, array.ndim)) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()
        inside = number == victim and random.random() < 0.7
        data = mutated(data, random) if inside else data
        data = gzip.compress(data) if packed else data
        data = mutated(data, random) if number == victim and not inside else data
        (raw / f"{prefix}-ubyte{'.gz' if packed else ''}").write_bytes(data)
    return root


def tree_case(root: Path, random: Random) -> Path:
    """Make a tree of arbitrary names, links and files."""
    words = (
        "train",
        "Test",
        "val",
        "a",
        "b",
        "A",
        "images",
        ".x",
        "__MACOSX",
        "0",
        "01",
        "e\u0301",
        "\u00e9",
        "a\nb",
        "seg_test",
    )
    top = root / f"t{random.randrange(10**12)}"
    image = encoded(pixels(1, 4, 4, seed=random.randrange(1000))[0])
    places = [top]
    for _ in range(random.randint(1, 14)):
        place = random.choice(places) / random.choice((*words, os.fsdecode(b"\xff\xfe")))
        if place.exists() or place.is_symlink():
            continue
        if random.random() < 0.15:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(random.choice((*places, Path(".."), Path("."), Path("gone"))))
        else:
            place.mkdir(parents=True)
            places.append(place)
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
        for number in range(random.randint(0, 3)):
            name = f"f{number}{random.choice((*['.png'] * 9, '.txt', ''))}"
            noisy = encoded(pixels(1, 4, 4, seed=random.randrange(1000))[0])
            (place / name).write_bytes(random.choice((*[noisy] * 9, image, b"")))
    return top


CASES: dict[str, Callable[[Path, Random], Path]] = {
    **{ending: image_case(ending) for ending in _FORMS},
    "png chunks": image_case("png", mutated_chunk),
    "npz": npz_case,
    "npz headers": npz_header_case,
    "parquet": parquet_case,
    "parquet metadata": metadata_case,
    "idx": idx_case,
    "tree": tree_case,
}
