"""Are the published figures those of the papers, and found by any spelling?"""

from __future__ import annotations

import pytest

from ddkit.evaluation import published, published_table


@pytest.mark.parametrize(
    ("method", "dataset", "ipc", "accuracy"),
    [
        ("DC", "MNIST", 10, 97.4),
        ("DC", "CIFAR-100", 1, 12.8),
        ("DC", "CIFAR-100", 10, 25.2),
        ("DSA", "FashionMNIST", 10, 84.6),
        ("DSA", "CIFAR-100", 10, 32.3),
        ("DM", "MNIST", 1, 89.7),
        ("DM", "MNIST", 50, 98.6),
        ("DCC", "CIFAR-10", 1, 32.9),
        ("DCC+DSA", "CIFAR-10", 1, 34.0),
        ("CAFE", "CIFAR-10", 50, 55.5),
        ("CAFE+DSA", "CIFAR-10", 50, 62.3),
        ("Random", "MNIST", 1, 64.9),
        ("Herding", "MNIST", 50, 94.8),
        ("idm", "CIFAR-10", 10, 58.6),
        ("m3d", "CIFAR-100", 50, 50.9),
        ("ncfm", "TinyImageNet", 1, 18.2),
    ],
)
def test_cells_hold_the_corrected_figures(method: str, dataset: str, ipc: int, accuracy: float) -> None:
    row = published(method, dataset, ipc)
    assert row is not None
    assert row.accuracy == accuracy


@pytest.mark.parametrize(
    ("method", "dataset", "ipc", "architecture"),
    [
        ("DC", "CIFAR-100", 50, "ConvNet"),
        ("TESLA", "TinyImageNet", 1, "ConvNet"),
        ("DSA", "CIFAR-10", 10, "ResNet-18"),
        ("KIP", "CIFAR-10", 50, "ResNet-152"),
        ("DM", "CIFAR-10", 7, "ConvNet"),
        ("DM", "digits", 10, "ConvNet"),
    ],
)
def test_cells_that_nobody_measured_are_absent(method: str, dataset: str, ipc: int, architecture: str) -> None:
    assert published(method, dataset, ipc, architecture) is None


def test_spelling_does_not_matter() -> None:
    row = published("DM", "CIFAR-10", 10)
    assert row is not None
    assert published("dm", "cifar10", 10, "convnet") == row
    assert published("dm", "cifar10", 10, "convnet(depth=3,width=128)") == row
    assert published("mtt", "cifar10", 1, "resnet18") == published("MTT", "CIFAR-10", 1, "ResNet-18")


def test_other_networks_do_not_pass_for_the_published_one() -> None:
    assert published("dm", "cifar10", 10, "convnet(width=32)") is None
    assert published("dm", "cifar10", 10, "convnet(depth=4)") is None
    assert published("dm", "tinyimagenet", 10, "convnet(depth=4)") is not None
    assert published("mtt", "cifar10", 1, "resnet18_ap") is None


def test_whole_set_is_found_whatever_the_ipc() -> None:
    row = published("whole", "mnist", 10)
    assert row is not None
    assert (row.accuracy, row.ipc) == (99.6, None)


def test_table_is_consistent() -> None:
    rows = published_table()
    keys = [(row.method, row.dataset, row.ipc, row.architecture) for row in rows]
    assert len(set(keys)) == len(keys) > 300
    assert all(0 < row.accuracy < 100 and (row.std is None or 0 <= row.std < 10) for row in rows)
    assert all(row.source.startswith(("paper", "authors' readme", "survey table")) for row in rows)
