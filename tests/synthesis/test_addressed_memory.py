"""Addressed memory: what fits a budget, what is decoded, how gradients reach both tables."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ArtifactError, ConfigError
from ddkit.synthesis import AddressedMemory, decode
from ddkit.synthesis.addressed_memory import default_bases, rows_that_fit
from ddkit.testing import toy_data


def started(ipc: int = 2, shape: tuple[int, int, int] = (1, 8, 8), **options) -> AddressedMemory:
    memory = AddressedMemory(3, ipc, shape, **options)
    memory.initialise(toy_data(shape=shape), "noise", torch.Generator().manual_seed(0))
    return memory


def test_published_sizes_follow_from_the_budget() -> None:
    cifar = AddressedMemory(10, 1, (3, 32, 32), downsample=2)
    assert (len(cifar.bases), cifar.decoded_per_class, len(cifar)) == (16, 115, 1150)
    assert cifar.bases.shape == (16, 3, 16, 16)
    digits = AddressedMemory(10, 1, (1, 8, 8))
    assert (len(digits.bases), digits.decoded_per_class, digits.budget().floats) == (4, 9, 616)


@pytest.mark.parametrize(("bases", "downsample"), [(16, 1), (64, 2)])
def test_bases_without_room_for_a_row_are_refused(bases: int, downsample: int) -> None:
    assert rows_that_fit(10, 1, (3, 32, 32), bases, downsample) < 1
    with pytest.raises(ConfigError, match=rf"budget of 30,720 numbers; {bases} bases take 49,152 of them"):
        AddressedMemory(10, 1, (3, 32, 32), bases=bases, downsample=downsample)


@pytest.mark.parametrize("ipc", [1, 10, 50])
def test_budget_is_kept(ipc: int) -> None:
    for classes, shape, downsample in ((10, (1, 28, 28), 2), (100, (3, 32, 32), 2), (10, (1, 8, 8), 1)):
        memory = AddressedMemory(classes, ipc, shape, downsample=downsample)
        budget = memory.budget()
        assert budget.floats == memory.bases.numel() + memory.addressing.numel()
        assert 0.9 < budget.floats / (classes * ipc * shape[0] * shape[1] * shape[2]) <= 1
        assert budget.decoded_images == len(memory) and budget.images == classes * ipc


def test_one_hot_addresses_give_the_bases_themselves() -> None:
    memory = started(ipc=4, bases=6, rows=2)
    with torch.no_grad():
        memory.addressing.copy_(torch.eye(6))
    assert torch.equal(memory()[0], memory.bases)


def test_gradients_are_products_with_the_other_table() -> None:
    memory = started(rows=5).double()
    upstream = torch.randn(15, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    memory()[0].backward(upstream)
    flat = upstream.flatten(1)
    torch.testing.assert_close(memory.addressing.grad, flat @ memory.bases.flatten(1).T, rtol=0, atol=1e-12)
    expected = (memory.addressing.T @ flat).view_as(memory.bases)
    torch.testing.assert_close(memory.bases.grad, expected, rtol=0, atol=1e-12)


def test_small_bases_are_enlarged_after_they_are_combined() -> None:
    memory = started(shape=(1, 8, 12), downsample=4, bases=3, rows=2)
    assert memory.bases.shape == (3, 1, 2, 3)
    enlarged = F.interpolate(memory.bases, size=(8, 12), mode="bilinear", align_corners=False)
    expected = (memory.addressing @ enlarged.flatten(1)).view(6, 1, 8, 12)
    torch.testing.assert_close(memory()[0], expected)


def test_start_is_xavier_uniform_in_both_tables() -> None:
    memory = started(ipc=40, bases=40, rows=30)
    for table, fans in ((memory.bases, 40 + 64), (memory.addressing, 90 + 40)):
        bound = (6 / fans) ** 0.5
        assert 0.95 * bound < float(table.detach().abs().max()) <= bound
        assert abs(float(table.detach().std()) / (bound / 3**0.5) - 1) < 0.05


def test_some_images_are_decoded_as_among_all() -> None:
    memory = started()
    index = torch.tensor([5, 0, 5, 17])
    torch.testing.assert_close(memory(index)[0], memory()[0][index])
    assert torch.equal(memory(index)[1], memory.classes[index])


def test_a_step_looks_at_some_rows_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = started()
    monkeypatch.setattr(AddressedMemory, "batch_images", 4)
    classes = torch.tensor([0, 1, 2])
    index = memory.batch_index(classes, torch.Generator().manual_seed(0))
    assert torch.equal(memory.classes[index], classes.repeat_interleave(4)) and len(set(index.tolist())) == 12
    assert memory.batch_per_class == 4 and memory.views == 1
    monkeypatch.setattr(AddressedMemory, "batch_images", 100)
    assert torch.equal(memory.batch_index(classes, torch.Generator()), torch.arange(len(memory)))


def test_tables_have_groups_of_their_own() -> None:
    assert {name: len(group) for name, group in started(labels="free").parameter_groups().items()} == {
        "images": 1,
        "addressing": 1,
        "labels": 1,
    }


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_artifact_reloads_to_the_same_images(labels: str, tmp_path) -> None:
    data, memory = toy_data(shape=(1, 8, 12)), started(shape=(1, 8, 12), downsample=2, labels=labels)
    artifact = memory.materialise(data.preprocessing, data.class_names, {"method": "test"})
    loaded = DistilledDataset.load(artifact.save(tmp_path / "a.safetensors"))
    assert torch.equal(loaded.images, memory()[0]) and torch.equal(loaded.labels, memory()[1])
    assert ("labels" in loaded.stored) == (labels == "soft")


def test_tables_that_do_not_fit_are_refused() -> None:
    memory = started()
    stored, options = memory.stored(), memory.options()
    with pytest.raises(ArtifactError, match="does not fit 1 bases"):
        decode("addressed-memory", {**stored, "bases": stored["bases"][:1]}, options)
    with pytest.raises(ArtifactError, match="do not make images of"):
        decode("addressed-memory", stored, {**options, "shape": [1, 9, 9]})


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="downsample=3 does not divide the sides of 8x8"):
        started(downsample=3)
    with pytest.raises(ConfigError, match=r"rows=43 and 2 bases .* choose rows <= 42"):
        started(bases=2, rows=43)
    for option in ("bases", "rows", "downsample"):
        with pytest.raises(ConfigError, match=f"{option}=0 must be at least 1"):
            started(**{option: 0})


def test_resolution_is_halved_where_images_are_large_enough() -> None:
    assert AddressedMemory.options_for(toy_data(shape=(1, 8, 8)), 1) == {"downsample": 1}
    assert AddressedMemory.options_for(toy_data(shape=(1, 28, 28)), 1) == {"downsample": 2}
    assert AddressedMemory.options_for(toy_data(shape=(1, 17, 28)), 1) == {"downsample": 1}
    assert default_bases(10, 1, 2) == 16
