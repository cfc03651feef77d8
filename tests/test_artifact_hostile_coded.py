"""Does the loader answer hostile coded files with one clear error, in bounded memory and time?"""

from __future__ import annotations

import hashlib
import io
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from ddkit.codecs import dct, lossless
from ddkit.codecs.sheets import sheet_size
from ddkit.data.distilled import dataset as datasets
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ArtifactError
from tests.fuzz import harness, mutations
from tests.test_artifact_hostile import JSON_VALUES, mutated, paths, refused

Entries = dict[str, dict[str, Any]]

CLASSES = 3
UNORDERED = torch.tensor([2, 0, 1, 1, 0, 2])
LABELS: dict[str, tuple[Any, Tensor]] = {
    "order": ("hard", torch.arange(6) // 2),
    "unordered": ("hard", UNORDERED),
    "rows": ("soft", torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(1)).softmax(1)),
    "numbers": ("regression", torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(2)) - 0.5),
}
CODECS = [
    "uniform:bits=3,coder=raw",
    "uniform:bits=3,group=image,coder=raw",
    "uniform:bits=3,group=patch,coder=raw",
    "palette:colours=5,coder=raw",
    "dct:coder=raw",
    "dct:resolution=2,coder=raw",
    "dct:resolution=4,block=0,coder=raw",
    "float16",
    "float32",
]


def plain(labels: str = "order", channels: int = 3) -> DistilledDataset:
    kind, values = LABELS[labels]
    return DistilledDataset(
        torch.randn(6, channels, 6, 5, generator=torch.Generator().manual_seed(3)),
        values,
        label_kind=kind,
        class_names=("a", "b", "c"),
        preprocessing=Preprocessing(mean=(0.5,) * channels, std=(0.25,) * channels),
    )


FILES = {(codec, "order"): plain().coded(codec).to_bytes() for codec in CODECS}
FILES |= {(CODECS[0], labels): plain(labels).coded(CODECS[0]).to_bytes() for labels in LABELS}
EACH_FILE = pytest.mark.parametrize("raw", FILES.values(), ids=["/".join(key) for key in FILES])


def forged(raw: bytes, change: Callable[[Entries, dict[str, Tensor]], object]) -> bytes:
    """Change entries and parts of a coded file, and seal it as an attacker would."""
    tensors, document = mutations.opened(raw)
    document = json.loads(json.dumps(document))
    change(document["content"]["codec"]["tensors"], tensors)
    return mutations.sealed(tensors, document)


def with_entry(raw: bytes, name: str = "images", **changes: Any) -> bytes:
    return forged(raw, lambda entries, _: entries[name].update(changes))


def test_forged_file_with_unchanged_content_is_the_coded_file() -> None:
    for raw in FILES.values():
        assert forged(raw, lambda *_: None) == raw


# Parts


@EACH_FILE
def test_missing_parts_and_parts_left_over_are_refused(raw: bytes) -> None:
    names = mutations.opened(raw)[0]
    for name in names:
        refused(forged(raw, lambda _, tensors, name=name: tensors.pop(name)), "missing|no tensors|lists 0 tensors")
    left = dict.fromkeys(("coded.images.more", "coded.labels.more"), "belongs to no coded tensor")
    left |= dict.fromkeys(("coded.masks.symbols", "coded.images", "coded", "more"), "unknown tensor")
    for name, words in left.items():
        refused(forged(raw, lambda _, tensors, name=name: tensors.update({name: torch.zeros(1)})), words)


@EACH_FILE
def test_parts_of_a_wrong_format_or_shape_are_refused(raw: bytes) -> None:
    parts = mutations.opened(raw)[0]
    for name, tensor in parts.items():
        changed = [tensor.to(other) for other in (torch.int64, torch.float64, torch.bfloat16)]
        if not name.endswith(("symbols", ".images.high", ".images.low")) or tensor.is_floating_point():
            changed += [tensor[None], torch.cat([tensor, tensor]), tensor.flatten()[:1]]
        else:
            changed += [torch.cat([tensor, tensor]), tensor[:-1], tensor[:1], torch.cat([tensor, tensor[:1]])]
        for other in changed:
            if other.numel() and not (other.dtype == tensor.dtype and other.shape == tensor.shape):
                refused(forged(raw, lambda _, tensors, n=name, o=other: tensors.update({n: o})))


def replaced(name: str, size: int, symbol: int) -> Callable[[Entries, dict[str, Tensor]], None]:
    """Replace symbols by unpacked ones of which the first is too large."""

    def change(entries: Entries, tensors: dict[str, Tensor]) -> None:
        symbols = torch.zeros(size, dtype=torch.uint8)
        symbols[0] = symbol
        tensors[f"coded.{name}"] = symbols
        entry = entries[name.split(".")[0]]
        (entry if "coder" in entry else entry[name.split(".")[1]]).update(coder="raw", order="images", packed=False)

    return change


@pytest.mark.parametrize("codec", CODECS[:3])
def test_symbols_above_the_largest_are_refused(codec: str) -> None:
    refused(forged(FILES[codec, "order"], replaced("images.symbols", 6 * 90, 8)), "a symbol of 8 has more than 3 bits")


def test_symbols_of_no_colour_or_class_are_refused() -> None:
    five, unordered = FILES[CODECS[3], "order"], FILES[CODECS[0], "unordered"]
    refused(forged(five, replaced("images.symbols", 6 * 30, 5)), "a symbol of 5 is none of 5 colours")
    refused(forged(unordered, replaced("labels.symbols", 6, 3)), "out of range")
    refused(forged(unordered, replaced("labels.symbols", 6, 4)), "a symbol of 4 has more than 2 bits")


def test_symbols_above_the_largest_of_cosine_transforms_are_refused() -> None:
    def change(entries: Entries, tensors: dict[str, Tensor]) -> None:
        for plane in ("low", "high"):
            replaced(f"images.{plane}", 6 * 90, 255)(entries, tensors)

    refused(forged(FILES["dct:coder=raw", "order"], change), "above 65534")


# Options


WRONG: dict[str, dict[str, list[Any]]] = {
    "uniform:bits=3,coder=raw": {
        "bits": [0, 9, -1, True, "3", 3.0, None, [3], 2**70, 2, 4],
        "group": ["class", "image", None, 1, ["channel"], {}],
        "patch": [0, -1, True, "4", 2.0, None, 2**40, 10**30],
        "coder": ["zip", "auto", None, 1, ["raw"], "zstd", "zlib", "lzma", "brotli", "webp"],
        "order": ["rows", None, 1, ["images"]],
        "packed": [1, 0, None, "true", False],
    },
    "uniform:bits=3,group=patch,coder=raw": {"patch": [1, 2, 2**20], "group": ["channel", "image"]},
    "palette:colours=5,coder=raw": {"bits": [0, 9, 2, 4, True, "3", None], "packed": [False, None]},
    "dct:coder=raw": {
        "step": [0.0, -0.5, 1, True, "1", None, [0.5], 1e308],
        "slope": [-1.0, 2, False, None, "2", 1e308],
        "block": [-1, 65, True, 3.0, "8", None, 2**40, 2],
        "resolution": [0, 3, 5, True, "1", 1.0, None, 2, 4],
        "low": [None, [], "raw", {}, {"coder": "raw"}],
        "high": [None, {"coder": "raw", "order": "images", "packed": 0}],
    },
    "float16": {"kind": ["float32", "uniform", "palette", "dct", "classes", "rows", "", None, ["float16"], {}]},
}


@pytest.mark.parametrize("codec", WRONG)
def test_options_out_of_range_or_of_a_wrong_type_are_refused(codec: str) -> None:
    raw = FILES[codec, "order"]
    for name, values in WRONG[codec].items():
        refused(forged(raw, lambda entries, _, name=name: entries["images"].pop(name)))
        for value in values:
            refused(with_entry(raw, **{name: value}))


@EACH_FILE
def test_other_shapes_are_refused(raw: bytes) -> None:
    for shape in [
        [6, 3, 9, 9], [7, 3, 6, 5], [6, 3, 30], [90, 6], [540], [6, 3, 6, 5, 1], [], [1] * 9, [0, 3, 6, 5],
        [-6, -3, 6, 5], [6.0, 3, 6, 5], [True, 3, 6, 5], ["6", 3, 6, 5], None, "6", {}, 6, [2**31, 1, 1, 1],
        [2**30, 3, 6, 5], [6, 3, 2**30, 2**30], [6, 3, 2**20, 5], [2**26, 1, 1, 1], [10**30, 3, 6, 5],
    ]:  # fmt: skip
        refused(with_entry(raw, shape=shape))


@pytest.mark.parametrize(
    "counts",
    [[2, 2], [2, 2, 2, 0], [2, 2, 1], [3, 3, 3], [-2, 4, 4], [2.0, 2, 2], [True, 3, 2], ["2", 2, 2], "222", {}, 6, [6]],
)
def test_counts_that_do_not_make_the_images_are_refused(counts: Any) -> None:
    refused(with_entry(FILES[CODECS[0], "order"], "labels", counts=counts), "counts of")


@pytest.mark.parametrize(
    ("labels", "changes"),
    [
        ("order", {"kind": "rows"}),
        ("order", {"kind": None}),
        ("order", {"kind": "uniform"}),
        ("order", {"shape": [7], "counts": [3, 2, 2]}),
        ("order", {"shape": [2**26], "counts": [2**26, 0, 0]}),
        ("order", {"counts": None}),
        ("unordered", {"bits": 1}),
        ("unordered", {"bits": 0}),
        ("unordered", {"bits": True}),
        ("unordered", {"counts": [2, 2, 2]}),
        ("unordered", {"kind": "rows"}),
        ("unordered", {"shape": [6, 1]}),
        ("rows", {"kind": "classes"}),
        ("rows", {"shape": [6, 2]}),
        ("rows", {"shape": [18]}),
        ("rows", {"probabilities": False}),
        ("rows", {"probabilities": 1}),
        ("rows", {"probabilities": None}),
        ("rows", {"bits": 7}),
        ("rows", {"group": "channel"}),
        ("numbers", {"probabilities": "no"}),
    ],
)
def test_labels_that_make_no_sense_are_refused(labels: str, changes: Any) -> None:
    refused(with_entry(FILES[CODECS[0], labels], "labels", **changes))


def test_numbers_that_float_does_not_hold_are_refused() -> None:
    def filled(name: str, value: float) -> Callable[[Entries, dict[str, Tensor]], None]:
        return lambda _, tensors: tensors[name].fill_(value)

    for name in ("low", "step"):
        for value in (math.nan, math.inf, -math.inf):
            refused(forged(FILES[CODECS[0], "order"], filled(f"coded.images.{name}", value)), "NaN or infinity")
    refused(forged(FILES[CODECS[0], "order"], filled("coded.images.step", -0.5)), "a step is negative")
    refused(forged(FILES[CODECS[3], "order"], filled("coded.images.palette", math.nan)), "NaN or infinity")
    refused(forged(FILES["float16", "order"], filled("coded.images.values", math.inf)), "NaN or infinity")
    refused(with_entry(FILES["dct:coder=raw", "order"], step=1e308), "decodes to NaN or infinity")


# Coders


SYMBOLS = torch.randint(0, 8, (6, 3, 6, 5), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)


def coded_by(coder: str, data: bytes | None = None) -> bytes:
    """Return a file whose symbols a coder wrote, or other bytes in their place."""
    stream = lossless.encode(SYMBOLS, 3, coder)

    def change(entries: Entries, tensors: dict[str, Tensor]) -> None:
        entries["images"].update(stream.entry())
        tensors["coded.images.symbols"] = torch.frombuffer(bytearray(data or stream.data), dtype=torch.uint8)

    return forged(FILES[CODECS[0], "order"], change)


@pytest.mark.parametrize("coder", lossless.CODERS)
def test_missing_and_trailing_bytes_are_refused(coder: str) -> None:
    data = lossless.encode(SYMBOLS, 3, coder).data
    assert DistilledDataset.from_bytes(coded_by(coder)).coding is not None
    for length in range(1, len(data)):
        refused(coded_by(coder, data[:length]))
    for tail in (b"\0", b"\0" * 8, b"\xff", b"abc", data[:9], data, b"RIFF", b"x" * 1000):
        refused(coded_by(coder, data + tail))
    for other in lossless.CODERS:
        if other != coder:
            refused(coded_by(coder, lossless.encode(SYMBOLS, 3, other).data))


@pytest.mark.parametrize("coder", ["zstd", "brotli"])
def test_streams_that_end_early_show_no_memory(coder: str) -> None:
    """A decoder that fills a buffer of the announced size returns what was in it where the stream is shorter."""
    short = lossless.CODERS[coder].encode(np.zeros(100, np.uint8), (100,))
    with pytest.raises(ArtifactError, match="200 bytes of symbols were announced and 100 follow"):
        lossless.decode(short, {"coder": coder, "order": "images", "packed": False}, (200,), 8)


def picture(size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size).save(stream, "WEBP", **{"lossless": True, **options})
    return stream.getvalue()


def test_sheets_are_lossless_pictures_of_the_size_announced() -> None:
    wide, high = sheet_size(tuple(SYMBOLS.shape))
    assert DistilledDataset.from_bytes(coded_by("webp", picture((wide, high)))).coding is not None
    white = Image.new("RGB", (wide, high), "white")
    for data in (
        picture((wide, high), lossless=False),
        picture((wide, high), mode="RGBA", exact=True),
        picture((wide, high), save_all=True, append_images=[white]),
        picture((wide, high), exif=b"Exif\0\0" + bytes(99)),
        picture((wide, high), icc_profile=bytes(500)),
        picture((high, wide)),
        picture((wide + 1, high)),
        picture((wide, high))[:-2],
    ):
        refused(coded_by("webp", data), "no lossless sheet")


# Bombs


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, and reads memory from /proc")


def read(raw: bytes, folder: Path) -> None:
    DistilledDataset.from_bytes(raw)


def bomb(coder: str) -> bytes:
    """Return few bytes that expand to 128 MiB, or a picture of that size."""
    if coder == "webp":
        return picture((6000, 7000))
    if coder == "raw":
        return bytes(2**21)
    return lossless.CODERS[coder].encode(np.zeros(2**27, np.uint8), (2**27,))


@linux
@pytest.mark.forks
@pytest.mark.parametrize("coder", lossless.CODERS)
def test_bombs_stay_small(coder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = coded_by(coder, bomb(coder))
    monkeypatch.setattr(harness, "MOST_BYTES", 2**25)
    monkeypatch.setattr(harness, "MOST_SECONDS", 2.0)
    (outcome,) = harness.outcomes(read, [raw], tmp_path)
    assert outcome.kind == "refused", outcome


def large(codec: str, shape: tuple[int, ...], coder: str = "zstd", **options: Any) -> bytes:
    """Return a small file that announces many numbers, and whose symbols are as many."""
    channels = shape[1]

    def stream(size: int, own: tuple[int, ...]) -> Tensor:
        return torch.frombuffer(
            bytearray(lossless.CODERS[coder].encode(np.zeros(size, np.uint8), own)), dtype=torch.uint8
        )

    tensors, document = mutations.opened(plain(channels=channels).coded(codec).to_bytes())
    document = json.loads(json.dumps(document))
    entries = document["content"]["codec"]["tensors"]
    entry = entries["images"]
    entry.update({"shape": list(shape), **options})
    form = {"coder": coder, "order": "images", "packed": False}
    if entry["kind"] == "dct":
        made = dct.DCT(entry["step"], entry["slope"], entry["block"], entry["resolution"])
        own = dct._Layout.of(made, shape).symbols
        for plane in ("low", "high"):
            entry[plane] = form
            tensors[f"coded.images.{plane}"] = stream(math.prod(own), own)
    else:
        own = (shape[0], 1, *shape[2:]) if entry["kind"] == "palette" else shape
        packed = coder != "webp"
        size = -(-math.prod(own) * entry["bits"] // 8) if packed else math.prod(own)
        entry.update(form, packed=packed)
        tensors["coded.images.symbols"] = stream(size, own)
    if entry.get("group") == "image":
        for name in ("low", "step"):
            tensors[f"coded.images.{name}"] = torch.zeros(shape[0], channels, dtype=torch.float16)
    entries["labels"].update(shape=[shape[0]], counts=[shape[0], 0, 0])
    document["content"]["budget"].update(images=shape[0], decoded_images=shape[0])
    return mutations.sealed(tensors, document)


#: As many numbers as any file may announce.
MANY = 2**25 - 2**20


@linux
@pytest.mark.forks
@pytest.mark.parametrize(
    ("codec", "shape", "coder", "options"),
    [
        ("uniform:bits=3", (MANY // 64, 1, 8, 8), "zstd", {}),
        ("uniform:bits=1", (1, 1, 5700, 5700), "brotli", {}),
        ("uniform:bits=3", (MANY // 64, 1, 8, 8), "webp", {}),
        ("uniform:bits=3,group=image", (MANY // 4096, 1, 64, 64), "lzma", {}),
        ("uniform:bits=3,group=patch,patch=8", (MANY // 64, 1, 8, 8), "zlib", {"patch": 2**20}),
        ("palette:colours=5", (MANY // 192, 3, 8, 8), "zstd", {}),
        ("dct", (MANY // 8 // 243, 3, 9, 9), "zstd", {}),
        ("dct:resolution=4", (MANY // 64, 1, 8, 8), "zstd", {}),
        ("dct:block=0", (MANY // 8 // 2**16, 1, 256, 256), "zstd", {}),
    ],
    ids=str,
)
def test_the_largest_sets_take_bounded_memory(
    codec: str, shape: tuple[int, ...], coder: str, options: Mapping[str, Any], tmp_path: Path
) -> None:
    raw = large(codec, shape, coder, **options)
    assert len(raw) < 10**5
    (outcome,) = harness.outcomes(read, [raw], tmp_path)
    assert outcome.kind == "read", outcome


@pytest.mark.parametrize(
    ("shape", "options"),
    [((1, 1, 2100, 2100), {}), ((1, 1, 4, 300), {"block": 0}), ((2, 2**21, 3, 1), {})],
    ids=str,
)
def test_cosine_transforms_of_large_images_are_refused(shape: tuple[int, ...], options: Any) -> None:
    refused(with_entry(plain(channels=1).coded("dct").to_bytes(), shape=list(shape), **options), "make no sense")


# Documents


@pytest.mark.parametrize(
    "codec",
    [
        None, {}, [], "uniform", {"name": "x"}, {"name": "x", "tensors": {}}, {"name": 1, "tensors": {}},
        {"name": "x", "tensors": []}, {"name": "x", "tensors": {"images": []}}, {"name": "x", "tensors": None},
    ],
    ids=str,
)  # fmt: skip
def test_codecs_that_make_no_sense_are_refused(codec: Any) -> None:
    tensors, document = mutations.opened(FILES[CODECS[0], "order"])
    refused(mutations.sealed(tensors, {**document, "content": {**document["content"], "codec": codec}}))


def test_coded_and_stored_tensors_are_not_mixed() -> None:
    raw = FILES[CODECS[0], "order"]
    refused(forged(raw, lambda _, tensors: tensors.update({"stored.labels": torch.arange(6) // 2})), "not both")
    tensors, document = mutations.opened(plain().to_bytes())
    refused(mutations.sealed({**tensors, "coded.images.low": torch.zeros(1)}, document), "coded tensors have no codec")
    refused(forged(raw, lambda entries, _: entries.update(labels=entries["images"])))
    refused(forged(raw, lambda entries, _: entries.pop("labels")), "not exactly images and labels")
    refused(forged(raw, lambda entries, _: entries.update(masks=entries["labels"])), "codec 'classes'")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_forged_entries_load_consistently_or_are_refused(data: st.DataObject) -> None:
    tensors, document = mutations.opened(data.draw(st.sampled_from(list(FILES.values()))))
    entries = document["content"]["codec"]["tensors"]
    changed = mutated(entries, data.draw(st.sampled_from(paths(entries))), data.draw(JSON_VALUES))
    codec = {**document["content"]["codec"], "tensors": changed}
    raw = mutations.sealed(tensors, {**document, "content": {**document["content"], "codec": codec}})
    try:
        distilled = DistilledDataset.from_bytes(raw)
    except ArtifactError as error:
        assert "\n" not in str(error) and len(str(error)) <= 600
    else:
        assert distilled.to_bytes() == raw


# Golden files


GOLDEN = Path(__file__).parent / "codecs" / "golden"
#: SHA-256 of images and labels.
DECODED = {
    "uniform": (
        "efc58b068f4aff1639ecd6869a78584c8e9170e45f1f5c229d5343ac6203b995",
        "b8d04b8e4644977df092c27fedde0c770d5fb5f0ef931471306a21f8d18c3aea",
    ),
    "palette": (
        "16c876ca1decdda8c6786de42ed192547752b1129a191f0018ea212292477293",
        "c6487b23e5b010ab26f4822cbec1e9f79413a04475031b8219d30de9fdc1f877",
    ),
    "dct": (
        "cd0d638142fdff118e5d8b1d56e1a1055c3bd75c8e2a92c21ae5c2376b47208d",
        "b8d04b8e4644977df092c27fedde0c770d5fb5f0ef931471306a21f8d18c3aea",
    ),
}


def digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize("name", DECODED)
def test_golden_files_decode_to_the_same_bits_and_are_written_again_as_they_are(name: str) -> None:
    raw = (GOLDEN / f"{name}.safetensors").read_bytes()
    distilled = DistilledDataset.from_bytes(raw)
    assert (digest(distilled.images), digest(distilled.labels)) == DECODED[name]
    assert distilled.to_bytes() == raw
    assert distilled.coding is not None
    again = distilled.coded(distilled.coding.codec)
    assert torch.equal(again.images, distilled.images) or name == "dct"


def test_a_reader_of_version_1_asks_for_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "FORMAT_VERSION", 1)
    refused(
        (GOLDEN / "uniform.safetensors").read_bytes(),
        r"format version 2 is newer than this ddkit reads \(1\): upgrade with `pip install --upgrade ddkit`",
    )
