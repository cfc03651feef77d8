"""Are Parquet files of images read as written, and damaged ones refused?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ddkit.data import load, load_pair
from tests.data.image_files import channels_first, encoded, pixels, refused, write_folder, write_parquet


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


def write_split(path: Path, count: int, seed: int = 0, **options: Any) -> Path:
    data = [encoded(image) for image in pixels(count, seed=seed)]
    return write_parquet(path, data, [i % 2 for i in range(count)], **options)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("digits_train.parquet", "digits_test.parquet"),
        ("Train.parquet", "TEST.PARQUET"),
        ("data/train-00000.parquet", "data/test-00000.parquet"),
        ("training/0.parquet", "Testing/0.parquet"),
        ("train.parquet", "test/0.parquet"),
        ("plain/train/0000.parquet", "plain/test/0000.parquet"),
        ("seg_train.parquet", "seg_dev.parquet"),
    ],
)
def test_splits_in_names_of_files_and_folders_are_kept(tmp_path: Path, train: str, test: str) -> None:
    write_split(tmp_path / train, 10)
    write_split(tmp_path / test, 4, seed=1)
    assert [len(part) for part in load_pair(tmp_path)] == [10, 4]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["digits_train.parquet", "rest.parquet"], "'digits_train.parquet', which names a split, and 'rest.parquet'"),
        (["test-0.parquet"], "has no files 'train-*"),
        (["fine/train-0.parquet", "coarse/train-0.parquet"], "Parquet files of several sets: name one of .*coarse"),
        (["a/0.parquet", "b/0.parquet"], "Parquet files of several sets"),
        (["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"], "has 2 of the 3 files 'train-"),
        (["train.parquet", "dev.parquet", "val.parquet"], "has 'dev.parquet', 'val.parquet' but no test split"),
    ],
)
def test_files_without_a_certain_place_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    for number, name in enumerate(names):
        write_split(tmp_path / name, 6, seed=number)
    refused(message, lambda: load_pair(tmp_path))


def test_parts_beside_the_splits_are_read_when_asked_for(tmp_path: Path) -> None:
    for number, name in enumerate(("train", "test", "extra")):
        write_split(tmp_path / f"{name}-00000-of-00001.parquet", 6 - 2 * number, seed=number)
    assert [len(part) for part in load_pair(tmp_path)] == [6, 4] and len(load(tmp_path, "extra")) == 2


def test_files_that_name_no_split_are_one_set_with_a_word(tmp_path: Path) -> None:
    for number in range(2):
        write_split(tmp_path / f"{number}.parquet", 10, seed=number)
    with pytest.warns(UserWarning, match=r"16 of its 20 images, 80 %, .*train-\*.parquet and test-\*.parquet"):
        assert len(load(tmp_path)) == 16


def test_files_of_one_set_must_agree(tmp_path: Path) -> None:
    write_split(tmp_path / "train-0.parquet", 6, names=["a", "b"])
    write_split(tmp_path / "train-1.parquet", 6, seed=1, names=["b", "a"])
    refused("differ in class names", lambda: load(tmp_path))
    write_split(tmp_path / "train-1.parquet", 6, seed=1, columns=("img", "label"))
    refused("differ in image", lambda: load(tmp_path))
    write_parquet(tmp_path / "train-1.parquet", [encoded(i) for i in pixels(2, seed=1)], ["a", "b"])
    refused(r"differ in kind \(integers and strings\)", lambda: load(tmp_path))
    (tmp_path / "train-1.parquet").unlink()
    write_split(tmp_path / "test-0.parquet", 6, seed=1, names=["b", "a"])
    refused("differ in class names", lambda: load(tmp_path, "test"))
    write_split(tmp_path / "test-0.parquet", 6, seed=1)
    assert load(tmp_path, "test").class_names == ("a", "b")


def test_doubtful_columns_are_refused_or_said(tmp_path: Path) -> None:
    rows = [{"bytes": encoded(image)} for image in pixels(6)]
    labels, coarse = [0, 1] * 3, [0, 0, 0, 1, 1, 1]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": rows, "label": labels, "fine_label": coarse}), path)
    refused("several label columns, label, fine_label: keep the one", lambda: load(tmp_path))
    pq.write_table(pa.table({"image": rows, "img": rows, "label": labels}), path)
    refused("several image columns, image, img", lambda: load(tmp_path))
    pq.write_table(pa.table({"img": rows, "fine_label": labels, "coarse_label": coarse}), path)
    with pytest.warns(UserWarning, match="labels are taken from 'fine_label', not from 'coarse_label'"):
        assert load(tmp_path).labels.tolist() == labels


@pytest.mark.parametrize("text", ["[" * 100_000, '{"info": ', "\u00ff", '{"a": 1} x'])
def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    table = pq.read_table(write_split(tmp_path / "train.parquet", 6))
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), tmp_path / "train.parquet")
    refused("metadata 'huggingface' of .* cannot be read", lambda: load(tmp_path))


def test_labels_that_mean_none_and_texts_without_end_are_refused(tmp_path: Path) -> None:
    data = [encoded(image) for image in pixels(6)]
    write_parquet(tmp_path / "train.parquet", data, [0, 1, -1] * 2)
    refused("has the label -1, which marks images without one", lambda: load(tmp_path))
    write_parquet(tmp_path / "train.parquet", data, ["a", "b" * 1001, "c"] * 2)
    refused("a label of .* has 1001 letters", lambda: load(tmp_path))
    write_parquet(tmp_path / "train.parquet", data, ["a", None, "c"] * 2)
    refused("or has nulls", lambda: load(tmp_path))


def test_a_name_that_is_not_text_and_rows_that_are_not_there_are_refused(tmp_path: Path) -> None:
    path = write_split(tmp_path / "train.parquet", 6)
    table = pq.read_table(path)
    pq.write_table(table, path, compression="none", store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"label", b"lab\xf3l"))
    refused("cannot read Parquet file '.*train.parquet'", lambda: load(path))
    many = pa.table({"image": pa.array([b"x"] * 100_000).dictionary_encode(), "label": pa.array([1] * 100_000)})
    pq.write_table(many, path, compression="zstd", row_group_size=100_000)
    refused("claims 100000 rows, more than it has bytes", lambda: load(path))


def test_a_few_large_rows_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load(write_split(tmp_path / "train.parquet", 20, row_group_size=20).parent).images
    monkeypatch.setattr("ddkit.data.parquet._CHUNK_BYTES", 1000)
    assert torch.equal(load(tmp_path).images, expected)


def test_images_beside_parquet_files_are_said(tmp_path: Path) -> None:
    write_split(tmp_path / "train.parquet", 6)
    write_folder(tmp_path, {"assets": pixels(1)})
    with pytest.warns(UserWarning, match="Parquet files, which are read, and images, which are left out"):
        assert len(load(tmp_path)) == 6
