"""Fully connected and convolutional kernels against finite networks and the full recursion."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ddkit.errors import ConfigError
from ddkit.models import kernels
from ddkit.models.kernels import Kernel, convolutional, infinite_kernel
from tests.kernels.oracles import (
    finite_conv_kernel,
    finite_fc_kernels,
    pixel_recursion,
    random_images,
    relative,
)

SHAPE = (2, 7, 9)


def gram_of(kernel: Kernel, images: torch.Tensor) -> torch.Tensor:
    return kernel.gram(kernel.represent(images))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_fully_connected_ntk_is_the_limit_of_finite_networks(depth: int) -> None:
    x = random_images(5, (1, 4, 5))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([finite_fc_kernels(x, depth, 2048, generator) for _ in range(8)])
    assert relative(draws.mean(0), infinite_kernel(f"fc{depth}", (1, 4, 5)).gram(x.flatten(1))) < 0.04


@pytest.mark.parametrize("layers", ["ccf", "cpcpf", "ccpcpf", "cpcg"])
def test_convolutional_ntk_is_the_limit_of_finite_networks(layers: str) -> None:
    x = random_images(4, (1, 8, 8))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([finite_conv_kernel(x, layers, 128, generator) for _ in range(24)])
    assert relative(draws.mean(0), gram_of(infinite_kernel(layers, (1, 8, 8)), x)) < 0.05


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("layers", ["cf", "ccf", "cpf", "cpcpf", "ccpcpf", "cppf", "cg", "ccpcg"])
def test_convolutional_kernel_equals_the_recursion_over_all_pixels(layers: str, kind: str) -> None:
    """The band, odd borders included: 7 and 9 pixels lose one at the first pooling."""
    x, y = random_images(3, SHAPE), random_images(2, SHAPE, seed=1)
    kernel = infinite_kernel(layers, SHAPE, kernel=kind)
    support = kernel.represent(x)
    torch.testing.assert_close(kernel.gram(support), pixel_recursion(x, x, layers, kind), rtol=0, atol=1e-7)
    torch.testing.assert_close(kernel.cross(y, support), pixel_recursion(y, x, layers, kind), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", ["ntk", "nngp"])
@pytest.mark.parametrize("architecture", ["fc1", "fc2", "fc3", "conv2", "cpcpf", "cpcg"])
def test_gradients_equal_finite_differences(architecture: str, kind: str) -> None:
    x, y = random_images(2, (1, 5, 4)).requires_grad_(), random_images(2, (1, 5, 4), seed=1)
    kernel = infinite_kernel(architecture, (1, 5, 4), kernel=kind)

    def both(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        support = kernel.represent(images)
        return kernel.gram(support), kernel.cross(y, support)

    assert torch.autograd.gradcheck(both, x)


@pytest.mark.parametrize("architecture", ["fc2", "cpcpf", "cpcg", "ccf"])
def test_tiles_change_neither_values_nor_gradients(architecture: str, monkeypatch) -> None:
    x, y = random_images(5, SHAPE), random_images(3, SHAPE, seed=1)
    kernel = infinite_kernel(architecture, SHAPE)

    def run() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        support = kernel.represent(leaf)
        gram, cross = kernel.gram(support), kernel.cross(y, support)
        (gram.sin().sum() + cross.cos().sum()).backward()
        return [gram.detach(), cross.detach(), leaf.grad]

    whole = run()
    monkeypatch.setattr(convolutional, "TILE_NUMBERS", {"cpu": 1})
    for value, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", ["cpcpf", "cpcg", "ccf"])
def test_own_covariances_of_the_support_are_found_once_for_all_chunks(architecture: str, monkeypatch) -> None:
    x, y = random_images(3, SHAPE), random_images(4, SHAPE, seed=1)
    kernel = infinite_kernel(architecture, SHAPE)
    seen: list[int] = []
    original = kernel._own

    def counted(images: torch.Tensor) -> Any:
        seen.append(len(images))
        return original(images)

    monkeypatch.setattr(kernel, "_own", counted)
    support = kernel.represent(x)
    whole = kernel.cross(y, support)
    seen.clear()
    kernel.gram(support)
    assert torch.equal(torch.cat([kernel.cross(part, support) for part in y.split(2)]), whole)
    assert seen == [2, 2]


@pytest.mark.parametrize("architecture", ["fc1", "fc3", "conv2", "cpcpf", "cpcg"])
def test_image_that_is_also_a_target_has_finite_gradients(architecture: str) -> None:
    x = random_images(3, (1, 6, 6)).float()
    x[1] = 0
    kernel = infinite_kernel(architecture, (1, 6, 6))
    leaf = torch.cat([x, x[:1]]).requires_grad_()
    support = kernel.represent(leaf)
    gram, cross = kernel.gram(support), kernel.cross(x, support)
    (gram.sum() + cross.sum()).backward()
    assert torch.isfinite(leaf.grad).all()
    torch.testing.assert_close(cross[0, 0], gram[0, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("architecture", ["fc2", "cpf"])
def test_empty_images_without_bias_have_no_gradient_instead_of_nan(architecture: str) -> None:
    leaf = torch.zeros(2, 1, 4, 4, requires_grad=True)
    kernel = infinite_kernel(architecture, (1, 4, 4), sigma_b2=0.0)
    gram = kernel.gram(kernel.represent(leaf))
    gram.sum().backward()
    assert torch.equal(gram, torch.zeros(2, 2, dtype=torch.float64)) and torch.equal(leaf.grad, torch.zeros_like(leaf))


def test_float32_kernel_is_close_to_float64() -> None:
    x = random_images(6, (1, 8, 8))
    for architecture in ("fc3", "cpcpf"):
        kernel = infinite_kernel(architecture, (1, 8, 8))
        assert relative(kernel.gram(kernel.represent(x.float())), kernel.gram(kernel.represent(x))) < 1e-5


def test_band_follows_fewer_numbers_than_all_pairs_of_pixels() -> None:
    band, everything = (infinite_kernel(layers, (3, 32, 32)).numbers for layers in ("cpcpcpf", "cpcpcpg"))
    assert (band, everything) == (230_400, 1_048_576)
    assert infinite_kernel("convnet", (1, 28, 28)).numbers == 176_400
    assert infinite_kernel("conv3", (3, 32, 32)).numbers == 1024


@pytest.mark.parametrize(
    ("name", "layers"),
    [("conv2", "ccf"), ("convnet3", "cpcpcpf"), ("convnet", "ccpcpcpf"), ("myrtle5", "ccpcpcg")],
)
def test_architectures_have_names(name: str, layers: str) -> None:
    x = random_images(2, (1, 8, 8))
    named, spelt = (infinite_kernel(text, (1, 8, 8)) for text in (name, layers))
    assert torch.equal(gram_of(named, x), gram_of(spelt, x))


@pytest.mark.parametrize("architecture", ["fc2", "FC:2", "convnet3", "ccpcg"])
def test_description_builds_the_same_kernel(architecture: str) -> None:
    x = random_images(3, (1, 8, 8))
    kernel = infinite_kernel(architecture, (1, 8, 8), kernel="nngp", sigma_w2=1.5, sigma_b2=0.2)
    again = kernels.create(kernel.describe(), (1, 8, 8), 10)
    assert again.describe() == kernel.describe()
    assert torch.equal(again.gram(again.represent(x)), kernel.gram(kernel.represent(x)))


@pytest.mark.parametrize(
    ("architecture", "options", "message"),
    [
        ("fc0", {}, "has no hidden layer"),
        ("resnet", {}, "unknown architecture 'resnet'"),
        ("pcf", {}, "must start with c"),
        ("cpcpcpcpf", {}, "pools 4 times, which 8x8 images cannot take"),
        ("fc1", {"kernel": "rbf"}, "must be ntk or nngp"),
        ("fc1", {"sigma_w2": 0.0}, "sigma_w2=0.0"),
        ("conv2", {"sigma_b2": -1.0}, "sigma_b2=-1.0"),
    ],
)
def test_bad_options_are_refused(architecture: str, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        infinite_kernel(architecture, (1, 8, 8), **options)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({}, "lacks its name"),
        ({"name": "rbf"}, "unknown kernel 'rbf'"),
        ({"name": "infinite", "architecture": "fc1", "depth": 2}, "bad options of kernel 'infinite'"),
        ({"name": "random-features"}, "bad options of kernel 'random-features'"),
        ({"name": "network-features", "model": "convnet"}, "train them"),
    ],
)
def test_bad_descriptions_are_refused(description: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kernels.create(description, (1, 8, 8), 10)
