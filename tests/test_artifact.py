"""Does a distilled dataset come back from disk as it was, and is it refused when it is inconsistent?"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.utils.data import DataLoader

from ddkit.data.distilled import syntheses
from ddkit.data.distilled.budget import Budget
from ddkit.data.distilled.dataset import FILE_NAME, DistilledDataset
from ddkit.data.preprocessing import Preprocessing
from ddkit.errors import ArtifactError, CheckpointError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(**changes: Any) -> DistilledDataset:
    """Six images of three classes in the preprocessed space, hard labels."""
    arguments: dict[str, Any] = {
        "images": torch.randn(6, 3, 4, 5, generator=generator()),
        "labels": torch.arange(6) % 3,
        "class_names": ("cat", "chien", "größe"),
        "preprocessing": Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)),
        "metadata": {
            "method": "dm",
            "config": {"lr": 1.0, "betas": (0.9, 0.5)},
            "seed": 7,
            "steps": 10,
            "source": {"name": "digits", "split": "train", "fingerprint": "ab", "count": 1347},
            "learned": {"lr": 0.01},
        },
    }
    arguments.update(changes)
    return DistilledDataset(**arguments)


def make_soft() -> DistilledDataset:
    return make(labels=torch.randn(6, 3, generator=generator(1)).softmax(1), label_kind="soft")


def make_whitened() -> DistilledDataset:
    real = torch.randint(0, 256, (40, 1, 3, 3), generator=generator(2), dtype=torch.uint8)
    preprocessing = Preprocessing.fit(real, zca=True)
    return make(images=torch.randn(6, 1, 3, 3, generator=generator()), preprocessing=preprocessing)


def make_coreset() -> DistilledDataset:
    return make(images=torch.randint(0, 256, (6, 3, 4, 5), generator=generator(), dtype=torch.uint8))


def make_doubled() -> DistilledDataset:
    """Six training images decoded from three stored ones."""
    codes = torch.randn(3, 3, 4, 5, generator=generator())
    images, labels = Doubled.from_stored({"codes": codes}, {"sign": -1})
    budget = Budget(images=3, decoded_images=6, floats=180, bytes=720)
    return make(
        images=images,
        labels=labels,
        synthesis="doubled",
        synthesis_options={"sign": -1},
        stored={"codes": codes},
        budget=budget,
    )


class Doubled:
    """A codec that returns every code and its negative."""

    decoding = staticmethod(lambda stored, options: None)

    @staticmethod
    def from_stored(stored: dict[str, torch.Tensor], options: dict[str, Any]) -> tuple[Any, Any]:
        codes = stored["codes"]
        return torch.cat([codes, options["sign"] * codes]), torch.arange(2 * len(codes)) % 3


class Failing(Doubled):
    from_stored = staticmethod(lambda stored, options: torch.zeros(2, 3) @ torch.zeros(2, 3))  # type: ignore[arg-type]


class Views(Doubled):
    from_stored = staticmethod(lambda stored, options: (stored["a"], stored["b"]))


def assert_same(left: DistilledDataset, right: DistilledDataset) -> None:
    assert left.images.dtype == right.images.dtype and torch.equal(left.images, right.images)
    assert left.labels.dtype == right.labels.dtype and torch.equal(left.labels, right.labels)
    for name in ("label_kind", "class_names", "budget", "metadata", "synthesis", "synthesis_options"):
        assert getattr(left, name) == getattr(right, name), name
    assert left.preprocessing == right.preprocessing
    assert left.stored.keys() == right.stored.keys()
    assert all(torch.equal(tensor, right.stored[name]) for name, tensor in left.stored.items())


KINDS = {"hard": make, "soft": make_soft, "whitened": make_whitened, "coreset": make_coreset}


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_saved_dataset_loads_as_it_was(build: Any, tmp_path: Path) -> None:
    distilled = build()
    path = distilled.save(tmp_path / "set.safetensors")
    assert path == tmp_path / "set.safetensors"
    assert_same(DistilledDataset.load(path), distilled)


def test_regression_labels_may_be_any_finite_numbers(tmp_path: Path) -> None:
    labels = torch.randn(6, 3, generator=generator()) * 5
    distilled = make(labels=labels, label_kind="regression")
    loaded = DistilledDataset.load(distilled.save(tmp_path))
    assert torch.equal(loaded.labels, labels)
    assert torch.equal(loaded.hard_labels(), labels.argmax(1))


def test_compact_form_is_stored_and_decoded_on_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(syntheses.registry._items, "doubled", Doubled)
    distilled = make_doubled()
    path = distilled.save(tmp_path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == {"stored.codes"}
    assert_same(DistilledDataset.load(path), distilled)


def test_unknown_synthesis_names_what_to_install(tmp_path: Path) -> None:
    path = make_doubled().save(tmp_path)
    with pytest.raises(ArtifactError, match="no installed package registers synthesis 'doubled'") as met:
        DistilledDataset.load(path)
    assert "damaged" not in str(met.value)


def test_failing_decoder_is_an_artifact_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_doubled().save(tmp_path)
    monkeypatch.setitem(syntheses.registry._items, "doubled", Failing)
    with pytest.raises(ArtifactError, match=r"cannot load .*RuntimeError"):
        DistilledDataset.load(path)


def test_unknown_synthesis_is_an_artifact_error_that_names_it(tmp_path: Path) -> None:
    path = make_doubled().save(tmp_path)
    with pytest.raises(ArtifactError, match="doubled"):
        DistilledDataset.load(path)


def test_bytes_travel_without_a_file() -> None:
    distilled = make_soft()
    assert_same(DistilledDataset.from_bytes(distilled.to_bytes()), distilled)


def test_folder_gets_the_standard_file_name(tmp_path: Path) -> None:
    distilled = make()
    assert distilled.save(tmp_path / "runs" / "lr0.1") == tmp_path / "runs" / "lr0.1" / FILE_NAME
    assert_same(DistilledDataset.load(tmp_path / "runs" / "lr0.1"), distilled)


def test_same_content_gives_same_bytes_in_another_process(tmp_path: Path) -> None:
    first = make_whitened().save(tmp_path / "first.safetensors").read_bytes()
    code = "import sys, test_artifact as t; t.make_whitened().save(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "second.safetensors")],
        check=True,
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"},
    )
    assert (tmp_path / "second.safetensors").read_bytes() == first


def test_bytes_do_not_depend_on_key_order_or_memory_layout() -> None:
    plain = make()
    shuffled = make(
        images=plain.images.contiguous(memory_format=torch.channels_last).requires_grad_(),
        metadata=dict(reversed(plain.metadata.items())),
    )
    assert shuffled.to_bytes() == plain.to_bytes()
    assert make(metadata={"seed": 8}).to_bytes() != plain.to_bytes()


def test_loading_and_saving_again_changes_no_byte(tmp_path: Path) -> None:
    path = make_soft().save(tmp_path / "a.safetensors")
    copy = DistilledDataset.load(path).save(tmp_path / "b.safetensors")
    assert copy.read_bytes() == path.read_bytes()


def test_checksum_is_the_sha256_of_the_file_with_its_digits_zero(tmp_path: Path) -> None:
    distilled = make()
    raw = distilled.save(tmp_path).read_bytes()
    checksum = distilled.checksum()
    assert raw.count(checksum.encode()) == 1
    assert hashlib.sha256(raw.replace(checksum.encode(), b"0" * 64)).hexdigest() == checksum


def test_views_of_one_tensor_are_stored_as_separate_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(syntheses.registry._items, "views", Views)
    base = torch.arange(12.0)
    images, labels = base[:6].reshape(3, 1, 1, 2), base[3:12].reshape(3, 3)
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,))
    distilled = make(
        images=images,
        labels=labels,
        label_kind="regression",
        preprocessing=preprocessing,
        synthesis="views",
        stored={"a": images, "b": labels},
        budget=Budget(3, 3, 15, 60),
    )
    assert_same(DistilledDataset.from_bytes(distilled.to_bytes()), distilled)


def test_dataset_does_not_follow_later_changes_of_its_source() -> None:
    images = torch.zeros(3, 3, 2, 2)
    distilled = make(images=images, labels=torch.arange(3))
    images.fill_(9)
    assert float(distilled.images.abs().sum()) == 0


def test_full_disk_leaves_the_old_file_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make().save(tmp_path)
    before = path.read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        make_soft().save(tmp_path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]


def test_items_and_tensors_are_preprocessed_float_images() -> None:
    coreset = make_coreset()
    images, labels = coreset.tensors()
    expected = (coreset.images.double() / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.2, 0.25, 0.3]
    ).view(3, 1, 1)
    assert images.dtype == torch.float32 and torch.allclose(images.double(), expected, atol=1e-5)
    for item in ([coreset[i] for i in range(6)], coreset.__getitems__([0, 1, 2, 3, 4, 5])):
        assert torch.allclose(torch.stack([image for image, _ in item]), images, atol=1e-6)
        assert torch.equal(torch.stack([label for _, label in item]), labels)
    with pytest.raises(IndexError):
        coreset[6]


def test_viewable_undoes_preprocessing_and_clips() -> None:
    distilled = make()
    seen = distilled.viewable()
    expected = distilled.images * torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1) + torch.tensor([0.5, 0.4, 0.3]).view(
        3, 1, 1
    )
    assert torch.allclose(seen, expected.clamp(0, 1), atol=1e-6)
    assert torch.equal((make_coreset().viewable() * 255).round().to(torch.uint8), make_coreset().images)


@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS)
def test_plain_training_loop_runs(build: Any) -> None:
    distilled = build()
    model = nn.Sequential(nn.Flatten(), nn.Linear(distilled.images[0].numel(), 3))
    for images, labels in DataLoader(distilled, batch_size=4):
        nn.functional.cross_entropy(model(images), labels).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_ipc_is_none_when_classes_differ() -> None:
    assert make().ipc == 2
    assert make(labels=torch.tensor([0, 0, 0, 1, 1, 2])).ipc is None
    assert make(labels=torch.tensor([0, 0, 0, 1, 1, 1])).ipc is None


def test_default_budget_counts_images_and_labels() -> None:
    assert make().budget == Budget(images=6, decoded_images=6, floats=6 * 60 + 6, bytes=4 * 360 + 8 * 6)
    assert make_coreset().budget.bytes == 360 + 8 * 6
    assert make_soft().budget.floats == 360 + 18


def test_metadata_reads_as_it_will_after_loading() -> None:
    assert make().metadata["config"]["betas"] == [0.9, 0.5]
    assert isinstance(make(metadata={}).metadata["ddkit_version"], str)


def test_metadata_may_carry_keys_of_an_integration(tmp_path: Path) -> None:
    path = make(metadata={"privacy": {"epsilon": 1.0}}).save(tmp_path)
    assert DistilledDataset.load(path).metadata["privacy"] == {"epsilon": 1.0}


def nan_at(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[3] = float("nan")
    return tensor


IMAGES = torch.zeros(6, 3, 4, 5)
SOFT = torch.full((6, 3), 1 / 3)
INCONSISTENT: dict[str, tuple[dict[str, Any], str]] = {
    "flat images": ({"images": torch.zeros(6, 60)}, "N, C, H, W"),
    "no images": ({"images": torch.zeros(0, 3, 4, 5), "labels": torch.zeros(0).long()}, "non-empty"),
    "float64 images": ({"images": IMAGES.double()}, "float32"),
    "NaN pixels": ({"images": nan_at(IMAGES)}, "NaN"),
    "NaN pixels stored": ({"images": nan_at(IMAGES), "stored": {"images": nan_at(IMAGES)}}, "NaN"),
    "too few labels": ({"labels": torch.arange(5) % 3}, "6 images"),
    "label out of range": ({"labels": torch.arange(6) % 4}, "out of range"),
    "negative label": ({"labels": torch.arange(6) % 3 - 1}, "out of range"),
    "float hard labels": ({"labels": torch.zeros(6)}, "int64"),
    "soft labels called hard": ({"labels": SOFT}, "hard labels have shape"),
    "rows that do not sum to one": ({"labels": SOFT * 1.1, "label_kind": "soft"}, "softmax"),
    "negative probability": (
        {"labels": torch.tensor([[1.5, -0.5, 0.0]]).repeat(6, 1), "label_kind": "soft"},
        "probabilities",
    ),
    "NaN labels": ({"labels": nan_at(SOFT), "label_kind": "regression"}, "NaN"),
    "label kind": ({"label_kind": "fuzzy"}, "hard, soft, regression"),
    "no class names": ({"class_names": ()}, "class names"),
    "numeric class names": ({"class_names": (0, 1, 2)}, "class names"),
    "channels of preprocessing": ({"preprocessing": Preprocessing((0.5,), (0.5,))}, "does not fit"),
    "budget": ({"budget": Budget(7, 7, 1, 1)}, "budget counts 7"),
    "metadata tensor": ({"metadata": {"lr": torch.ones(1)}}, "JSON"),
    "metadata NaN": ({"metadata": {"learned": {"lr": float("nan")}}}, "JSON"),
    "metadata surrogate": ({"metadata": {"notes": "\ud800"}}, "JSON"),
    "metadata type": ({"metadata": {"seed": "seven"}}, "seed='seven'"),
    "stored without synthesis": ({"stored": {"codes": IMAGES}}, "leave them out"),
    "synthesis without stored": (
        {"synthesis": "idc", "budget": Budget(6, 6, 1, 1)},
        "no stored tensors for synthesis 'idc'",
    ),
    "synthesis without budget": ({"synthesis": "idc", "stored": {"codes": IMAGES}}, "no budget"),
}


@pytest.mark.parametrize(("changes", "message"), INCONSISTENT.values(), ids=INCONSISTENT)
def test_inconsistent_parts_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        make(**changes)
    assert "\n" not in str(caught.value)


def test_images_of_another_size_than_the_whitening_are_refused() -> None:
    whitened = make_whitened()
    with pytest.raises(ArtifactError, match="ZCA of 9 values"):
        make(images=torch.zeros(6, 1, 4, 4), preprocessing=whitened.preprocessing)


def test_stored_tensors_that_no_file_can_hold_are_refused() -> None:
    for codes, message in (
        (torch.zeros(3, dtype=torch.complex64), "complex64"),
        (torch.zeros(0), "not empty"),
        (torch.tensor([torch.inf]), "infinity"),
    ):
        distilled = make(synthesis="idc", stored={"codes": codes}, budget=Budget(6, 6, 1, 1))
        with pytest.raises(ArtifactError, match=message):
            distilled.to_bytes()


def test_parts_broken_after_construction_are_not_saved(tmp_path: Path) -> None:
    distilled = make()
    distilled.images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ArtifactError, match="NaN"):
        distilled.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_images_whose_labels_were_learned_are_still_known_by_the_class_they_started_as() -> None:
    soft = make(
        labels=torch.randn(6, 3, generator=generator(1)).softmax(1),
        label_kind="soft",
        metadata={"order": {"classes": [0, 2], "per_class": 3}},
    )
    assert soft.started_as().tolist() == [0, 0, 0, 2, 2, 2]
    assert make_soft().started_as().tolist() == make_soft().hard_labels().tolist()


@pytest.mark.parametrize("order", [{"classes": [0, 1], "per_class": 2}, {"classes": [0, 3], "per_class": 3}])
def test_an_order_of_another_set_is_refused(order: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError, match=r"metadata\.order"):
        make(metadata={"order": order})
