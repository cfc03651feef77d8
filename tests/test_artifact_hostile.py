"""Does the loader answer hostile bytes with one clear error, and does it notice every changed byte?"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit.base import container
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ArtifactError

VALID = DistilledDataset(
    torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)),
    torch.arange(3),
    class_names=("a", "b", "c"),
    preprocessing=Preprocessing(mean=(0.5,), std=(0.25,)),
    metadata={"method": "dm", "seed": 1, "source": {"name": "digits"}, "learned": {"lr": 0.1}},
).to_bytes()


def header_of(raw: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return header


def document_of(raw: bytes) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(header_of(raw)["__metadata__"]["ddkit"])
    return document


def with_header(header: Any) -> bytes:
    """Put another header before the tensors of the valid file."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + VALID[8 + int.from_bytes(VALID[:8], "little") :]


def sealed(document: Any, tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    """Write a file as an attacker would: any document, and a checksum that matches."""
    tensors = safetensors.torch.load(VALID) if tensors is None else tensors
    if isinstance(document, dict):
        document = {**document, "checksum": "0" * 64}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    blank = safetensors.torch.save(tensors, {"ddkit": text})
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def refused(raw: bytes, match: str | None = None) -> None:
    with pytest.raises(ArtifactError, match=match) as caught:
        DistilledDataset.from_bytes(raw)
    message = str(caught.value)
    assert "\n" not in message and len(message) <= 600


def test_forged_file_with_unchanged_content_is_the_valid_file() -> None:
    assert sealed(document_of(VALID)) == VALID


def test_every_flipped_byte_is_detected() -> None:
    for position in range(len(VALID)):
        for bits in (0x01, 0x20, 0x80):
            raw = bytearray(VALID)
            raw[position] ^= bits
            refused(bytes(raw))


def test_every_truncation_is_detected() -> None:
    for length in range(len(VALID)):
        refused(VALID[:length])


def test_appended_bytes_are_detected() -> None:
    refused(VALID + b"\0", "truncated")


def test_padding_of_another_length_is_detected() -> None:
    length = int.from_bytes(VALID[:8], "little")
    refused(
        (length + 8).to_bytes(8, "little") + VALID[8 : 8 + length] + b" " * 8 + VALID[8 + length :],
        "checksum",
    )


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_are_refused(raw: bytes) -> None:
    refused(raw)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_spliced_files_are_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(VALID)))
    end = data.draw(st.integers(start, len(VALID)))
    raw = VALID[:start] + data.draw(st.binary(max_size=40)) + VALID[end:]
    if raw != VALID:
        refused(raw)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**62, 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += paths(inner, (*prefix, key))
    return found


def mutated(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = new
    return value


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_metadata_with_the_old_checksum_is_refused(data: st.DataObject) -> None:
    header, document = header_of(VALID), document_of(VALID)
    new = mutated(document, data.draw(st.sampled_from(paths(document))), data.draw(JSON_VALUES))
    header["__metadata__"]["ddkit"] = json.dumps(new, sort_keys=True, separators=(",", ":"))
    refused(with_header(header))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_forged_metadata_load_consistently_or_are_refused(data: st.DataObject) -> None:
    document = document_of(VALID)
    raw = sealed(mutated(document, data.draw(st.sampled_from(paths(document))), data.draw(JSON_VALUES)))
    try:
        distilled = DistilledDataset.from_bytes(raw)
    except ArtifactError as error:
        assert "\n" not in str(error)
    else:
        again = distilled.to_bytes()
        assert DistilledDataset.from_bytes(again).to_bytes() == again


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_headers_are_refused(data: st.DataObject) -> None:
    header = header_of(VALID)
    new = mutated(header, data.draw(st.sampled_from(paths(header))), data.draw(JSON_VALUES))
    if new != header:
        refused(with_header(new))


DTYPES = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool, torch.bfloat16])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=5),
    DTYPES,
    st.sampled_from(["stored.images", "stored.labels", "stored.x"]),
)
def test_forged_tensors_load_consistently_or_are_refused(shape: list[int], dtype: torch.dtype, name: str) -> None:
    tensors = {**safetensors.torch.load(VALID), name: torch.zeros(shape, dtype=dtype)}
    raw = sealed(document_of(VALID), tensors)
    try:
        distilled = DistilledDataset.from_bytes(raw)
    except ArtifactError:
        return
    assert distilled.to_bytes() == raw


def test_newer_format_version_says_upgrade() -> None:
    document = {"format": "ddkit.distilled-dataset", "format_version": 3, "anything": {"else": True}}
    raw = sealed(document, {"new.layout": torch.zeros(2, dtype=torch.bool)})
    refused(
        raw,
        r"format version 3 is newer than this ddkit reads \(2\): upgrade with `pip install --upgrade ddkit`",
    )


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, None])
def test_malformed_format_versions_are_refused(version: Any) -> None:
    refused(sealed({**document_of(VALID), "format_version": version}), "format")


def test_safetensors_file_of_something_else_is_refused() -> None:
    refused(safetensors.torch.save({"weight": torch.zeros(2)}), "no metadata of ddkit")
    refused(safetensors.torch.save({"weight": torch.zeros(2)}, {"format": "pt"}), "no metadata of ddkit")


def claim(**entry: Any) -> bytes:
    return with_header({**header_of(VALID), "stored.images": {**header_of(VALID)["stored.images"], **entry}})


@pytest.mark.parametrize(
    "raw",
    [
        (2**63).to_bytes(8, "little") + VALID[8:],
        (2**64 - 1).to_bytes(8, "little") + VALID[8:],
        claim(shape=[2**40, 2**20]),
        claim(shape=[2**40, 2**20], data_offsets=[24, 24 + 2**62]),
        claim(shape=[0, 2**62]),
        claim(shape=[3, 1, 2, 2] + [1] * 70),
        claim(data_offsets=[0, 48]),
        claim(dtype="F8_E4M3"),
        with_header({**header_of(VALID), **{f"t{number}": {} for number in range(5000)}}),
    ],
)
def test_claims_beyond_the_file_allocate_nothing(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def reached(*_: Any) -> None:
        raise AssertionError("the tensors were read before the claims of the header were checked")

    monkeypatch.setattr(container.safetensors.torch, "load", reached)
    refused(raw)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"format_version":' + "9" * 5000 + "}",
        "\udcff",
        "{}",
        "[]",
        "1e999",
        "NaN",
    ],
)
def test_pathological_json_is_refused(text: str) -> None:
    raw = text.encode("utf-8", "surrogateescape")
    refused(len(raw).to_bytes(8, "little") + raw)
    refused(with_header({**header_of(VALID), "__metadata__": {"ddkit": text}}))


def resealed(change: tuple[str, str]) -> bytes:
    """Replace a piece of the metadata's text and write the checksum that then matches."""
    text = header_of(VALID)["__metadata__"]["ddkit"].replace(document_of(VALID)["checksum"], "0" * 64)
    assert change[0] in text
    blank = safetensors.torch.save(safetensors.torch.load(VALID), {"ddkit": text.replace(*change)})
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


@pytest.mark.parametrize("number", ["1e999", "NaN", "1" + "0" * 400])
def test_numbers_that_are_not_finite_floats_are_refused(number: str) -> None:
    refused(resealed(('"lr":0.1', f'"lr":{number}')))


@pytest.mark.parametrize(
    "change",
    [
        ('"seed":1', '"seed":2,"seed":1'),
        ('"seed":1', '"seed": 1'),
        ('"lr":0.1', '"lr":1e-1'),
        ('"dm"', '"\\u0064m"'),
    ],
)
def test_second_spellings_of_the_same_metadata_are_refused(change: tuple[str, str]) -> None:
    refused(resealed(change), "not canonical JSON")


def forged_content(**changes: Any) -> bytes:
    document = document_of(VALID)
    return sealed({**document, "content": {**document["content"], **changes}})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["a", "b"]}, "out of range"),
        ({"label_kind": "soft"}, "soft labels have shape"),
        ({"synthesis": "nowhere"}, "nowhere"),
        ({"synthesis": "builtins.eval"}, "builtins.eval"),
        ({"budget": {"images": 3, "decoded_images": 10**12, "floats": 1, "bytes": 1}}, "budget"),
        ({"preprocessing": {"mean": [0.5], "std": [0.0], "zca": False}}, "std"),
        ({"preprocessing": {"mean": [0.5], "std": [0.5], "zca": True}}, "lacks"),
        ({"preprocessing": {}}, "preprocessing"),
        ({"preprocessing": {"mean": [False], "std": [0.5], "zca": False}}, "preprocessing"),
        ({"extra": 1}, "schema"),
        ({"metadata": {"source": {"count": -1}}}, "source"),
        ({"metadata": {"notes": "x\ny" * 5000, "seed": "z" * 5000}}, "seed"),
    ],
)
def test_forged_content_is_refused(changes: dict[str, Any], message: str) -> None:
    refused(forged_content(**changes), message)


def test_tensors_that_nothing_refers_to_are_refused() -> None:
    tensors = safetensors.torch.load(VALID)
    refused(sealed(document_of(VALID), {**tensors, "payload": torch.zeros(1)}), "unknown tensor")
    refused(sealed(document_of(VALID), {**tensors, "preprocessing.zca_mean": torch.zeros(4)}), "unknown tensor")
    refused(sealed(document_of(VALID), {**tensors, "stored.more": torch.zeros(4)}), "images and labels")


def test_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    path = tmp_path / "set.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError):
        DistilledDataset.load(path)
    torch.save(Bomb(), path)
    with pytest.raises(ArtifactError):
        DistilledDataset.load(path)
    assert not (tmp_path / "exploded").exists()


def test_paths_that_are_no_artifact_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"there is no file 'distilled\.safetensors'"):
        DistilledDataset.load(tmp_path)
    with pytest.raises(ArtifactError, match="nowhere"):
        DistilledDataset.load(tmp_path / "nowhere")
    with pytest.raises(ArtifactError, match="regular file"):
        DistilledDataset.load("/dev/zero")
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ArtifactError, match="0 bytes"):
        DistilledDataset.load(tmp_path / "empty.safetensors")


def test_sparse_file_is_refused_by_its_header_alone(tmp_path: Path) -> None:
    path = tmp_path / "huge.safetensors"
    path.write_bytes(VALID)
    os.truncate(path, 2**36)
    with pytest.raises(ArtifactError, match="announces 72 bytes"):
        DistilledDataset.load(path)


def test_file_that_shrinks_while_it_is_read_is_refused() -> None:
    stream = io.BytesIO(VALID[:-10])
    with pytest.raises(ArtifactError, match=f"only {len(VALID) - 10} of {len(VALID)} bytes could be read"):
        container.unpack(stream, len(VALID), kind="ddkit.distilled-dataset", version=1)
