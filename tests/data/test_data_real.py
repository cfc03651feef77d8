"""Does RealData take every usual form of images, refuse bad ones, and draw class-balanced batches?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from ddkit.data import Preprocessing, RealData
from ddkit.errors import DataError


def balanced(generator: torch.Generator, classes: int, per_class: int, *shape: int) -> tuple[Tensor, Tensor]:
    count = classes * per_class
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % classes


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 9, 5), (1, 28, 28), (3, 64, 48), (3, 224, 224)])
def test_every_layout_gives_the_same_images(shape: tuple[int, int, int], generator: torch.Generator) -> None:
    images, labels = balanced(generator, 2, 2, *shape)
    layouts: list[Any] = [
        images,
        images.numpy(),
        images.permute(0, 2, 3, 1),
        images.permute(0, 2, 3, 1).numpy(),
    ]
    layouts += [images.double() / 255, images.numpy().astype(np.float32) / 255]
    if shape[0] == 1:
        layouts += [images[:, 0], images[:, 0].numpy() / 255]
    for layout in layouts:
        real = RealData.from_tensors(layout, labels)
        assert torch.equal(real.images, images) and real.images.dtype == torch.uint8
        assert real.shape == shape and real.images.is_contiguous()


def test_floats_are_rounded_to_the_nearest_level() -> None:
    images = torch.tensor([0.0, 0.49 / 255, 0.51 / 255, 1 - 0.51 / 255, 1.0, 1 + 1e-7]).view(6, 1, 1, 1)
    real = RealData.from_tensors(images, [0, 1, 0, 1, 0, 1])
    assert real.images.flatten().tolist() == [0, 0, 1, 254, 255, 255]


def test_read_only_and_big_endian_arrays_are_taken() -> None:
    images = np.linspace(0, 1, 32, dtype=">f4").reshape(2, 4, 4)
    images.flags.writeable = False
    real = RealData.from_tensors(images, np.array([[0], [1]], dtype=np.uint8))
    assert real.images[0, 0, 0, 0] == 0 and real.images[1, 0, 3, 3] == 255
    assert real.labels.dtype == torch.int64 and real.labels.tolist() == [0, 1]


def test_bytes_in_place_are_shared_not_copied(generator: torch.Generator) -> None:
    images, labels = balanced(generator, 2, 3, 1, 4, 4)
    assert RealData.from_tensors(images, labels).images.data_ptr() == images.data_ptr()


def test_attributes_describe_an_unbalanced_set() -> None:
    labels = torch.tensor([2, 0, 0, 1, 0, 2])
    real = RealData.from_tensors(torch.zeros(6, 3, 4, 5, dtype=torch.uint8), labels, class_names=["a", "b", "c"])
    assert len(real) == 6 and real.num_classes == 3 and real.shape == (3, 4, 5)
    assert real.class_counts.tolist() == [3, 1, 2]
    assert [index.tolist() for index in real.class_index] == [[1, 2, 4], [3], [0, 5]]
    assert real.name == "tensors" and real.split == "train" and real.class_names == ("a", "b", "c")
    assert repr(real) == "RealData('tensors', 'train', 6 images 3x4x5, 3 classes)"


def bad_pixel(value: float) -> Tensor:
    images = torch.full((4, 1, 2, 2), 0.5)
    images[2, 0, 1, 1] = value
    return images


BYTES = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (bad_pixel(float("nan")), [0, 1, 0, 1], {}, "image 2 holds NaN or Inf"),
        (bad_pixel(float("inf")), [0, 1, 0, 1], {}, "image 2 holds NaN or Inf"),
        (bad_pixel(255.0), [0, 1, 0, 1], {}, "range from 0.5 to 255"),
        (bad_pixel(-0.2), [0, 1, 0, 1], {}, "range from -0.2 to 0.5"),
        (BYTES.to(torch.int64), [0, 1, 0, 1], {}, r"images are torch\.int64: give uint8"),
        (BYTES.numpy().astype(np.uint16), [0, 1, 0, 1], {}, r"images are torch\.uint16"),
        (BYTES > 0, [0, 1, 0, 1], {}, r"images are torch\.bool"),
        (BYTES[0, 0], [0, 1], {}, r"shape \(2, 2\)"),
        (BYTES[:0], [], {}, "empty set"),
        ([[[1, 2], [3]]], [0], {}, "images of type list are not one numeric array"),
        (np.array([None, 1]), [0, 1], {}, "images of type ndarray are not one numeric array"),
        (BYTES, ["a", "b", "a", "b"], {}, "labels of type list are not one numeric array"),
        (BYTES, [0, 1, 0], {}, "4 images but 3 labels"),
        (BYTES, [0.0, 1.0, 0.0, 1.0], {}, r"labels are torch\.float64"),
        (BYTES, [True, False, True, False], {}, r"labels are torch\.bool"),
        (BYTES, torch.eye(4, dtype=torch.int64), {}, r"labels have shape \(4, 4\)"),
        (BYTES, [0, 1, -1, 1], {}, "label -1 is out of range"),
        (BYTES, [0, 1, 2, 1], {"num_classes": 2}, "label 2 is out of range: with 2 classes use 0 to 1"),
        (BYTES, [0, 1, 2, 1], {"class_names": ["a", "b"]}, "label 2 is out of range"),
        (
            BYTES,
            [0, 1, 0, 1],
            {"class_names": ["a", "b"], "num_classes": 3},
            "2 class names but num_classes=3",
        ),
        (BYTES, [0, 0, 0, 0], {}, "has 1 class: at least 2"),
        (BYTES, [0, 2, 0, 2], {}, r"class 1 \('1'\) has no image"),
        (BYTES, [0, 2, 0, 2], {"class_names": ["a", "dog", "c"]}, r"class 1 \('dog'\) has no image"),
        (BYTES, [0, 9, 0, 9], {}, r"5 \('5'\) and 3 more has no image"),
        (BYTES, [0, 1, 0, 1], {"preprocessing": Preprocessing.identity(3)}, "for 3 channels does not fit"),
    ],
)
def test_bad_sets_are_refused_in_one_line(images: Any, labels: Any, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        RealData.from_tensors(images, labels, **options)
    assert "\n" not in str(caught.value)


def test_classes_without_images_may_be_allowed() -> None:
    real = RealData.from_tensors(BYTES, [0, 2, 0, 2], num_classes=4, allow_missing=True)
    assert real.class_counts.tolist() == [2, 0, 2, 0]


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_batches_are_balanced_without_replacement_and_class_major(classes: int, generator: torch.Generator) -> None:
    images, labels = balanced(generator, classes, 7, 1, 8, 8)
    real = RealData.from_tensors(images, labels)
    index = real.sample_indices(range(classes), 5, generator)
    assert len(set(index.tolist())) == 5 * classes
    assert real.labels[index].tolist() == [number for number in range(classes) for _ in range(5)]


def test_sample_is_the_preprocessed_images_behind_its_indices(generator: torch.Generator) -> None:
    images, labels = balanced(generator, 3, 10, 3, 5, 4)
    real = RealData.from_tensors(images, labels)
    state = generator.get_state()
    index = real.sample_indices([2, 0], 4, generator)
    drawn, targets = real.sample(torch.tensor([2, 0]), 4, generator.set_state(state))
    assert torch.equal(drawn, real.preprocessing.apply(images[index]))
    assert torch.equal(drawn, real.batch(index))
    assert targets.tolist() == [2] * 4 + [0] * 4 and targets.dtype == torch.int64


def test_class_smaller_than_the_request_gives_all_it_has(generator: torch.Generator) -> None:
    real = RealData.from_tensors(BYTES, [0, 1, 1, 1], num_classes=3, allow_missing=True)
    index = real.sample_indices([0, 1, 2], 2, generator)
    assert len(index) == 3 and index[0] == 0 and len(set(index.tolist())) == 3


def test_every_image_is_drawn_equally_often(generator: torch.Generator) -> None:
    images, labels = balanced(generator, 2, 6, 1, 2, 2)
    real = RealData.from_tensors(images, labels)
    draws = torch.cat([real.sample_indices([0, 1], 2, generator) for _ in range(3000)])
    counts = torch.bincount(draws, minlength=12)
    assert counts.sum() == 12000
    assert ((counts - 1000).abs() < 5 * (3000 * (1 / 3) * (2 / 3)) ** 0.5).all()


def test_same_generator_state_gives_the_same_sample(generator: torch.Generator) -> None:
    real = RealData.from_tensors(*balanced(generator, 4, 9, 1, 4, 4))
    first, second = (real.sample_indices(range(4), 3, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, real.sample_indices(range(4), 3, torch.Generator().manual_seed(6)))


@pytest.mark.parametrize(
    ("classes", "n", "message"),
    [
        ([0], 0, "cannot draw 0"),
        ([], 1, "0 classes"),
        ([0, 2], 1, "class 2 is out of range"),
        ([-1], 1, "class -1"),
    ],
)
def test_impossible_samples_are_refused(classes: list[int], n: int, message: str, generator: torch.Generator) -> None:
    real = RealData.from_tensors(BYTES, [0, 1, 0, 1])
    with pytest.raises(DataError, match=message):
        real.sample(classes, n, generator)


def test_fingerprint_follows_content_only(generator: torch.Generator) -> None:
    images, labels = balanced(generator, 2, 4, 1, 4, 6)
    real = RealData.from_tensors(images, labels)
    assert len(real.fingerprint) == 64
    assert real.fingerprint == RealData.from_tensors(images.clone(), labels, name="x", split="y").fingerprint
    assert real.fingerprint == real.with_preprocessing(Preprocessing.identity(1)).fingerprint
    changed = images.clone()
    changed[3, 0, 1, 1] ^= 1
    others = [
        RealData.from_tensors(changed, labels),
        RealData.from_tensors(images, 1 - labels),
        RealData.from_tensors(images.view(8, 1, 6, 4), labels),
    ]
    assert len({real.fingerprint, *(other.fingerprint for other in others)}) == 4


def test_subset_keeps_classes_and_preprocessing(generator: torch.Generator) -> None:
    images, labels = balanced(generator, 3, 4, 1, 4, 4)
    real = RealData.from_tensors(images, labels)
    part = real.subset(torch.tensor([3, 0, 4]))
    assert torch.equal(part.images, images[[3, 0, 4]]) and part.labels.tolist() == [0, 0, 1]
    assert part.num_classes == 3 and part.preprocessing is real.preprocessing
    assert part.fingerprint != real.fingerprint


@pytest.mark.parametrize(
    ("index", "message"),
    [([], "at least one"), ([0.0], "float32"), ([4], "index 4"), ([-1], "index -1"), ([[0]], "at least one")],
)
def test_bad_subsets_are_refused(index: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RealData.from_tensors(BYTES, [0, 1, 0, 1]).subset(torch.tensor(index))


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_held_out_part_is_stratified_and_disjoint(fraction: float, generator: torch.Generator) -> None:
    counts = [40, 20, 7, 1]
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    rest, held_out = RealData.from_tensors(images, labels).split_off(fraction, generator)
    numbers = [part.images[:, 0, 0, 0].tolist() for part in (rest, held_out)]
    assert sorted(numbers[0] + numbers[1]) == list(range(len(labels)))
    assert len(held_out) == round(fraction * len(labels))
    for label, count in enumerate(counts):
        assert abs(int(held_out.class_counts[label]) - fraction * count) <= 1
        assert rest.class_counts[label] >= 1
    assert (rest.split, held_out.split) == ("train", "train-held-out")


def test_impossible_fractions_are_refused(generator: torch.Generator) -> None:
    real = RealData.from_tensors(BYTES, [0, 1, 0, 1])
    for fraction in (0.0, 1.0, -0.5, float("nan")):
        with pytest.raises(DataError, match="between 0 and 1"):
            real.split_off(fraction, generator)
    with pytest.raises(DataError, match="cannot hold out 0 of 4"):
        real.split_off(0.01, generator)


def test_moving_keeps_what_is_drawn(generator: torch.Generator) -> None:
    real = RealData.from_tensors(*balanced(generator, 2, 5, 1, 4, 4))
    moved = real.to("cpu")
    assert torch.equal(moved.batch(torch.tensor([1, 3])), real.batch(torch.tensor([1, 3])))
    assert moved.device == torch.device("cpu") and not moved.memory_mapped
    meta = real.to("meta")
    assert meta.images.device.type == "meta" and meta.device.type == "meta"


class Items(Dataset):
    """A map-style dataset over a list, which counts how often each item is asked for."""

    def __init__(self, items: list) -> None:
        self.items, self.asked = items, [0] * len(items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        self.asked[index] += 1
        return self.items[index]


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(torch.zeros(1, 2, 2), 0), (torch.ones(1, 2, 2), 1)])


def test_dataset_items_of_every_kind_are_decoded_once(generator: torch.Generator) -> None:
    images, labels = balanced(generator, 2, 3, 3, 4, 5)
    arrays = images.permute(0, 2, 3, 1).numpy()
    forms: list = [
        (Image.fromarray(arrays[0]), 0),
        (images[1], torch.tensor(1)),
        (images[2] / 255, np.int64(0)),
        (arrays[3], 1),
        {"image": Image.fromarray(arrays[4]), "label": 0},
        {"img": images[5], "label": np.array([1])},
    ]
    dataset = Items(forms)
    real = RealData.from_dataset(dataset, name="forms")
    assert torch.equal(real.images, images) and torch.equal(real.labels, labels)
    assert dataset.asked == [1] * 6 and real.name == "forms"


def test_tensor_datasets_and_streams_are_taken(generator: torch.Generator) -> None:
    images, labels = balanced(generator, 2, 3, 1, 4, 4)
    assert torch.equal(RealData.from_dataset(TensorDataset(images, labels)).images, images)
    assert RealData.from_dataset(Stream()).images[:, 0, 0, 0].tolist() == [0, 255]


def test_grey_items_join_colour_ones(generator: torch.Generator) -> None:
    images, _ = balanced(generator, 2, 1, 1, 4, 4)
    grey, colour = Image.fromarray(images[0, 0].numpy()), Image.fromarray(images[1, 0].numpy()).convert("RGB")
    dataset = Items([(grey, 0), (colour, 1)])
    dataset.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    real = RealData.from_dataset(dataset)
    assert torch.equal(real.images, images.expand(-1, 3, -1, -1)) and real.class_names == ("cat", "dog")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "the dataset is empty"),
        ([(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 2, 3), 1)], "item 1' is 2x3 while 'item 0' is 2x2"),
        ([(torch.zeros(3, 2, 2), 0), (torch.zeros(4, 2, 2), 1)], "different channel counts"),
        ([torch.zeros(1, 2, 2)], "item 0 of the dataset is a Tensor"),
        ([(torch.zeros(1, 2, 2), "cat")], "label 'cat'"),
        ([(torch.zeros(1, 2, 2), True)], "label True"),
        ([(torch.zeros(1, 2, 2), torch.tensor([0, 1]))], "give one integer"),
        ([(torch.zeros(1, 2, 2) - 2, 0)], "item 0 of the dataset: float images range from -2"),
        ([("path.png", 0)], "item 0 of the dataset"),
        ([({}, 0)], "item 0 of the dataset"),
        ([(Image.new("I;16", (2, 2)), 0)], "mode I;16"),
    ],
)
def test_bad_datasets_are_refused(items: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        RealData.from_dataset(Items(items))
