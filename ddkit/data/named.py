"""Which datasets does ddkit know by name: their files, how they are read, and the field's constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddkit.data.checks import images_at_rest
from ddkit.data.decoding import one_line
from ddkit.data.idx import read_idx
from ddkit.data.preprocessing import Preprocessing
from ddkit.data.raw import Raw
from ddkit.data.splits import stratified_split
from ddkit.data.tree import parquet_files
from ddkit.errors import DataError

_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DIGITS_SPLIT_SEED = 0
DIGITS_TEST_SIZE = 450


@dataclass(frozen=True)
class NamedSet:
    """A dataset that torchvision knows how to download.

    Args:
        name: what users call it.
        class_name: its class in ``torchvision.datasets``.
        description: one line.
        mean: the field's normalisation constants, per channel, on the [0, 1] scale.
        std: as ``mean``. CIFAR-10's are means of per-image deviations, smaller than the deviation over all
            pixels; published results are on that scale.
        files: paths below the root that hold the splits ``train`` and ``test``.
        read_files: reads one split of those files.
    """

    name: str
    class_name: str
    description: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    files: dict[str, tuple[str, ...]]
    read_files: Callable[[NamedSet, Path, str], Raw]

    @property
    def preprocessing(self) -> Preprocessing:
        """Standardisation by the field's constants."""
        return Preprocessing(self.mean, self.std)

    def form(self, root: Path, split: str) -> str | None:
        """Return the form in which ``root`` holds ``split``: "torchvision", "parquet" or None."""
        if all((root / file).exists() or (root / f"{file}.gz").exists() for file in self.files[split]):
            return "torchvision"
        return "parquet" if (root / self.name).is_dir() and parquet_files(root / self.name) else None

    def read(self, root: Path, split: str, download: bool) -> Raw:
        """Read ``split`` from torchvision's files, else from ``<root>/<name>/*.parquet``, else download it.

        Raises:
            DataError: the files are damaged, or absent and not to be had.
        """
        if split not in self.files:
            raise DataError(f"'{self.name}' has no split '{split}': it has 'train' and 'test'")
        form = self.form(root, split)
        if form == "parquet":
            from ddkit.data.parquet import read_parquet  # pyarrow takes longer to load than all of ddkit.data

            return read_parquet(root / self.name, split)
        if form is None:
            if not download:
                raise DataError(f"'{self.name}' is not in '{root}': {self._remedy()}, or allow the download")
            self._download(root, split)
        return self.read_files(self, root, split)

    def open(self, root: Path, split: str, download: bool) -> Any:
        """Return torchvision's dataset object; torchvision verifies the MD5 of files that it unpickles."""
        import torchvision

        which: dict[str, Any] = {"split": split} if self.name == "svhn" else {"train": split == "train"}
        return getattr(torchvision.datasets, self.class_name)(str(root), download=download, **which)

    def _download(self, root: Path, split: str) -> None:
        try:
            self.open(root, split, download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise DataError(
                f"cannot download '{self.name}' to '{root}': {one_line(error)}; "
                f"check the network and that the folder can be written, or {self._remedy()}"
            ) from error

    def _remedy(self) -> str:
        return (
            f"put {', '.join(self.files['train'] + self.files['test'])} or {self.name}/*.parquet there, "
            "or name their folder by root, --data-root or DDKIT_DATA"
        )


def _read_idx_pair(named: NamedSet, root: Path, split: str) -> Raw:
    images, labels = (read_idx(root / file) for file in named.files[split])
    fit = images.ndim == 3 and labels.ndim == 1 and 0 < len(images) == len(labels) and images.numel() > 0
    if not fit or int(labels.max()) > 9:
        raise DataError(
            f"'{root / named.files[split][0]}' and its label file do not hold images "
            "and as many labels 0 to 9: delete both and download them again"
        )
    return Raw(images.unsqueeze(1), labels.to(torch.int64), _FASHION if named.name == "fashionmnist" else _DIGITS)


def _read_torchvision(named: NamedSet, root: Path, split: str) -> Raw:
    try:
        dataset = named.open(root, split, download=False)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        where = ", ".join(str(root / file) for file in named.files[split])
        raise DataError(f"cannot read {where}: {one_line(error)}; delete it and load '{named.name}' again") from error
    labels = dataset.labels if named.name == "svhn" else dataset.targets
    names = _DIGITS if named.name == "svhn" else tuple(dataset.classes)
    return Raw(images_at_rest(dataset.data), torch.as_tensor(labels, dtype=torch.int64), names)


def _idx_files(folder: str) -> dict[str, tuple[str, ...]]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return {
        split: tuple(f"{folder}/raw/{prefix}-{kind}" for kind in kinds)
        for split, prefix in (("train", "train"), ("test", "t10k"))
    }


def _by_name(*sets: NamedSet) -> dict[str, NamedSet]:
    return {item.name: item for item in sets}


NAMED: dict[str, NamedSet] = _by_name(
    NamedSet(
        name="mnist",
        class_name="MNIST",
        description="handwritten digits, 1x28x28, 10 classes, 60000 / 10000 images",
        mean=(0.1307,),
        std=(0.3081,),
        files=_idx_files("MNIST"),
        read_files=_read_idx_pair,
    ),
    NamedSet(
        name="fashionmnist",
        class_name="FashionMNIST",
        description="articles of clothing, 1x28x28, 10 classes, 60000 / 10000 images",
        mean=(0.2861,),
        std=(0.3530,),
        files=_idx_files("FashionMNIST"),
        read_files=_read_idx_pair,
    ),
    NamedSet(
        name="svhn",
        class_name="SVHN",
        description="house number digits, 3x32x32, 10 classes, 73257 / 26032 images",
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
        files={"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
        read_files=_read_torchvision,
    ),
    NamedSet(
        name="cifar10",
        class_name="CIFAR10",
        description="natural images, 3x32x32, 10 classes, 50000 / 10000 images",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2023, 0.1994, 0.2010),
        files={"train": ("cifar-10-batches-py",), "test": ("cifar-10-batches-py",)},
        read_files=_read_torchvision,
    ),
    NamedSet(
        name="cifar100",
        class_name="CIFAR100",
        description="natural images, 3x32x32, 100 classes, 50000 / 10000 images",
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        files={"train": ("cifar-100-python",), "test": ("cifar-100-python",)},
        read_files=_read_torchvision,
    ),
)


def read_digits(split: str) -> Raw:
    """Read scikit-learn's digits: 8x8 grey, values 0-16 scaled to bytes by 255/16 and rounded.

    The set has no official split: 450 of the 1797 images, stratified by a fixed seed, are the test split.

    Raises:
        DataError: another split than "train" or "test".
    """
    from sklearn.datasets import load_digits

    if split not in ("train", "test"):
        raise DataError(f"'digits' has no split '{split}': it has 'train' and 'test'")
    digits = load_digits()
    images = (torch.from_numpy(digits.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).to(torch.int64)
    generator = torch.Generator().manual_seed(DIGITS_SPLIT_SEED)
    parts = stratified_split(labels, DIGITS_TEST_SIZE, 10, generator)
    return Raw(images, labels, _DIGITS).select(parts[("train", "test").index(split)])
