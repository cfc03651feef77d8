"""Teaching generator: batches with their own statistics, generated as wholes, in float64 against finite differences."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from ddkit.data.distilled.dataset import DistilledDataset
from ddkit.errors import ConfigError
from ddkit.synthesis import TeachingGenerator
from ddkit.synthesis.teaching_layers import BatchNormOfBatches, WeightNormed
from ddkit.testing import toy_data

SMALL = {"noise": 3, "hidden": 8, "channels": 4}


def started(ipc: int = 4, shape: tuple[int, int, int] = (1, 8, 8), **options) -> TeachingGenerator:
    generator = TeachingGenerator(3, ipc, shape, **{**SMALL, **options})
    generator.initialise(toy_data(shape=shape), "noise", torch.Generator().manual_seed(0))
    return generator


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 7), (1, 8, 8), (3, 9, 6)])
def test_images_have_the_size_and_range_of_the_data(shape: tuple[int, int, int]) -> None:
    images, labels = started(shape=shape)()
    assert images.shape == (12, *shape) and labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert 0.1 < float(images.detach().abs().max()) <= 2


def test_curriculum_is_generated_identically_twice() -> None:
    generator = started()
    assert torch.equal(generator()[0], generator()[0])


def test_image_does_not_depend_on_which_others_are_asked_for() -> None:
    generator = started(per_batch=2).double()
    whole = generator()[0]
    for index in ([7], [11, 0, 0, 6], [1, 2]):
        torch.testing.assert_close(generator(torch.tensor(index))[0], whole[index], rtol=0, atol=1e-12)


def test_image_depends_on_the_noise_of_its_own_batch_only() -> None:
    generator = started(per_batch=2)
    before = generator()[0].detach()
    with torch.no_grad():
        generator.noise[0] += 1  # class 0, first batch
    changed = (generator()[0].detach() != before).flatten(1).any(1)
    assert changed.tolist() == [True, True, False, False] * 3


def test_half_a_batch_would_give_other_images() -> None:
    together = started(ipc=4)
    halves = started(ipc=4, per_batch=2)
    assert torch.equal(together.noise, halves.noise)
    assert not torch.allclose(together()[0], halves()[0], atol=1e-3)


def test_batch_statistics_equal_those_of_pytorch_batch_after_batch() -> None:
    norm = BatchNormOfBatches(5).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6))
        norm.bias.copy_(torch.arange(5.0))
    for shape in ((6, 5), (6, 5, 4, 3)):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        parts = [F.batch_norm(part, None, None, norm.weight, norm.bias, training=True) for part in x.split(3)]
        torch.testing.assert_close(norm(x, 2), torch.cat(parts), rtol=0, atol=1e-12)


@pytest.mark.parametrize("side", [0, 3])
def test_weights_have_the_learned_lengths(side: int) -> None:
    layer = WeightNormed(4, 6, side)
    layer.draw(torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, *((5, 5) if side else ()), generator=torch.Generator().manual_seed(1))
    first = layer(x)
    plain = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), layer.direction) if side else F.linear(x, layer.direction)
    torch.testing.assert_close(first, plain)
    with torch.no_grad():
        layer.direction *= 7
        layer.length *= 2
        layer.bias += 1
    torch.testing.assert_close(layer(x), 2 * plain + 1)


def numbers(generator: TeachingGenerator) -> Iterator[tuple[str, torch.Tensor, int]]:
    for name, parameter in generator.named_parameters():
        for position in {0, parameter.numel() // 2, parameter.numel() - 1}:
            yield name, parameter, position


def test_gradients_of_weights_and_noise_equal_central_differences() -> None:
    generator = started(ipc=2, per_batch=1).double()
    direction = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def value() -> torch.Tensor:
        return (generator()[0] * direction).sum()

    value().backward()
    for name, parameter, position in numbers(generator):
        assert parameter.grad is not None
        flat, step, found = parameter.data.view(-1), 1e-6, []
        for sign in (1, -1):
            flat[position] += sign * step
            found.append(float(value().detach()))
            flat[position] -= sign * step
        difference = (found[0] - found[1]) / (2 * step)
        assert abs(float(parameter.grad.view(-1)[position]) - difference) < 1e-6, (name, position)


def test_steps_of_other_objectives_look_at_one_whole_batch() -> None:
    generator = started(ipc=6, per_batch=2)
    classes = torch.arange(3)
    drawn = {tuple(generator.batch_index(classes, torch.Generator().manual_seed(seed)).tolist()) for seed in range(20)}
    assert drawn == {(0, 1, 6, 7, 12, 13), (2, 3, 8, 9, 14, 15), (4, 5, 10, 11, 16, 17)}
    assert generator.batch_per_class == 2


def test_shuffled_inner_steps_take_every_whole_batch_in_turn() -> None:
    generator = started(ipc=6, per_batch=2)
    batches = [batch.tolist() for batch in generator.inner_batches(6, None, torch.Generator().manual_seed(0))]
    assert (
        sorted(batches[:3])
        == sorted(batches[3:])
        == [[0, 1, 6, 7, 12, 13], [2, 3, 8, 9, 14, 15], [4, 5, 10, 11, 16, 17]]
    )
    assert all(len(batch) == 5 for batch in generator.inner_batches(3, 5, torch.Generator()))


def test_noise_has_a_group_of_its_own() -> None:
    groups = started().parameter_groups()
    assert set(groups) == {"images", "noise"} and [tuple(p.shape) for p in groups["noise"]] == [(12, 3)]


def test_artifact_holds_and_counts_the_images(tmp_path) -> None:
    data, generator = toy_data(), started(per_batch=2)
    artifact = generator.materialise(data.preprocessing, data.class_names, {"method": "test"})
    loaded = DistilledDataset.load(artifact.save(tmp_path / "a.safetensors"))
    assert torch.equal(loaded.images, generator()[0].detach()) and torch.equal(loaded.labels, generator()[1])
    assert artifact.budget.floats == 12 * 64 + 12 and artifact.budget.images == 12


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="per_batch=3 does not divide ipc=4"):
        started(per_batch=3)
    with pytest.raises(ConfigError, match="sides must be at least 4"):
        TeachingGenerator(3, 1, (1, 3, 8))
    for option in ("noise", "hidden", "channels", "per_batch"):
        with pytest.raises(ConfigError, match=f"{option}=0 must be at least 1"):
            started(**{option: 0})
