"""Mapped pixels: what the map does, what is learned, and that nothing of it is left in the result."""

from __future__ import annotations

import pytest
import torch

from ddkit import methods
from ddkit.errors import ConfigError
from ddkit.synthesis import MappedPixels, Pixels, decode, registry
from ddkit.testing import toy_data
from ddkit.testing.small import fit_small


def started(**options) -> MappedPixels:
    data = toy_data(shape=(2, 4, 6))
    pixels = MappedPixels(data.num_classes, 2, data.shape, **options)
    pixels.initialise(data, "real", torch.Generator().manual_seed(0))
    return pixels


def shuffled(pixels: MappedPixels) -> torch.Tensor:
    """Replace the map by random numbers and return it."""
    with torch.no_grad():
        pixels.map.copy_(torch.randn(48, 48, generator=torch.Generator().manual_seed(1)))
    return pixels.map.detach()


def test_start_is_that_of_plain_pixels() -> None:
    data, pixels = toy_data(shape=(2, 4, 6)), started()
    plain = Pixels(data.num_classes, 2, data.shape)
    plain.initialise(data, "real", torch.Generator().manual_seed(0))
    assert torch.equal(pixels()[0], plain()[0]) and torch.equal(pixels.pairs, plain.pairs)


def test_every_image_goes_through_the_map_as_a_row() -> None:
    pixels = started()
    map_ = shuffled(pixels)
    images, targets = pixels(torch.tensor([5, 0]))
    expected = torch.stack([pixels.images[i].detach().flatten() @ map_ for i in (5, 0)]).view(2, 2, 4, 6)
    torch.testing.assert_close(images.detach(), expected)
    assert targets.tolist() == [2, 0]


def test_gradients_reach_the_images_through_the_map_and_the_map_from_all_images() -> None:
    pixels = started()
    map_ = shuffled(pixels)
    upstream = torch.randn(6, 2, 4, 6, generator=torch.Generator().manual_seed(2))
    (pixels()[0] * upstream).sum().backward()
    torch.testing.assert_close(pixels.images.grad.flatten(1), upstream.flatten(1) @ map_.T)
    torch.testing.assert_close(pixels.map.grad, pixels.images.detach().flatten(1).T @ upstream.flatten(1))


def test_starting_again_forgets_the_map() -> None:
    pixels, data = started(), toy_data(shape=(2, 4, 6))
    shuffled(pixels)
    pixels.initialise(data, "noise", torch.Generator().manual_seed(0))
    assert torch.equal(pixels.map, torch.eye(48))


def test_result_holds_the_mapped_images_and_no_map() -> None:
    data, pixels = toy_data(shape=(2, 4, 6)), started(labels="soft")
    shuffled(pixels)
    stored = pixels.stored()
    assert sorted(stored) == ["images", "labels"]
    assert torch.equal(decode("mapped-pixels", stored, pixels.options())[0], pixels()[0].detach())
    plain = Pixels(3, 2, data.shape, labels="soft")
    assert pixels.budget() == plain.budget()


def test_map_is_a_group_of_its_own() -> None:
    groups = started(labels="learned").parameter_groups()
    assert {name: [tuple(p.shape) for p in group] for name, group in groups.items()} == {
        "images": [(6, 2, 4, 6)],
        "map": [(48, 48)],
        "labels": [(6, 3)],
    }


@pytest.mark.parametrize("scale", ["regression", "feature", "gradient"])
def test_recommended_rate_of_the_map_is_the_published_one_under_an_adaptive_optimiser(scale: str) -> None:
    group = MappedPixels.defaults(scale)["optimiser"]["groups"]["map"]
    assert group == {"name": "adabelief" if scale == "regression" else "adam", "lr": 5e-5}
    config = methods.get("dm").configure(toy_data(), 1, overrides={"synthesis": "mapped-pixels"})
    assert (config.optimiser.of("map").name, config.optimiser.of("images").lr) == ("adam", 1.0)


def test_run_learns_images_and_map() -> None:
    options = {"synthesis": "mapped-pixels", "optimiser": {"groups": {"map": {"name": "adam", "lr": 0.01}}}}
    plain, mapped = fit_small("dm", {}), fit_small("dm", options)
    assert mapped.images.shape == plain.images.shape and not torch.equal(mapped.images, plain.images)
    assert set(mapped.stored) == {"images", "labels"}


def test_images_that_are_too_large_are_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match=r"12288 x 12288 matrix for images of 3x64x64 \(2\.4 GB .*synthesis=pixels"):
        registry.create("mapped-pixels", num_classes=10, ipc=1, shape=(3, 64, 64))
    assert MappedPixels(2, 1, (1, 64, 64)).map.shape == (4096, 4096)
