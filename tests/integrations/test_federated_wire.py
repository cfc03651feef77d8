"""Does a set survive the wire, and is every bad payload refused before anything is allocated?"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib import format as npy_format

from ddkit.base import container
from ddkit.data import Preprocessing
from ddkit.data.distilled.dataset import FORMAT, FORMAT_VERSION, DistilledDataset
from ddkit.errors import ConfigError, DDKitError, UnknownNameError
from ddkit.integrations.federated import Limits, PayloadError
from ddkit.integrations.federated.flower import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from ddkit.integrations.federated.npy import read_array
from ddkit.integrations.federated.traffic import content_bytes
from ddkit.integrations.federated.weights import arrays_to_weights, load_arrays, weights_to_arrays
from ddkit.integrations.federated.wire import bytes_of, pack, unpack
from tests.integrations.federated_small import DATA, TASK

LIMITS = Limits(TASK, 10_000, 4)


def make(kind: str = "hard", images: torch.Tensor | None = None) -> DistilledDataset:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(6, 1, 8, 8, generator=generator) if images is None else images
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    soft = torch.rand(6, 3, generator=generator).softmax(dim=1)
    return DistilledDataset(
        TASK.preprocessing.apply(pixels),
        labels if kind == "hard" else soft,
        label_kind=kind,  # type: ignore[arg-type]
        class_names=TASK.class_names,
        preprocessing=TASK.preprocessing,
    )


def good() -> RecordDict:
    return pack(make(), [5, 6, 7])


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("wire, error", [("uint8", 1 / 510 + 1e-6), ("float16", 1e-3), ("float32", 1e-6)])
def test_a_set_arrives_up_to_the_rounding_of_its_format(kind: str, wire: Any, error: float) -> None:
    sent = make(kind)
    got = unpack(pack(sent, [5, 6, 7], wire), LIMITS)
    assert got.counts == (5, 6, 7) and got.distilled.label_kind == kind
    assert float((got.distilled.unclipped() - sent.unclipped()).abs().max()) <= error
    assert torch.allclose(got.distilled.labels.float(), sent.labels.float(), atol=1e-3)
    assert got.distilled.preprocessing == TASK.preprocessing


def test_bytes_are_those_of_images_labels_and_headers() -> None:
    content = good()
    assert content_bytes(content) == sum(record.count_bytes() for record in content.values())
    raw = 6 * 64 + 6
    assert raw < content_bytes(content) < raw + 400


def test_floats_beyond_the_range_of_pixels_are_clipped_as_bytes_and_kept_as_floats() -> None:
    bright = torch.full((6, 1, 8, 8), 1.5)
    assert float(unpack(pack(make(images=bright), [5] * 3, "float32"), LIMITS).distilled.unclipped().max()) > 1.49
    assert float(unpack(pack(make(images=bright), [5] * 3), LIMITS).distilled.unclipped().max()) <= 1.0


CODED = "coded:uniform:bits=3"


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_coded_set_arrives_as_it_decodes_class_by_class_in_counted_bytes(kind: str) -> None:
    sent = make(kind)
    content = pack(sent, [5, 6, 7], CODED)
    got = unpack(content, LIMITS).distilled
    raw = bytes(read_array(content.array_records["distilled"]["file"].data, ("uint8",), (None,), "file"))
    file = DistilledDataset.from_bytes(raw)
    assert (
        file.coding is not None and file.coding.codec == "uniform:bits=3" and not set(file.metadata) - {"ddkit_version"}
    )
    assert torch.equal(got.tensors()[0], TASK.preprocessing.apply(file.images)) and got.label_kind == kind
    far = (got.unclipped() - sent.unclipped()[sent.hard_labels().argsort(stable=True)]).abs().max()
    assert 0 < float(far) <= 1 / 14 + 1e-3  # half a step of seven
    assert len(raw) < content_bytes(content) < len(raw) + 300
    assert (file.budget.payload or 0) < (6 * 64 + 6) / 2 or kind == "soft"


def file_of(distilled: DistilledDataset, codec: str | None = "uniform:bits=3") -> RecordDict:
    """Return a reply with the file of any set."""
    held = distilled if codec is None else distilled.coded(codec)
    return sent_file(held.to_bytes())


def sent_file(raw: bytes) -> RecordDict:
    content = good()
    content["distilled"] = ArrayRecord({"file": Array(np.frombuffer(raw, np.uint8))})
    return content


def pixel_set(shape: tuple[int, ...] = (6, 1, 8, 8), classes: int = 3, **more: Any) -> DistilledDataset:
    labels = more.pop("labels", torch.arange(classes).repeat_interleave(shape[0] // classes))
    return DistilledDataset(
        more.pop("images", torch.rand(shape)),
        labels,
        class_names=[str(number) for number in range(classes)],
        preprocessing=more.pop("preprocessing", Preprocessing.identity(shape[1])),
        **more,
    )


def changed_entry(**changes: Any) -> RecordDict:
    """Return a reply with a file whose entry of the images lies, under a correct checksum."""
    raw = pixel_set().coded("uniform:bits=3,coder=zlib").to_bytes()
    content, tensors = container.unpack(io.BytesIO(raw), len(raw), kind=FORMAT, version=FORMAT_VERSION)
    content["codec"]["tensors"]["images"].update(changes)
    return sent_file(container.pack(tensors, content, kind=FORMAT, version=FORMAT_VERSION))


BAD_FILES: dict[str, tuple[Any, str]] = {
    "no file": (lambda: sent_file(b"nonsense"), "file is no coded set"),
    "a file and images": (
        lambda: replaced("arrays", "file", Array(np.zeros(9, np.uint8))),
        "exactly images and targets, or file",
    ),
    "an uncoded set": (lambda: file_of(pixel_set(), None), "file is no coded set: send one of coded:CODEC"),
    "truncated": (lambda: sent_file(pixel_set().coded("uniform:bits=3").to_bytes()[:-5]), "truncated"),
    "oversized": (lambda: file_of(pixel_set((90, 1, 8, 8)), "float32"), "max_bytes"),
    "more images than allowed": (lambda: file_of(pixel_set((15, 1, 8, 8))), "announces 15 images .* at most 12"),
    "more images of a class": (
        lambda: file_of(pixel_set(labels=torch.tensor([0, 0, 0, 0, 0, 1]))),
        "5 images of class 0: at most max_ipc=4",
    ),
    "other images": (lambda: file_of(pixel_set((6, 1, 9, 8))), r"expected images \(N, 1, 8, 8\)"),
    "other classes": (lambda: file_of(pixel_set(classes=2)), "2 classes"),
    "a million announced": (lambda: changed_entry(shape=[10**6, 1, 8, 8]), "announces 1000000 images"),
    "more symbols announced": (lambda: changed_entry(shape=[7, 1, 8, 8]), "announces 7 images"),
    "symbols that do not fill": (lambda: changed_entry(bits=4), "bytes of symbols were announced"),
    "an unknown codec": (lambda: changed_entry(kind="mine"), "no installed package registers codec 'mine'"),
    "another scale": (
        lambda: file_of(pixel_set(preprocessing=Preprocessing((0.5,), (0.5,)))),
        "on the scale of pixels",
    ),
    "regression rows": (
        lambda: file_of(pixel_set(labels=torch.randn(6, 3), label_kind="regression")),
        "regression labels",
    ),
    "pixels far away": (lambda: file_of(pixel_set(images=torch.rand(6, 1, 8, 8) * 9)), "allowed is -1.0 to 2.0"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_coded_file_is_refused_with_its_reason(case: str) -> None:
    build, words = BAD_FILES[case]
    with pytest.raises(PayloadError, match=words):
        unpack(build(), LIMITS)


def test_what_a_file_announces_is_checked_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("decoded before the check")

    monkeypatch.setattr(DistilledDataset, "from_bytes", decoded)
    with pytest.raises(PayloadError, match="announces 1000000 images"):
        unpack(changed_entry(shape=[10**6, 1, 8, 8]), LIMITS)


@pytest.mark.parametrize(
    ("wire", "words"),
    [
        ("coded:uniforn", "did you mean 'uniform'"),
        ("coded:uniform:bits=0", r"codec.bits=0 must lie in \[1, 8\]"),
        ("coded:palette", "palette is for images of several channels"),
    ],
)
def test_a_codec_that_cannot_be_sent_is_refused(wire: str, words: str) -> None:
    with pytest.raises(DDKitError, match=words):
        pack(make(), [5, 6, 7], wire)


def npy(header: str, payload: bytes = b"") -> bytes:
    padded = header + " " * (64 - (len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("latin1") + payload


def array(data: bytes, stype: str = "numpy.ndarray") -> Array:
    return Array("uint8", (1,), stype, data)


def saved(values: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values, **how)
    return stream.getvalue()


def replaced(record: str, key: str, value: Any) -> RecordDict:
    content = good()
    if record == "arrays":
        content["distilled"][key] = value  # type: ignore[index]
    else:
        content["metrics"][key] = value  # type: ignore[index]
    return content


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (549755813888, 1, 8, 8), }"
IMAGES = np.zeros((6, 1, 8, 8), np.uint8)
PIXELS = (6, 1, 8, 8)
BAD: dict[str, tuple[Any, str]] = {
    "no set": (lambda: RecordDict({"metrics": MetricRecord({"num-examples": 1})}), "records"),
    "a record more": (lambda: RecordDict({**good(), "more": ConfigRecord({"a": 1})}), "records"),
    "another kind": (lambda: RecordDict({"distilled": ConfigRecord(), "metrics": MetricRecord()}), "records"),
    "an array more": (lambda: replaced("arrays", "weights", Array(IMAGES)), "exactly images and targets"),
    "another serialisation": (lambda: replaced("arrays", "images", array(b"x", "pickle")), "numpy.ndarray"),
    "oversized": (lambda: replaced("arrays", "images", Array(np.zeros((99, 1, 8, 8), np.float32))), "max_bytes"),
    "a declared size of 32 TiB": (lambda: replaced("arrays", "images", array(npy(HUGE, b"x" * 10))), "declares"),
    "truncated": (lambda: replaced("arrays", "images", array(saved(IMAGES)[:-5])), "declares 384 bytes and brings 379"),
    "bytes after the end": (lambda: replaced("arrays", "images", array(saved(IMAGES) + b"x")), "brings 385"),
    "no array": (lambda: replaced("arrays", "images", array(b"nonsense")), "not a .npy array"),
    "empty bytes": (lambda: replaced("arrays", "images", array(b"")), "not a .npy array"),
    "a pickle": (lambda: replaced("arrays", "images", array(pickle.dumps(IMAGES))), "not a .npy array"),
    "objects": (
        lambda: replaced("arrays", "images", array(saved(np.array([{}]), allow_pickle=True))),
        "dtype object",
    ),
    "doubles": (lambda: replaced("arrays", "images", Array(IMAGES.astype(np.float64))), "dtype float64"),
    "big endian": (lambda: replaced("arrays", "images", Array(IMAGES.astype(">f4"))), "dtype >f4"),
    "column order": (
        lambda: replaced("arrays", "images", Array(np.asfortranarray(IMAGES))),
        "C",
    ),
    "another rank": (lambda: replaced("arrays", "images", Array(IMAGES[:, 0])), "shape"),
    "another size": (lambda: replaced("arrays", "images", Array(np.zeros((6, 1, 9, 8), np.uint8))), "shape"),
    "no images": (lambda: replaced("arrays", "images", Array(IMAGES[:0])), "shape"),
    "a negative length": (
        lambda: replaced("arrays", "images", array(npy(HUGE.replace("549755813888", "-6")))),
        "shape",
    ),
    "a header of code": (lambda: replaced("arrays", "images", array(npy("__import__('os').abort()"))), "not a .npy"),
    "a header without end": (lambda: replaced("arrays", "images", array(npy("(" * 5000))), "not a .npy"),
    "fewer targets": (lambda: replaced("arrays", "targets", Array(np.zeros(5, np.uint8))), "targets has shape"),
    "a label out of range": (lambda: replaced("arrays", "targets", Array(np.full(6, 3, np.uint8))), "label 3"),
    "signed labels": (lambda: replaced("arrays", "targets", Array(np.full(6, -1, np.int64))), "dtype int64"),
    "all of one class": (lambda: replaced("arrays", "targets", Array(np.zeros(6, np.uint8))), "max_ipc=4"),
    "no probabilities": (
        lambda: replaced("arrays", "targets", Array(np.full((6, 3), 0.5, np.float16))),
        "misses the sum of 1",
    ),
    "negative rows": (
        lambda: replaced("arrays", "targets", Array(np.array([[2, -1, 0]] * 6, np.float16))),
        "negative",
    ),
    "NaN rows": (lambda: replaced("arrays", "targets", Array(np.full((6, 3), np.nan, np.float32))), "NaN"),
    "rows of other classes": (lambda: replaced("arrays", "targets", Array(np.full((6, 2), 0.5, np.float16))), "shape"),
    "NaN pixels": (
        lambda: replaced("arrays", "images", Array(np.full(PIXELS, np.nan, np.float16))),
        "range from",
    ),
    "infinite pixels": (
        lambda: replaced("arrays", "images", Array(np.full(PIXELS, np.inf, np.float32))),
        "range",
    ),
    "pixels far away": (
        lambda: replaced("arrays", "images", Array(np.full(PIXELS, 9, np.float32))),
        "allowed is",
    ),
    "no counts": (lambda: replaced("metrics", "class-counts", 3), "class-counts"),
    "counts of other classes": (lambda: replaced("metrics", "class-counts", [1, 2]), "class-counts"),
    "negative counts": (lambda: replaced("metrics", "class-counts", [5, -1, 5]), "whole numbers"),
    "NaN counts": (lambda: replaced("metrics", "class-counts", [5.0, float("nan"), 5.0]), "whole numbers"),
    "boundless counts": (lambda: replaced("metrics", "class-counts", [2**62, 5, 5]), "whole numbers"),
    "images of a class it lacks": (lambda: replaced("metrics", "class-counts", [0, 5, 5]), "claims to have none"),
    "examples that do not add up": (lambda: replaced("metrics", "num-examples", 2**50), "not the sum"),
    "examples that are no number": (lambda: replaced("metrics", "num-examples", float("nan")), "not the sum"),
    "negative infinite pixels": (
        lambda: replaced("arrays", "images", Array(np.full(PIXELS, -np.inf, np.float16))),
        "range",
    ),
    "structured numbers": (
        lambda: replaced("arrays", "images", array(saved(np.zeros(6, [("a", "u1", (1, 8, 8))])))),
        "dtype",
    ),
    "a length beyond all integers": (
        lambda: replaced("arrays", "images", array(npy(HUGE.replace("549755813888", "9" * 400)))),
        "declares",
    ),
    "a metric more": (lambda: replaced("metrics", "loss", 0.1), "exactly"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_payload_is_refused_with_its_reason(case: str) -> None:
    build, words = BAD[case]
    with pytest.raises(PayloadError, match=words):
        unpack(build(), LIMITS)


def test_nothing_is_allocated_for_a_declared_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def allocate(*_: object, **__: object) -> None:
        raise AssertionError("allocated before the check")

    for name in ("load", "empty", "ndarray", "frombuffer", "fromfile"):
        monkeypatch.setattr(np, name, allocate)
    with pytest.raises(PayloadError, match="declares"):
        read_array(npy(HUGE, b"x"), ("uint8",), (None, 1, 8, 8), "images")


def test_a_later_format_version_is_refused() -> None:
    stream = io.BytesIO()
    npy_format.write_array(stream, IMAGES, version=(2, 0))
    with pytest.raises(PayloadError, match="version"):
        read_array(stream.getvalue(), ("uint8",), (None, 1, 8, 8), "images")


def test_labels_that_are_no_probabilities_are_not_sent() -> None:
    rows = DistilledDataset(
        torch.zeros(3, 1, 8, 8),
        torch.full((3, 3), 5.0),
        label_kind="regression",
        class_names=TASK.class_names,
        preprocessing=TASK.preprocessing,
    )
    with pytest.raises(ConfigError, match="regression"):
        pack(rows, [1, 1, 1])


def test_an_unknown_wire_format_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'uint8'"):
        pack(make(), [1] * 3, "uint9")  # type: ignore[arg-type]


@pytest.mark.parametrize("text, size", [(2_000_000, 2_000_000), ("2MB", 2_000_000), ("1.5 kb", 1500), ("7", 7)])
def test_sizes_are_read(text: int | str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["2 parsecs", "", 0, -5, "-1MB"])
def test_sizes_that_are_none_are_refused(text: int | str) -> None:
    with pytest.raises(ConfigError, match="bytes"):
        bytes_of(text)


def test_weights_travel_and_other_ones_are_refused() -> None:
    module, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    load_arrays(weights_to_arrays(module), other)
    assert torch.equal(module.weight, other.weight)
    with pytest.raises(PayloadError, match="same model"):
        load_arrays(weights_to_arrays(torch.nn.PReLU()), other)
    with pytest.raises(PayloadError, match="shape"):
        load_arrays(weights_to_arrays(torch.nn.Linear(4, 2)), other)
    torch.nn.init.constant_(module.bias, float("nan"))
    with pytest.raises(PayloadError, match="bias holds NaN"):
        load_arrays(weights_to_arrays(module), other)


def test_weights_that_are_finite_only_as_doubles_are_refused() -> None:
    module = torch.nn.Linear(3, 2)
    arrays = weights_to_arrays(module)
    arrays["bias"] = Array(np.full(2, 1e300))
    with pytest.raises(PayloadError, match="bias holds NaN or infinity"):
        arrays_to_weights(arrays, module)


def test_bfloat16_weights_travel_as_float32() -> None:
    module = torch.nn.Linear(3, 2).bfloat16()
    arrays = weights_to_arrays(module)
    assert arrays["weight"].dtype == "float32"
    assert arrays_to_weights(arrays, module)["weight"].dtype == torch.bfloat16


def test_counters_of_batch_norm_survive_an_average() -> None:
    module = torch.nn.BatchNorm2d(2)
    arrays = weights_to_arrays(module)
    averaged = ArrayRecord({name: Array(np.asarray(value.numpy() * 1.0)) for name, value in arrays.items()})
    assert int(arrays_to_weights(averaged, module)["num_batches_tracked"]) == 0


def test_the_data_of_the_tests_have_the_classes_of_the_task() -> None:
    assert TASK.require(DATA).num_classes == 3
