"""Are named datasets found, read in every form they come in, and refused clearly when they are not there?"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from ddkit.data import Preprocessing, available, load, load_pair, locate
from ddkit.errors import DataError


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, folder: str = "MNIST", count: int = 20) -> np.ndarray:
    images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
    for prefix in ("train", "t10k"):
        write_idx(root / folder / "raw" / f"{prefix}-images-idx3-ubyte", images)
        write_idx(root / folder / "raw" / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    return images


def write_pickle(path: Path, content: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def refused(message: str, name: str, root: Path, download: bool = False) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(name, root=root, download=download)
    assert "\n" not in str(caught.value)


def test_digits_are_complete_stratified_and_need_no_files() -> None:
    train, test = load_pair("digits")
    assert (len(train), len(test)) == (1347, 450) and train.shape == test.shape == (1, 8, 8)
    source = load_digits()
    expected = np.rint(source.images * 255 / 16).astype(np.uint8)
    whole = sorted((image.tobytes(), int(label)) for image, label in zip(expected, source.target, strict=True))
    found = [
        (i.numpy().tobytes(), int(n)) for part in (train, test) for i, n in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(found) == whole
    share = test.class_counts / torch.from_numpy(np.bincount(source.target))
    assert (share - 450 / 1797).abs().max() < 1 / 170
    assert test.preprocessing == train.preprocessing == Preprocessing.fit(train.images)
    assert train.name == "digits" and train.class_names == tuple("0123456789")


def test_digits_split_never_changes() -> None:
    assert load("digits").fingerprint == DIGITS_FINGERPRINT


DIGITS_FINGERPRINT = "582c500c3d88b1815b079fcdfe4081aca492bdd418050daaf4a7f0b953998c30"


@pytest.mark.parametrize(
    ("name", "folder", "mean", "std"),
    [("mnist", "MNIST", 0.1307, 0.3081), ("fashionmnist", "FashionMNIST", 0.2861, 0.3530)],
)
def test_idx_files_are_read_with_the_fields_constants(
    tmp_path: Path, name: str, folder: str, mean: float, std: float
) -> None:
    images = write_mnist(tmp_path, folder)
    train, test = load_pair(name.upper(), root=tmp_path, download=False)
    for part in (train, test):
        assert torch.equal(part.images, torch.from_numpy(images)[:, None])
        assert part.labels.tolist() == [*range(10)] * 2
        assert part.preprocessing == Preprocessing((mean,), (std,))
    assert train.name == name and len(set(train.class_names)) == 10


def test_gzipped_idx_files_are_read(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    expected = load("mnist", root=tmp_path, download=False).fingerprint
    for file in (tmp_path / "MNIST" / "raw").iterdir():
        file.with_name(file.name + ".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    assert load("mnist", root=tmp_path, download=False).fingerprint == expected
    victim = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte.gz"
    victim.write_bytes(victim.read_bytes()[:-20])
    refused("cannot read .*train-images-idx3-ubyte.gz", "mnist", tmp_path)


def test_named_data_is_found_through_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    monkeypatch.setenv("DDKIT_DATA", str(tmp_path))
    assert len(load("mnist", download=False)) == 20


def test_zca_replaces_the_fields_constants(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    train, test = load_pair("mnist", root=tmp_path, download=False, zca=True)
    assert train.preprocessing.zca_matrix is not None and test.preprocessing == train.preprocessing
    assert train.preprocessing.mean == Preprocessing.fit(train.images).mean
    assert load("mnist", "test", root=tmp_path, zca=True).preprocessing == train.preprocessing


def test_damaged_idx_files_are_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    images = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    labels = tmp_path / "MNIST" / "raw" / "train-labels-idx1-ubyte"
    whole = images.read_bytes()
    for content, message in [
        (whole[:-1], "truncated or damaged; delete it and download it again"),
        (whole + b"x", "truncated or damaged"),
        (whole[:10], "not an IDX file"),
        (b"", "not an IDX file"),
        (b"\x00\x00\x0d" + whole[3:], "not an IDX file of bytes"),
        (labels.read_bytes(), "do not hold images and as many labels"),
    ]:
        images.write_bytes(content)
        refused(message, "mnist", tmp_path)
    images.write_bytes(whole)
    write_idx(labels, np.arange(19) % 10)
    refused("as many labels", "mnist", tmp_path)
    write_idx(labels, np.arange(20))
    refused("labels 0 to 9", "mnist", tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_idx_headers_are_bounded_before_anything_is_read(tmp_path: Path, packed: bool) -> None:
    write_mnist(tmp_path)
    plain = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    whole = plain.read_bytes()
    path = plain.with_name(plain.name + ".gz") if packed else plain
    plain.unlink()
    for shape, message in [
        ((20_000_000, 28, 28), "claims 15680000000 bytes, more than 268435456"),
        ((0xFFFFFFFF,) * 4, "more than 268435456"),
        ((0, 28, 28), "do not hold images and as many labels"),
        ((20, 0, 28), "do not hold images and as many labels"),
        ((1,) * 5, "is not an IDX file"),
    ]:
        data = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
        path.write_bytes(gzip.compress(data) if packed else data)
        refused(message, "mnist", tmp_path)
    endless = whole + bytes(2**22)
    path.write_bytes(gzip.compress(endless) if packed else endless)
    refused("holds more than 15680 bytes where its header says 15680", "mnist", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_batches_are_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind = getattr(torchvision.datasets, name.upper())
    classes = 10 if name == "cifar10" else 100
    folder = tmp_path / kind.base_folder
    data = np.random.default_rng(0).integers(0, 256, (classes * 2, 3072), dtype=np.uint8)
    content = {"data": data, "labels" if classes == 10 else "fine_labels": [*range(classes)] * 2}
    for attribute in ("train_list", "test_list"):
        file = f"{attribute}_batch"
        monkeypatch.setattr(kind, attribute, [[file, write_pickle(folder / file, content)]])
    names = [f"class {number}" for number in range(classes)]
    checksum = write_pickle(folder / "names", {kind.meta["key"]: names})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": "names", "md5": checksum})
    train, test = load_pair(name, root=tmp_path, download=False)
    assert torch.equal(train.images, torch.from_numpy(data).view(-1, 3, 32, 32)) and len(test) == 2 * classes
    assert train.class_names == tuple(names) and train.preprocessing.channels == 3
    (folder / "train_list_batch").write_bytes(b"junk")
    refused(f"{kind.base_folder}: Dataset not found or corrupted.*delete it", name, tmp_path)


def test_svhn_is_read_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 20), dtype=np.uint8)
    splits = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": data, "y": np.arange(20)[:, None] % 10 + 1})
        splits[split] = ["url", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", splits)
    train, _ = load_pair("svhn", root=tmp_path, download=False)
    assert torch.equal(train.images, torch.from_numpy(data.transpose(3, 2, 0, 1).copy()))
    assert train.labels.tolist() == [*range(1, 10), 0] * 2
    (tmp_path / "train_32x32.mat").write_bytes(b"junk")
    refused("cannot read .*train_32x32.mat.*delete it", "svhn", tmp_path)


def write_cifar_parquet(root: Path, split: str) -> np.ndarray:
    images = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    rows = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    (root / "cifar10").mkdir(parents=True, exist_ok=True)
    table = pa.table({"img": rows, "label": [*range(10)] * 2})
    pq.write_table(table, root / "cifar10" / f"{split}-00000-of-00001.parquet")
    return images


def test_parquet_stands_in_for_torchvisions_files(tmp_path: Path) -> None:
    images = write_cifar_parquet(tmp_path, "train")
    write_cifar_parquet(tmp_path, "test")
    train, test = load_pair("cifar10", root=tmp_path, download=False)
    assert torch.equal(train.images, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    constants = Preprocessing((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert train.preprocessing == test.preprocessing == constants
    assert train.name == "cifar10"


@pytest.mark.parametrize("name", ["mnist", "fashionmnist", "svhn", "cifar10", "cifar100"])
def test_absent_data_is_refused_with_and_without_download(tmp_path: Path, name: str) -> None:
    refused(f"'{name}' is not in '{tmp_path}': put .* there", name, tmp_path)
    refused(f"cannot download '{name}' to '{tmp_path}': .*check the network", name, tmp_path, download=True)


def test_downloaded_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: write_mnist(Path(self.root)))
    assert len(load("mnist", root=tmp_path)) == 20


def test_files_in_place_are_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path)
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", lambda self: pytest.fail("downloaded"))
    assert len(load("mnist", root=tmp_path)) == 20


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_named_sets_have_two_splits(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"'{name}' has no split 'extra'"):
        load(name, "extra", root=tmp_path)


def test_locate_says_what_is_there(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_cifar_parquet(tmp_path, "train")
    rows = {row["name"]: row for row in locate(tmp_path)}
    assert rows.keys() == available().keys()
    assert rows["digits"] == {"name": "digits", "found": True, "form": "built in", "where": None}
    assert rows["mnist"] == {"name": "mnist", "found": True, "form": "torchvision", "where": str(tmp_path)}
    assert rows["cifar10"]["form"] == "parquet"
    assert rows["svhn"] == {"name": "svhn", "found": False, "form": None, "where": str(tmp_path)}


GENUINE = Path(os.environ.get("DDKIT_DATA", ""))


@pytest.mark.skipif(
    not (GENUINE / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file(),
    reason="DDKIT_DATA names no folder with MNIST/raw",
)
def test_genuine_mnist_has_its_published_statistics() -> None:
    train, test = load_pair("mnist", root=GENUINE, download=False)
    assert train.class_counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert len(test) == 10000 and train.shape == (1, 28, 28)
    fitted = Preprocessing.fit(train.images)
    assert round(fitted.mean[0], 4) == 0.1307 and round(fitted.std[0], 4) == 0.3081


@pytest.mark.skipif(
    not list(GENUINE.glob("cifar10/test-*.parquet")),
    reason="DDKIT_DATA names no folder with cifar10/*.parquet",
)
def test_genuine_cifar10_parquet_equals_pillows_pixels() -> None:
    test = load("cifar10", "test", root=GENUINE, download=False)
    assert test.class_counts.tolist() == [1000] * 10 and test.shape == (3, 32, 32)
    assert test.class_names[:3] == ("airplane", "automobile", "bird")
    table = pq.read_table(next(GENUINE.glob("cifar10/test-*.parquet"))).slice(0, 500)
    pixels = [np.asarray(Image.open(io.BytesIO(row["bytes"]))) for row in table["image"].to_pylist()]
    assert torch.equal(test.images[:500], torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
    assert test.labels[:500].tolist() == table["label"].to_pylist()
