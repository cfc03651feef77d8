"""Do other tools read what an export wrote, and does the report say what was lost?"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.data.distilled.export import export, folder_names
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import CheckpointError, ConfigError, UnknownNameError


def make(channels: int = 3, images: torch.Tensor | None = None, **changes: Any) -> DistilledDataset:
    """Six images of 4x5 pixels, some of whose values lie outside [0, 1]."""
    if images is None:
        images = torch.randn(6, channels, 4, 5, generator=torch.Generator().manual_seed(0)) * 2
    preprocessing = Preprocessing(mean=(0.5,) * channels, std=(0.25,) * channels)
    arguments: dict[str, Any] = {
        "labels": torch.arange(6) % 3,
        "class_names": ("ape", "bee", "cat"),
        **changes,
    }
    return DistilledDataset(images, preprocessing=preprocessing, **arguments)


def make_coreset() -> DistilledDataset:
    return make(
        images=torch.randint(0, 256, (6, 3, 4, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    )


def make_soft() -> DistilledDataset:
    labels = torch.randn(6, 3, generator=torch.Generator().manual_seed(2)).softmax(1)
    return make(labels=labels, label_kind="soft")


def expected_pixels(distilled: DistilledDataset) -> torch.Tensor:
    return (distilled.viewable() * 255).round().to(torch.uint8)


def clipped_by_hand(distilled: DistilledDataset) -> float:
    values = [value * 0.25 + 0.5 for value in distilled.images.flatten().tolist()]
    return sum(not 0 <= value <= 1 for value in values) / len(values)


@pytest.mark.parametrize("channels", [1, 3])
def test_parquet_has_the_hugging_face_image_layout(channels: int, tmp_path: Path) -> None:
    distilled = make(channels)
    report = distilled.export(tmp_path / "out", "parquet")
    assert report.path == tmp_path / "out" / "train-00000-of-00001.parquet" and report.files == 1
    table = pq.read_table(report.path)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {
        "image": {"_type": "Image"},
        "label": {"names": ["ape", "bee", "cat"], "_type": "ClassLabel"},
    }
    assert table["label"].to_pylist() == distilled.labels.tolist()
    images = [Image.open(io.BytesIO(row["bytes"])) for row in table["image"].to_pylist()]
    assert {image.mode for image in images} == {"L" if channels == 1 else "RGB"}
    assert torch.equal(torch.stack([pil_to_tensor(image) for image in images]), expected_pixels(distilled))


def test_parquet_keeps_soft_labels_in_their_own_column(tmp_path: Path) -> None:
    distilled = make_soft()
    table = pq.read_table(distilled.export(tmp_path / "set.parquet", "parquet").path)
    assert torch.equal(torch.tensor(table["soft_label"].to_pylist()), distilled.labels)
    assert table["label"].to_pylist() == distilled.hard_labels().tolist()


def test_image_folder_is_read_by_torchvision(tmp_path: Path) -> None:
    distilled = make()
    report = distilled.export(tmp_path / "out", "imagefolder")
    dataset = ImageFolder(str(report.path), transform=pil_to_tensor)
    assert len(dataset) == report.files == 6 and dataset.classes == ["ape", "bee", "cat"]
    order = [int(Path(path).stem) for path, _ in dataset.samples]
    assert torch.equal(torch.stack([image for image, _ in dataset]), expected_pixels(distilled)[order])
    assert dataset.targets == distilled.labels[order].tolist()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize(
    "names",
    [
        ("b", "a", "c"),
        ("../up", "/etc/passwd", "a\\b"),
        ("", ".", ".."),
        ("CON", "nul.txt", "aux"),
        ("same", "same", "Same"),
        ("x" * 300, "x" * 300 + "y", "z\0z\n"),
    ],
)
def test_image_folder_keeps_class_numbers_whatever_the_names(names: tuple[str, ...], tmp_path: Path) -> None:
    distilled = make(class_names=names)
    report = distilled.export(tmp_path / "out", "imagefolder")
    dataset = ImageFolder(str(report.path))
    order = [int(Path(path).stem) for path, _ in dataset.samples]
    assert dataset.targets == distilled.labels[order].tolist()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out"]
    assert len({name.casefold() for name in dataset.classes}) == 3


def test_folder_names_are_the_class_names_where_those_are_safe_and_sorted() -> None:
    assert folder_names(("airplane", "automobile", "bird")) == ["airplane", "automobile", "bird"]
    assert folder_names(tuple(map(str, range(11))))[:2] == ["00-0", "01-1"]
    assert folder_names(("con", "größe")) == ["_con", "größe"]


def test_image_folder_tells_of_soft_labels_and_absent_classes(tmp_path: Path) -> None:
    report = make_soft().export(tmp_path / "soft", "imagefolder")
    assert report.lossy is not None and "soft labels were reduced" in report.lossy
    report = make(labels=torch.zeros(6, dtype=torch.int64)).export(tmp_path / "absent", "imagefolder")
    assert report.lossy is not None and "classes without images" in report.lossy


@pytest.mark.parametrize("build", [make, make_soft, make_coreset])
def test_npz_is_lossless_and_needs_no_pickle(build: Any, tmp_path: Path) -> None:
    distilled = build()
    report = distilled.export(tmp_path / "out", "npz")
    assert report.lossy is None and report.clipped_fraction == 0 and report.path == tmp_path / "out" / "distilled.npz"
    with np.load(report.path, allow_pickle=False) as arrays:
        assert arrays["images"].dtype == np.float32
        assert np.array_equal(arrays["images"], distilled.tensors()[0].numpy())
        assert np.array_equal(arrays["labels"], distilled.labels.numpy())
        assert arrays["mean"].tolist() == [0.5] * 3 and arrays["std"].tolist() == [0.25] * 3
        assert arrays["class_names"].tolist() == ["ape", "bee", "cat"]
        assert str(arrays["label_kind"]) == distilled.label_kind


def test_npz_carries_the_whitening(tmp_path: Path) -> None:
    real = torch.randint(0, 256, (40, 1, 3, 3), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    preprocessing = Preprocessing.fit(real, zca=True)
    distilled = DistilledDataset(
        torch.zeros(2, 1, 3, 3), torch.arange(2), class_names=("a", "b"), preprocessing=preprocessing
    )
    with np.load(distilled.export(tmp_path / "set.npz", "npz").path, allow_pickle=False) as arrays:
        for name, tensor in preprocessing.to_tensors().items():
            assert np.array_equal(arrays[name], tensor.numpy())


@pytest.mark.parametrize("format", ["parquet", "imagefolder"])
def test_eight_bit_exports_say_what_was_lost(format: str, tmp_path: Path) -> None:
    distilled = make()
    report = distilled.export(tmp_path / "floats", format)
    assert 0.2 < report.clipped_fraction == pytest.approx(clipped_by_hand(distilled))
    assert report.lossy is not None and f"{report.clipped_fraction:.1%}" in report.lossy
    report = make_coreset().export(tmp_path / "bytes", format)
    assert report.lossy is None and report.clipped_fraction == 0


def test_coreset_pixels_survive_exactly(tmp_path: Path) -> None:
    coreset = make_coreset()
    rows = pq.read_table(coreset.export(tmp_path / "a", "parquet").path)["image"].to_pylist()
    images = torch.stack([pil_to_tensor(Image.open(io.BytesIO(row["bytes"]))) for row in rows])
    assert torch.equal(images, coreset.images)


@pytest.mark.parametrize("format", ["parquet", "imagefolder", "npz"])
def test_nothing_is_overwritten(format: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "keep.txt").write_text("mine")
    (tmp_path / "file.npz").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    for name, message in (
        ("full", "not empty"),
        ("file.npz", "exists already"),
        ("dangling", "exists already"),
    ):
        with pytest.raises(ConfigError, match=message):
            make().export(tmp_path / name, format)
    assert (tmp_path / "file.npz").read_text() == "mine"
    assert [entry.name for entry in (tmp_path / "full").iterdir()] == ["keep.txt"]


@pytest.mark.parametrize("format", ["parquet", "imagefolder", "npz"])
def test_empty_folder_is_filled(format: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert make().export(tmp_path / "out", format).path.exists()


@pytest.mark.parametrize("format", ["parquet", "npz"])
def test_same_set_exports_to_the_same_bytes(format: str, tmp_path: Path) -> None:
    first, second = (make().export(tmp_path / name, format).path.read_bytes() for name in "ab")
    assert first == second


def test_full_disk_leaves_no_half_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def full(self: Path, data: bytes) -> int:
        written.append(self)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        make().export(tmp_path / "out", "imagefolder")
    assert list(tmp_path.iterdir()) == []


def test_images_without_png_form_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for format in ("parquet", "imagefolder"):
        with pytest.raises(ConfigError, match=r"4 channels.*npz"):
            make(4).export(tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []
    assert make(4).export(tmp_path / "out", "npz").path.exists()


def test_unknown_format_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'parquet'"):
        export(make(), tmp_path / "out", "parkett")


def test_repeated_class_names_become_distinct_in_parquet(tmp_path: Path) -> None:
    path = make(class_names=("same", "same", "other")).export(tmp_path / "out", "parquet").path
    features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert len(set(features["label"]["names"])) == 3


@pytest.mark.parametrize("format", ["parquet", "imagefolder", "npz"])
def test_what_no_export_holds_is_said(format: str, tmp_path: Path) -> None:
    images, labels = torch.zeros(6, 1, 8, 8), torch.arange(6) % 3
    decoded = DistilledDataset(
        images,
        labels,
        class_names=("ape", "bee", "cat"),
        preprocessing=Preprocessing(mean=(0.5,), std=(0.25,)),
        budget=Budget(images=6, decoded_images=6, floats=7, bytes=28),
        synthesis="codes",
        stored={"codes": torch.zeros(7)},
        metadata={"learned": {"lr": 0.0371}},
    )
    lossy = decoded.export(tmp_path / "out", format).lossy
    assert lossy is not None and "compact form (codes, 28 bytes)" in lossy and "lr=0.0371" in lossy


def test_pictures_say_that_they_are_not_whitened(tmp_path: Path) -> None:
    pixels = torch.randint(0, 256, (6, 3, 4, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    whitened = DistilledDataset(
        torch.zeros(6, 3, 4, 5),
        torch.arange(6) % 3,
        class_names=("ape", "bee", "cat"),
        preprocessing=Preprocessing.fit(pixels, zca=True),
    )
    assert "whitening" in (whitened.export(tmp_path / "a", "parquet").lossy or "")
    assert whitened.export(tmp_path / "b", "npz").lossy is None


@pytest.mark.parametrize("codec", ["uniform:bits=3", "palette:colours=4"])
def test_a_coded_set_is_one_picture_with_a_row_a_class(codec: str, tmp_path: Path) -> None:
    coded = make(labels=torch.tensor([2, 0, 2, 0, 2, 0]), class_names=("ape", "bee", "cat")).coded(codec)
    report = coded.export(tmp_path / "look.png", "sheet")
    picture = pil_to_tensor(Image.open(report.path))
    assert picture.shape == (3, 3 * 5 - 1, 3 * 6 - 1)
    pixels = expected_pixels(coded)
    for row, members in ((0, [1, 3, 5]), (2, [0, 2, 4])):
        for column, number in enumerate(members):
            tile = picture[:, 5 * row : 5 * row + 4, 6 * column : 6 * column + 5]
            assert torch.equal(tile, pixels[number])
    assert bool((picture[:, 5:9] == 255).all())  # no image of this class
    assert report.lossy is not None and "labels are the rows" in report.lossy
    assert coded.export(tmp_path / "folder", "sheet").path == tmp_path / "folder" / "distilled.png"
