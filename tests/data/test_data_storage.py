"""Are large sets memory mapped, decoded once, and equal to those in memory?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ddkit.data.decoding as decoding
from ddkit.data import RealData, load, load_pair
from ddkit.data.storage import cache_folder, data_root, digest, gather_images
from ddkit.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (1300, 4, 5, 3), dtype=np.uint8)
    for number, image in enumerate(images):
        place = tmp_path / "set" / "train" / str(number % 2) / f"{number:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place)
    return tmp_path / "set"


def cached_files() -> list[Path]:
    return sorted((cache_folder() / "decoded").glob("*"))


def test_mapped_set_equals_the_one_in_memory(folder: Path, generator: torch.Generator) -> None:
    memory, mapped = load(folder), load(folder, memory_map_above=1000)
    assert mapped.memory_mapped and not memory.memory_mapped
    assert torch.equal(mapped.images, memory.images) and mapped.fingerprint == memory.fingerprint
    assert mapped.preprocessing == memory.preprocessing
    (file,) = cached_files()
    assert file.stat().st_size == memory.images.nbytes
    index = torch.tensor([1299, 0, 7])
    assert torch.equal(mapped.batch(index), memory.batch(index))
    assert mapped.to("meta").images.device.type == "cpu"


def test_nothing_is_decoded_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder, memory_map_above=0)
    modified = cached_files()[0].stat().st_mtime_ns
    decoded = []
    genuine = decoding.decode_one

    def counting(name: str, source: bytes | Path) -> np.ndarray:
        decoded.append(name)
        return genuine(name, source)

    monkeypatch.setattr(decoding, "decode_one", counting)
    second = load(folder, memory_map_above=0)
    assert len(decoded) == 1  # the first image, for its size
    assert second.fingerprint == first.fingerprint and cached_files()[0].stat().st_mtime_ns == modified


def test_changed_source_is_decoded_again(folder: Path) -> None:
    first = load(folder, memory_map_above=0)
    Image.fromarray(np.zeros((4, 5, 3), dtype=np.uint8)).save(folder / "train" / "0" / "0000.png")
    second = load(folder, memory_map_above=0)
    assert second.images[0].sum() == 0 and first.images[0].sum() > 0
    assert len(cached_files()) == 2


def test_cache_file_of_a_wrong_size_is_replaced(folder: Path) -> None:
    expected = load(folder, memory_map_above=0).fingerprint
    cached_files()[0].write_bytes(b"short")
    assert load(folder, memory_map_above=0).fingerprint == expected


def test_writing_to_a_mapped_tensor_leaves_the_file_alone(folder: Path) -> None:
    real = load(folder, memory_map_above=0)
    before = cached_files()[0].read_bytes()
    real.images.zero_()
    assert cached_files()[0].read_bytes() == before


def test_damaged_image_leaves_no_cache_file(folder: Path) -> None:
    (folder / "train" / "1" / "1299.png").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"1299\.png"):
        load(folder, memory_map_above=0)
    assert cached_files() == []


def test_parts_of_a_mapped_set_are_mapped_when_large(folder: Path, generator: torch.Generator) -> None:
    real = load(folder, memory_map_above=10_000)
    rest, held_out = real.split_off(0.1, generator)
    assert rest.memory_mapped and not held_out.memory_mapped
    memory, memory_held = load(folder).split_off(0.1, torch.Generator().manual_seed(0))
    assert rest.fingerprint == memory.fingerprint and held_out.fingerprint == memory_held.fingerprint


def test_arrays_are_mapped_too(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3000, 3, 4), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(3000) % 5)
    pair = load_pair(tmp_path / "set.npz", memory_map_above=0)
    memory = load_pair(tmp_path / "set.npz")
    assert [part.memory_mapped for part in pair] == [True, True]
    assert [part.fingerprint for part in pair] == [part.fingerprint for part in memory]


def test_full_disk_is_reported_and_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ddkit.data.storage._write_chunks", full)
    with pytest.raises(DataError, match=r"No space left on device.*DDKIT_CACHE") as caught:
        load(folder, memory_map_above=0)
    assert "\n" not in str(caught.value) and cached_files() == []


def test_set_exactly_at_the_limit_stays_in_memory() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    assert gather_images([images], (4, 1, 2, 2), lambda: "key", 16)[1] is None
    assert gather_images([images], (4, 1, 2, 2), lambda: "key", 15)[1] is not None


def test_digest_depends_on_boundaries_shape_and_type() -> None:
    zeros = torch.zeros(2, 3, dtype=torch.uint8)
    digests = [digest("ab", "c"), digest("a", "bc"), digest(zeros), digest(zeros.T), digest(zeros.long())]
    assert len(set(digests)) == 5 and digest("ab", zeros) == digest(b"ab", zeros.clone())


def test_folders_follow_arguments_and_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DDKIT_DATA", "/some/where")
    assert data_root("/x") == Path("/x") and data_root() == Path("/some/where")
    monkeypatch.delenv("DDKIT_DATA")
    monkeypatch.setenv("DDKIT_CACHE", "/cache")
    assert data_root() == Path("/cache/data")
    monkeypatch.delenv("DDKIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/ddkit")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ddkit"


def test_mapping_can_be_used_through_real_data(folder: Path, generator: torch.Generator) -> None:
    real: RealData = load(folder, memory_map_above=0)
    images, labels = real.sample([0, 1], 3, generator)
    assert images.shape == (6, 3, 4, 5) and labels.tolist() == [0, 0, 0, 1, 1, 1]
