"""A coded set is what its file decodes to, in far fewer bytes; uncoded sets are written as before."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ddkit import DistilledDataset, evaluate
from ddkit.base import container
from ddkit.cli import main
from ddkit.data.distilled.coding import Coding
from ddkit.errors import ArtifactError, ConfigError, DDKitError, UnknownNameError
from ddkit.testing.small import fit_small, toy_data

METHODS = ["dm", "idc", "haba", "rtp", "kfs", "gtn", "itgan", "ld", "frepo", "random"]
CODECS = ["float32", "float16", "uniform:bits=4", "uniform:bits=2,group=image", "dct:step=0.3"]


@pytest.fixture(scope="module")
def sets() -> dict[str, DistilledDataset]:
    return {method: fit_small(method, {}) for method in METHODS}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("method", METHODS)
def test_coded_set_is_what_its_file_decodes_to(method: str, codec: str, sets: Any, tmp_path: Path) -> None:
    plain = sets[method]
    coded = plain.coded(codec)
    loaded = DistilledDataset.load(coded.save(tmp_path))
    assert torch.equal(loaded.images, coded.images) and torch.equal(loaded.labels, coded.labels)
    assert loaded.to_bytes() == coded.to_bytes() and loaded.coding is not None and loaded.coding.codec == codec
    assert loaded.budget.bytes == loaded.coding.nbytes == sum(part.nbytes for part in loaded.coding.parts().values())
    assert (loaded.label_kind, loaded.class_names, loaded.metadata) == (
        plain.label_kind,
        plain.class_names,
        plain.metadata,
    )
    if codec == "float32" and plain.label_kind == "hard":
        assert torch.equal(coded.tensors()[0], plain.tensors()[0]) and torch.equal(coded.labels, plain.labels)
    if codec.startswith("uniform") and method not in ("itgan", "haba", "kfs", "rtp"):
        assert coded.budget.bytes < plain.tensors()[0].nbytes / 4
    if plain.label_kind == "soft":
        assert float((coded.labels - plain.labels).abs().max()) < 0.02


def test_uncoded_sets_are_written_as_format_1(sets: Any) -> None:
    raw = sets["dm"].to_bytes()
    assert b'\\"format_version\\":1' in raw[:10_000] and b"codec" not in raw[:10_000].replace(b"codecs", b"")
    assert b'\\"format_version\\":2' in sets["dm"].coded("float16").to_bytes()[:10_000]


def test_labels_in_order_cost_nothing_and_others_few_bits() -> None:
    plain = fit_small("random", {})
    assert not plain.coded("uniform:bits=8").coding.tensors["labels"].parts  # type: ignore[union-attr]
    index = torch.tensor([5, 0, 3, 1, 4, 2])
    mixed = DistilledDataset(
        plain.images[index], plain.labels[index], class_names=plain.class_names, preprocessing=plain.preprocessing
    )
    coded = mixed.coded("uniform:bits=8")
    assert torch.equal(coded.labels, mixed.labels)
    assert coded.coding is not None and coded.coding.tensors["labels"].nbytes == 2  # six labels of two bits


def test_networks_train_on_a_coded_set(sets: Any) -> None:
    result = evaluate(sets["dm"].coded("uniform:bits=3"), toy_data(seed=1, split="test"), repeats=1)
    assert result.rows[0].mean > 0.6


def test_changed_images_are_not_written_under_the_old_code(sets: Any) -> None:
    coded = sets["dm"].coded("uniform:bits=3")
    coded.images[0, 0, 0, 0] += 1
    with pytest.raises(ArtifactError, match="changed after they were coded"):
        coded.to_bytes()


@pytest.mark.parametrize(
    ("codec", "error", "words"),
    [
        ("uniform:bits=9", ConfigError, r"codec\.bits=9 must lie in \[1, 8\]"),
        ("uniform:bit=3", UnknownNameError, "unknown option of codec 'uniform' 'bit'"),
        ("uniform:bits=many", ConfigError, "bad option of codec 'uniform'"),
        ("jpeg", UnknownNameError, "unknown codec 'jpeg'"),
        ("palette", ConfigError, "codec palette is for images of several channels"),
        ("uniform:bits=3,coder=zip", UnknownNameError, "unknown coder 'zip'"),
        ("uniform:", ConfigError, "ends in a colon"),
    ],
)
def test_codecs_that_make_no_sense_are_refused(codec: str, error: type[DDKitError], words: str, sets: Any) -> None:
    with pytest.raises(error, match=words):
        sets["dm"].coded(codec)


def hostile(coded: DistilledDataset) -> dict[str, bytes]:
    """Return files that are packed as they should be, and whose content makes no sense."""
    coding = coded.coding
    assert isinstance(coding, Coding)
    raw = coded.to_bytes()
    content, tensors = container.unpack(io.BytesIO(raw), len(raw), kind="ddkit.distilled-dataset", version=2)

    def packed(change: Any, tensors: Any = tensors, version: int = 2) -> bytes:
        return container.pack(tensors, {**content, **change}, kind="ddkit.distilled-dataset", version=version)

    entries = content["codec"]["tensors"]

    def entry(**change: Any) -> bytes:
        return packed({"codec": {"name": "x", "tensors": {**entries, "images": {**entries["images"], **change}}}})

    return {
        "no codec": packed({"codec": None}),
        "codec of no tensors": packed({"codec": {"name": "x", "tensors": {}}}),
        "codec as text": packed({"codec": "uniform"}),
        "unknown kind": entry(kind="jpeg"),
        "kind as list": entry(kind=["uniform"]),
        "large shape": entry(shape=[2**30, 1, 2**30, 1]),
        "other shape": entry(shape=[6, 1, 9, 8]),
        "no shape": entry(shape=None),
        "nine bits": entry(bits=9),
        "other coder": entry(coder="pickle"),
        "counts": packed(
            {"codec": {"name": "x", "tensors": {**entries, "labels": {**entries["labels"], "counts": [9]}}}}
        ),
        "labels as images": packed({"codec": {"name": "x", "tensors": {**entries, "labels": entries["images"]}}}),
        "strange tensor": packed({}, {**tensors, "coded.masks.symbols": torch.ones(3)}),
        "stored as well": packed({}, {**tensors, "stored.images": torch.ones(6, 1, 8, 8)}),
        "part missing": packed({}, {k: v for k, v in tensors.items() if k != "coded.images.low"}),
        "negative step": packed({}, {**tensors, "coded.images.step": -tensors["coded.images.step"]}),
        "cut symbols": packed({}, {**tensors, "coded.images.symbols": tensors["coded.images.symbols"][:-2].clone()}),
        "format 1": packed({}, version=1),
    }


def test_hostile_coded_files_end_in_one_line(sets: Any) -> None:
    for name, raw in hostile(sets["dm"].coded("uniform:bits=3")).items():
        if name == "format 1":
            assert DistilledDataset.from_bytes(raw).coding is not None
            continue
        with pytest.raises(ArtifactError) as met:
            DistilledDataset.from_bytes(raw)
        assert "\n" not in str(met.value) and len(str(met.value)) <= 600, name


def test_command_writes_a_coded_file_once(sets: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets["dm"].save(tmp_path)
    main(["encode", str(tmp_path), "--codec", "uniform:bits=3", "--json"])
    said = json.loads(capsys.readouterr().out)
    coded = DistilledDataset.load(tmp_path / "coded.safetensors")
    assert said["bytes"] == coded.budget.bytes < said["bytes_before"] / 6 and said["file"] > said["bytes"]
    assert coded.metadata["method"] == "dm"
    with pytest.raises(SystemExit):
        main(["encode", str(tmp_path), "--codec", "uniform:bits=3"])
    assert "coded.safetensors' exists: choose another --out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["encode", str(tmp_path), "--codec", "unifrom:bits=3", "--out", str(tmp_path / "b.safetensors")])
    assert "did you mean 'uniform'" in capsys.readouterr().err and not (tmp_path / "b.safetensors").exists()
