"""Do presets know a dataset by its plain name, however it was named?"""

from __future__ import annotations

import pytest

from ddkit import methods
from ddkit.augment import default_strategy
from ddkit.data import RealData
from ddkit.data.names import known_as
from ddkit.testing.small import toy_data


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("mnist", "mnist"),
        ("sets/MNIST.npz", "mnist"),
        ("/data/CIFAR-10", "cifar10"),
        ("fashion_mnist.parquet", "fashionmnist"),
        ("tiny-imagenet-200", "tinyimagenet"),
        ("my photos", "myphotos"),
    ],
)
def test_plain_names(name: str, plain: str) -> None:
    assert known_as(name) == plain


@pytest.mark.parametrize("method", methods.available())
@pytest.mark.parametrize(("word", "path"), [("mnist", "sets/MNIST.npz"), ("cifar10", "/data/CIFAR-10")])
def test_every_preset_is_the_same_for_a_word_and_a_path(method: str, word: str, path: str) -> None:
    shape = (1, 28, 28) if word == "mnist" else (3, 32, 32)
    data = toy_data(shape)

    def named(name: str) -> RealData:
        return RealData.from_tensors(data.images, data.labels, class_names=data.class_names, name=name)

    for ipc in (1, 10):
        one, other = (methods.get(method).configure(named(name), ipc) for name in (word, path))
        assert one == other


def test_digits_in_a_file_are_not_mirrored() -> None:
    assert "flip" not in default_strategy("sets/MNIST.npz")
    assert "flip" in default_strategy("sets/cifar-10.npz")
