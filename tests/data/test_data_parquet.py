"""Are Parquet files of images read as written, and damaged ones refused?"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ddkit.data import load, load_pair
from tests.data.image_files import channels_first, encoded, pixels, refused, write_parquet


def test_parquet_folder_is_read_across_files_and_row_groups(tmp_path: Path) -> None:
    images, names = pixels(20), ["cat", "dog"]
    labels = [i % 2 for i in range(20)]
    data = [encoded(image) for image in images]
    write_parquet(tmp_path / "train-00000-of-00002.parquet", data[:9], labels[:9], names=names)
    write_parquet(tmp_path / "train-00001-of-00002.parquet", data[9:15], labels[9:15], names=names)
    write_parquet(tmp_path / "test-00000-of-00001.parquet", data[15:], labels[15:], names=names)
    train, test = load_pair(tmp_path)
    assert torch.equal(train.images, channels_first(images[:15])) and train.labels.tolist() == labels[:15]
    assert torch.equal(test.images, channels_first(images[15:])) and test.labels.tolist() == labels[15:]
    assert train.class_names == ("cat", "dog") and test.preprocessing == train.preprocessing


@pytest.mark.parametrize(
    ("places", "columns"),
    [
        (("data/train-0.parquet", "data/validation-0.parquet"), ("img", "label")),
        (("train.parquet", "val.parquet"), ("image", "fine_label")),
        (("train/0000.parquet", "test/0000.parquet"), ("image", "labels")),
    ],
)
def test_usual_parquet_names_are_found(tmp_path: Path, places: tuple[str, str], columns: tuple[str, str]) -> None:
    for place, count in zip(places, (6, 2), strict=True):
        data = [encoded(image) for image in pixels(count)]
        write_parquet(tmp_path / place, data, [i % 2 for i in range(count)], columns=columns)
    train, test = load_pair(tmp_path)
    assert (len(train), len(test)) == (6, 2)


def test_lone_parquet_file_is_split_80_20(tmp_path: Path) -> None:
    images = pixels(1100, 4, 4, channels=1)
    labels = [i % 3 for i in range(1100)]
    path = write_parquet(tmp_path / "all.parquet", [encoded(i) for i in images], labels, row_group_size=700)
    train, test = load_pair(path)
    assert (len(train), len(test)) == (880, 220) and train.shape == (1, 4, 4)
    originals = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    found = [
        (image.numpy().tobytes(), int(label))
        for part in (train, test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert dict(found) == originals and len(found) == 1100


@pytest.mark.parametrize(
    ("labels", "names"),
    [([7, 3, 7, 10], ("3", "7", "10")), (["dog", "cat", "dog", "eel"], ("cat", "dog", "eel"))],
)
def test_labels_without_class_names_are_mapped(tmp_path: Path, labels: list, names: tuple[str, ...]) -> None:
    data = [encoded(image) for image in pixels(4)]
    write_parquet(tmp_path / "train.parquet", data, labels)
    write_parquet(tmp_path / "test.parquet", data[:1], labels[:1])
    train, test = load_pair(tmp_path)
    assert train.class_names == test.class_names == names
    assert train.labels.tolist() == [1, 0, 1, 2] and test.labels.tolist() == [1]
    write_parquet(tmp_path / "test.parquet", data[:1], [type(labels[0])("5")])
    refused("label '5' of .* is no class of the training split", lambda: load_pair(tmp_path))


def test_plain_bytes_and_dictionary_labels_are_read(tmp_path: Path) -> None:
    data = [encoded(image) for image in pixels(2)]
    table = pa.table({"image": pa.array(data), "label": pa.array(["b", "a"]).dictionary_encode()})
    pq.write_table(table, tmp_path / "train.parquet")
    assert load(tmp_path).labels.tolist() == [1, 0]


def test_bad_parquet_is_refused(tmp_path: Path) -> None:
    data = [encoded(image) for image in pixels(4)]
    path = tmp_path / "x.parquet"
    cases: list[tuple[str, list, list, dict]] = [
        ("no image column: name it image or img", data, [0, 1, 0, 1], {"columns": ("photo", "label")}),
        ("no label column", data, [0, 1, 0, 1], {"columns": ("image", "target")}),
        ("column 'image' of .* is int64", [1, 2, 3, 4], [0, 1, 0, 1], {}),
        ("rows without image bytes", [*data[:3], {"bytes": None, "path": "x"}], [0, 1, 0, 1], {}),
        ("is double or has nulls", data, [0.5, 1.0, 0.0, 1.0], {}),
        ("is int64 or has nulls", data, [0, None, 0, 1], {}),
        ("labels from -1 to 1 but 2 class names", data, [0, -1, 0, 1], {"names": ["a", "b"]}),
        ("labels from 0 to 2 but 2 class names", data, [0, 2, 0, 1], {"names": ["a", "b"]}),
        (r"class 2 \('c'\) has no image", data * 3, [0, 1] * 6, {"names": ["a", "b", "c"]}),
        ("cannot decode image '.*, row", [*data[:3], b"junk"] * 3, [0, 1] * 6, {}),
    ]
    for message, images, labels, options in cases:
        write_parquet(path, images, labels, **options)
        refused(message, lambda: load(path))
    pq.write_table(pq.read_table(write_parquet(path, data, [0, 1, 0, 1])).slice(0, 0), path)
    refused("has no rows", lambda: load(path))


def test_damaged_parquet_is_refused_naming_the_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", [encoded(i) for i in pixels(40)], [i % 2 for i in range(40)])
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[: len(whole) // 2], b"x" * len(whole)):
        path.write_bytes(content)
        refused(r"cannot read Parquet file '.*train\.parquet'", lambda: load(path.parent))
    path.write_bytes(whole[:200] + bytes(800) + whole[1000:])
    refused("train.parquet", lambda: load(path.parent))


def test_absent_parquet_split_is_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [encoded(i) for i in pixels(4)], [0, 1, 0, 1])
    refused(r"has no files 'test-\*\.parquet': it has train\.parquet", lambda: load_pair(tmp_path))


def test_a_thousand_unbalanced_classes_are_read(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "train.parquet",
        [encoded(image) for image in pixels(1200, 8, 8)],
        [*range(1000), *[3] * 200],
        names=[f"class {n}" for n in range(1000)],
        row_group_size=500,
    )
    real = load(path.parent)
    assert real.num_classes == 1000 and real.class_counts[3] == 201 and len(real) == 1200
