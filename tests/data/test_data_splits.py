"""Are splits told from classes, whatever the folders are called, and a tree that can be read in two ways refused?"""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from ddkit.data import load, load_pair
from ddkit.data.split_names import is_division, split_named, splits_among
from tests.data.image_files import pixels, refused, write_folder


def write_classes(root: Path, names: str | list[str] = "ab", count: int = 5, seed: int = 0) -> Path:
    return write_folder(root, {name: pixels(count, seed=seed + number) for number, name in enumerate(names)})


@pytest.mark.parametrize(
    ("name", "group", "certain"),
    [
        *(
            (name, "train", True)
            for name in ("train", "TRAIN", "Training", "trn", "training_set", "TrainSet", "train2017")
        ),
        *(
            (name, "train", True)
            for name in ("traindata", "train-00000-of-00002", "x_train", "trainval", "Train Images")
        ),
        *((name, "test", True) for name in ("test", "Testing", "tst", "testset", "test_images", "test (1)")),
        *((name, "validation", True) for name in ("val", "VALID", "validation_data", "val2017")),
        *((name, "holdout", True) for name in ("holdout", "hold-out", "held_out")),
        ("dev", "dev", True),
        ("Evaluation", "evaluation", True),
        *((name, "train", False) for name in ("seg_train", "train_station", "digits_train")),
        *((name, "test", False) for name in ("seg_test", "test_tube")),
    ],
)
def test_names_of_splits_are_known_in_every_form(name: str, group: str, certain: bool) -> None:
    found = split_named(name)
    assert found is not None and (found.group, found.certain) == (group, certain)


@pytest.mark.parametrize("name", ["cat", "retrain", "contest", "valley", "device", "streetcar", "train_test", "7", ""])
def test_other_names_and_mixed_ones_name_no_split(name: str) -> None:
    assert split_named(name) is None


def test_a_lone_doubtful_name_is_a_class_and_a_pair_is_not() -> None:
    assert splits_among(["train_station", "bus_stop"]) == {}
    assert splits_among(["seg_train", "seg_test", "readme"]) == {"seg_train": "train", "seg_test": "test"}
    assert splits_among(["part_train", "full_train"]) == {"part_train": "train", "full_train": "train"}
    assert is_division(["train", "test", "x"]) and not is_division(["train", "bus"]) and not is_division(["a", "b"])


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("Training", "Testing"), ("TRAIN", "TEST"), ("trn", "tst"), ("training_set", "test_set")),
        *(("seg_train", "seg_test"), ("train2017", "val2017"), ("TrainImages", "EvalImages"), ("train", "hold-out")),
        ("train", "dev"),
    ],
)
def test_splits_are_read_whatever_their_form(tmp_path: Path, train: str, test: str) -> None:
    write_classes(tmp_path / train)
    write_classes(tmp_path / test, count=2, seed=9)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        real, held = load_pair(tmp_path)
    assert (real.class_names, len(real), len(held)) == (("a", "b"), 10, 4)
    said = [f"'{test}' is taken for it" in str(warning.message) for warning in seen]
    assert said == ([] if test.lower().startswith(("test", "tst", "seg")) else [True])


def test_the_official_test_split_is_taken_and_the_other_said(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "val", "test")):
        write_classes(tmp_path / split, count=6 - number, seed=10 * number)
    with pytest.warns(UserWarning, match="'test' is the test split; 'val' is left out"):
        _, held = load_pair(tmp_path)
    assert len(held) == 8 and len(load(tmp_path, "validation")) == len(load(tmp_path, "val")) == 10
    write_classes(tmp_path / "extra", count=1)
    assert len(load(tmp_path, "extra")) == 2
    (tmp_path / "test").rename(tmp_path / "eval")
    refused("has 'eval', 'val' but no test split", lambda: load_pair(tmp_path))


REFUSED: dict[str, tuple[list[str], str]] = {
    "images straight in splits": (["train/1", "train/2", "test/1"], "'.*train' holds 2 images .* but no class folders"),
    "no training split": (["test/a/1", "test/b/1"], "has 'test' but no folder train"),
    "two training splits": (["train/a/1", "Training/a/1", "test/a/1"], "'.*Training' and '.*train' name one split"),
    "a split beside classes": (["train/a/1", "a/1", "b/1"], "holds 'train', named like a split, beside 'a'"),
    "both splits beside classes": (["train/a/1", "test/a/1", "c/1"], "named like a split, beside 'c': .*or away"),
    "a class called dev": (["cat/1", "dog/1", "dev/1"], "if 'dev' is meant as a class, move all class folders into"),
    "the vehicle": (["bus/1", "car/1", "train/1"], "if 'train' is meant as a class"),
    "valid and invalid": (["valid/1", "invalid/1"], "if 'valid' is meant as a class"),
    "splits in classes": (["a/train/1", "a/test/1", "b/train/1"], "holds the splits test, train, so '.*a' is no class"),
    "a folder around the splits": (["data/train/a/1", "data/test/a/1"], "name the folder that holds the splits"),
    "a folder around the classes": (["pets/cat/1", "pets/dog/1"], "name '.*pets' as the dataset"),
    "splits under unknown names": (["2019/a/1", "2019/b/1", "2020/a/1", "2020/b/1"], "may be classes, splits or kinds"),
    "images and their masks": (["a/images/1", "a/masks/1", "b/images/1", "b/masks/1"], "both hold a folder 'images'"),
    "masks beside images": (["a/1", "a/masks/1", "b/1", "b/masks/1", "c/1"], "both hold a folder 'masks'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_trees_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, case: str) -> None:
    paths, message = REFUSED[case]
    for number, path in enumerate(paths):
        place = tmp_path / path
        if not place.parent.is_dir():
            write_folder(place.parent.parent, {place.parent.name: pixels(2, seed=number)})
    refused(message, lambda: load(tmp_path))


def test_classes_with_names_of_splits_are_read_where_a_split_holds_them(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ["dev", "cat", "train"])
    assert load(tmp_path).class_names == ("cat", "dev", "train")
    write_classes(tmp_path / "other", ["bus_stop", "train_station"])
    assert load(tmp_path / "other").class_names == ("bus_stop", "train_station")


def test_groups_of_classes_and_a_wrapper_in_each_class_are_read(tmp_path: Path) -> None:
    write_folder(
        tmp_path / "g", {"vehicle/bus": pixels(5), "vehicle/train": pixels(5, seed=1), "animal/cat": pixels(5)}
    )
    assert load(tmp_path / "g").class_names == ("animal", "vehicle")
    write_folder(tmp_path / "w" / "train", {"a/images": pixels(2), "b/images": pixels(2, seed=1), "c": pixels(2)})
    assert load(tmp_path / "w").class_counts.tolist() == [2, 2, 2]


def test_an_undivided_set_says_what_it_holds_back_and_how_to_have_all(tmp_path: Path) -> None:
    write_classes(tmp_path, count=10)
    with pytest.warns(UserWarning, match=r"16 of its 20 images, 80 %, .*put the class folders into '.*train'"):
        assert len(load(tmp_path)) == 16
    (tmp_path / "train").mkdir()
    for name in "ab":
        (tmp_path / name).rename(tmp_path / "train" / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load(tmp_path)) == 20


@pytest.mark.parametrize(
    "names", [["Cat", "cat"], ["cat", "cat "], ["\u00e9t\u00e9", "e\u0301te\u0301"], ["1", "01"], ["a b", "a  b"]]
)
def test_class_names_that_look_alike_are_refused(tmp_path: Path, names: list[str]) -> None:
    write_classes(tmp_path / "train", names)
    refused("differ only in case, blanks, zeros or coding", lambda: load(tmp_path))


def test_single_letters_may_differ_in_case(tmp_path: Path) -> None:
    write_classes(tmp_path / "train", ["a", "A"])
    assert load(tmp_path).class_names == ("A", "a")
