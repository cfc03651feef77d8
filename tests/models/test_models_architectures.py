"""Are the networks those of the field's tables, for every size, option and batch?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn as nn
import torchvision
from torch import Tensor
from torch.nn import functional

from ddkit import models
from ddkit.errors import ConfigError
from ddkit.models.convnet import default_depth

MNIST, CIFAR = (1, 28, 28), (3, 32, 32)


def build(name: str, shape: tuple[int, int, int], num_classes: int, **options: Any) -> Any:
    return models.build(name, shape, num_classes, **options)


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def images(shape: tuple[int, int, int], count: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def copy_parameters(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for old, new in zip(target.parameters(), source.parameters(), strict=True):
            old.copy_(new)


@pytest.mark.parametrize(
    ("name", "shape", "classes", "options", "expected"),
    [
        ("convnet", MNIST, 10, {"depth": 3}, 317_706),
        ("convnet", CIFAR, 10, {"depth": 3}, 320_010),
        ("convnet", (3, 64, 64), 200, {"depth": 4}, 857_160),
        ("convnet", (3, 128, 128), 10, {"depth": 5}, 615_690),
        ("mlp", MNIST, 10, {}, 118_282),
        ("mlp", CIFAR, 10, {}, 411_146),
        ("lenet", MNIST, 10, {}, 61_706),
        ("lenet", CIFAR, 10, {}, 62_006),
        ("alexnet", MNIST, 10, {}, 1_865_802),
        ("alexnet", CIFAR, 10, {}, 1_872_202),
        ("vgg11", MNIST, 10, {}, 9_229_962),
        ("vgg11", CIFAR, 10, {}, 9_231_114),
        ("resnet18", MNIST, 10, {}, 11_172_810),
        ("resnet18", CIFAR, 10, {}, 11_173_962),
        ("resnet18_ap", MNIST, 10, {}, 11_213_770),
        ("resnet18_ap", CIFAR, 10, {}, 11_250_762),
        ("resnet10", CIFAR, 10, {}, 1_228_970),
        ("densenet121", CIFAR, 10, {}, 1_000_618),
        ("densenet121", CIFAR, 10, {"growth": 32}, 6_956_298),
        # torchvision's 60 192 808, less its 7x7 stem and 1000 classes, plus a 3x3 stem and 10 classes
        ("resnet152", CIFAR, 10, {}, 60_192_808 - 9_408 + 1_728 - 2_049_000 + 20_490),
    ],
)
def test_parameter_count_and_output_shape_match_the_table(
    name: str, shape: tuple[int, int, int], classes: int, options: dict[str, int], expected: int
) -> None:
    model = build(name, shape, classes, **options)
    assert parameters(model) == expected
    assert model.to("meta")(torch.empty(2, *shape, device="meta")).shape == (2, classes)


@pytest.mark.parametrize("name", models.available())
@pytest.mark.parametrize("shape", [MNIST, CIFAR])
def test_features_are_what_the_classifier_reads(name: str, shape: tuple[int, int, int]) -> None:
    model = build(name, shape, 10).to("meta")
    seen: list[Tensor] = []
    model.classifier.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.empty(2, *shape, device="meta")
    assert model(x).shape == (2, 10)
    maps = model.feature_maps(x)
    assert len(maps) == len(model.stages)
    assert maps[-1].flatten(1).shape == model.features(x).shape == seen[0].shape
    assert seen[0].shape == (2, model.classifier.in_features)


@pytest.mark.parametrize("name", ["convnet", "mlp", "lenet", "alexnet", "resnet10"])
def test_forward_is_the_classifier_of_the_features_of_the_last_map(name: str) -> None:
    model, x = build(name, CIFAR, 5).eval(), images(CIFAR)
    features = model.features(x)
    assert torch.equal(model.classifier(features), model(x))
    assert torch.equal(model.feature_maps(x)[-1].flatten(1), features)


def test_convnet_equals_a_hand_written_forward() -> None:
    model, x = build("convnet", CIFAR, 10, depth=3, width=16), images(CIFAR, 3)
    expected_maps = []
    weights = list(model.parameters())
    h = x
    for block in range(3):
        kernel, bias, scale, shift = weights[4 * block : 4 * block + 4]
        h = functional.conv2d(h, kernel, bias, padding=1)
        centred = h - h.mean((2, 3), keepdim=True)
        h = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        h = (h * scale[:, None, None] + shift[:, None, None]).clamp(min=0)
        expected_maps.append(h)
        h = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
    expected_maps.append(h)
    for found, expected in zip(model.feature_maps(x), expected_maps, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    logits = h.flatten(1) @ weights[-2].T + weights[-1]
    torch.testing.assert_close(model(x), logits, rtol=0, atol=1e-6)


def test_instance_norm_standardises_every_map_of_every_image() -> None:
    model = build("convnet", CIFAR, 10, width=4).double()
    norm = model.stages[0][1]
    assert isinstance(norm, nn.GroupNorm)
    maps = norm(model.stages[0][0](images(CIFAR).double()))
    torch.testing.assert_close(maps.mean((2, 3)), torch.zeros(2, 4).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(maps.var((2, 3), correction=0), torch.ones(2, 4).double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["convnet", "mlp", "lenet", "alexnet", "vgg11", "resnet18"])
def test_permuting_the_batch_permutes_the_output_and_one_image_works(name: str) -> None:
    model, x = build(name, CIFAR, 10).eval(), images(CIFAR, 4)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        expected = model(x)
        torch.testing.assert_close(model(x[order]), expected[order], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model(x[:1]), expected[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "batch", "layer", "group", "none"])
@pytest.mark.parametrize("pooling", ["avg", "max", "none"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "leaky", "swish"])
def test_every_convnet_option_gives_finite_logits_and_input_gradients(norm: str, pooling: str, activation: str) -> None:
    options = {"norm": norm, "pooling": pooling, "activation": activation, "width": 8, "depth": 2}
    model = build("convnet", (3, 10, 14), 4, **options)
    x = images((3, 10, 14)).requires_grad_()
    logits = model(x)
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().sum() > 0
    assert models.uses_batch_norm(model) == (norm == "batch")


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda z: z.clamp(min=0)),
        ("sigmoid", lambda z: 1 / (1 + torch.exp(-z))),
        ("leaky", lambda z: torch.where(z > 0, z, 0.01 * z)),
        ("swish", lambda z: z / (1 + torch.exp(-z))),
    ],
)
def test_activation_options_are_the_named_functions(activation: str, function: object) -> None:
    model = build("convnet", (1, 8, 8), 2, width=4, depth=1, activation=activation).double()
    x = images((1, 8, 8)).double()
    convolution, norm, _ = model.stages[0]
    assert callable(function)
    torch.testing.assert_close(model.feature_maps(x)[0], function(norm(convolution(x))), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("norm", "axes"), [("instance", (2, 3)), ("layer", (1, 2, 3)), ("batch", (0, 2, 3))])
def test_norm_options_standardise_over_the_axes_of_their_definition(norm: str, axes: tuple[int, ...]) -> None:
    model = build("convnet", (3, 9, 12), 2, width=8, depth=1, norm=norm).double()
    convolution, layer, _ = model.stages[0]
    z = convolution(images((3, 9, 12)).double())
    variance, mean = torch.var_mean(z, axes, correction=0, keepdim=True)
    torch.testing.assert_close(layer(z), (z - mean) / (variance + 1e-5).sqrt(), rtol=0, atol=1e-12)


def test_group_norm_has_four_groups_and_refuses_a_width_they_do_not_divide() -> None:
    assert build("convnet", CIFAR, 2, norm="group", width=8).stages[0][1].num_groups == 4
    with pytest.raises(ConfigError, match="cannot split 6: use a width that is a multiple of 4"):
        build("convnet", CIFAR, 2, norm="group", width=6)


@pytest.mark.parametrize("shape", [CIFAR, MNIST])
@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
def test_norms_before_convolutions_and_growing_widths_equal_a_hand_written_forward(
    norm: str, shape: tuple[int, int, int]
) -> None:
    """[norm if not the first] -> convolution to width * 2^i -> ReLU -> pooling: the network of FRePo."""
    model = build("convnet", shape, 10, width=4, growth=2, norm=norm, norm_position="before").double().eval()
    h = images(shape, 3).double()
    x, convolutions = h, [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm)]
    assert [convolution.out_channels for convolution in convolutions] == [4, 8, 16]
    assert len(norms) == (0 if norm == "none" else 2)
    for block, convolution in enumerate(convolutions):
        if block and norms:
            h = norms[block - 1](h)
        h = functional.conv2d(h, convolution.weight, convolution.bias, padding=3 if h.shape[-1] == 28 else 1)
        h = functional.avg_pool2d(h.clamp(min=0), 2)
    assert h.shape == (3, 16, 4, 4)
    torch.testing.assert_close(model.features(x), h.flatten(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(model(x), model.classifier(h.flatten(1)), rtol=0, atol=1e-12)


def test_frepo_network_has_the_published_feature_size() -> None:
    model = build("convnet", CIFAR, 10, width=128, growth=2, norm="batch", norm_position="before")
    assert model.classifier.in_features == 512 * 4 * 4
    assert parameters(model) == 9 * (3 * 128 + 128 * 256 + 256 * 512) + 128 + 256 + 512 + 2 * (128 + 256) + 81_930


def test_growth_and_norm_position_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.growth=0 must be at least 1"):
        build("convnet", CIFAR, 2, growth=0)
    with pytest.raises(ConfigError, match="norm_position='behind'"):
        build("convnet", CIFAR, 2, norm_position="behind")
    with pytest.raises(ConfigError, match="norm_position 'behind'"):
        models.ConvNet(CIFAR, 2, norm_position="behind")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("side", "depth"),
    [
        (2, 1),
        (7, 1),
        (8, 2),
        (15, 2),
        (16, 3),
        (28, 3),
        (32, 3),
        (63, 3),
        (64, 4),
        (128, 5),
        (224, 5),
        (256, 6),
    ],
)
def test_default_depth_follows_the_shorter_side(side: int, depth: int) -> None:
    assert default_depth((3, side, 300)) == depth
    model = build("convnet", (3, side, side), 2, width=4).to("meta")
    assert len(model.stages) == depth + 1
    assert model(torch.empty(1, 3, side, side, device="meta")).shape == (1, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("sides", [(8, 8), (8, 11), (13, 12), (28, 28), (33, 47), (64, 64), (96, 40), (224, 224)])
@pytest.mark.parametrize("name", [name for name in models.available() if name != "resnet152"])
def test_every_size_is_supported_or_refused_with_a_size_that_works(
    name: str, channels: int, sides: tuple[int, int]
) -> None:
    shape = (channels, *sides)
    try:
        model = build(name, shape, 3)
    except ConfigError as error:
        minimum = int(str(error).split("at least ")[1].split(" px")[0])
        assert min(sides) < minimum
        shape = (channels, minimum, minimum)
        model = build(name, shape, 3)
        with pytest.raises(ConfigError, match="must be at least"):
            build(name, (channels, minimum - 1, minimum), 3)
    assert model.to("meta")(torch.empty(2, *shape, device="meta")).shape == (2, 3)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("convnet", (3, 8, 8), {"depth": 4}, "3x8x8 .* at least 16 px .* use depth 3 or less"),
        ("convnet", (3, 40, 8), {"depth": 4}, "3x40x8 .* use depth 3 or less"),
        ("convnet", MNIST, {"depth": 6}, "1x28x28 .* use depth 5 or less"),
        ("convnet", (3, 1, 9), {}, "3x1x9 .* at least 2 px"),
        ("lenet", (1, 8, 8), {}, "1x8x8 .* at least 12 px"),
        ("alexnet", (1, 7, 8), {}, "1x7x8 .* at least 8 px"),
        ("vgg11", (3, 28, 28), {}, "3x28x28 .* at least 32 px; 1x28x28 works too"),
        ("resnet18", (1, 8, 8), {}, "1x8x8 .* at least 9 px; .* norm='batch'"),
        ("resnet18_ap", (1, 8, 8), {}, "1x8x8 .* at least 16 px; .* norm='batch' .* 8 px and up"),
        ("resnet18_ap", (1, 7, 7), {"norm": "batch"}, "1x7x7 .* at least 8 px; enlarge"),
        ("densenet121", (3, 7, 7), {}, "3x7x7 .* at least 8 px"),
    ],
)
def test_images_too_small_are_refused_with_what_would_work(
    name: str, shape: tuple[int, int, int], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, shape, 10, **options)


def test_the_remedies_named_in_refusals_work() -> None:
    assert build("convnet", (3, 8, 8), 2, depth=3, width=4)(images((3, 8, 8))).shape == (2, 2)
    deep = build("convnet", (3, 8, 8), 2, depth=4, width=4, pooling="none")
    assert deep(images((3, 8, 8))).shape == (2, 2)
    assert build("resnet18", (1, 8, 8), 2, norm="batch")(images((1, 8, 8))).shape == (2, 2)
    assert build("resnet18_ap", (1, 8, 8), 2, norm="group")(images((1, 8, 8))).shape == (2, 2)


def small_torchvision_resnet(norm: type[nn.Module] | None, bottleneck: bool) -> nn.Module:
    resnet = torchvision.models.resnet
    block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
    blocks = [3, 8, 36, 3] if bottleneck else [2, 2, 2, 2]
    model = resnet.ResNet(block, blocks, 10, norm_layer=norm)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


class ChannelNorm(nn.GroupNorm):
    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)


@pytest.mark.parametrize(("name", "bottleneck"), [("resnet18", False), ("resnet152", True)])
def test_resnets_equal_torchvision_with_a_small_stem(name: str, bottleneck: bool) -> None:
    model, reference = build(name, CIFAR, 10), small_torchvision_resnet(ChannelNorm, bottleneck)
    copy_parameters(model, reference)
    x = images(CIFAR)
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)


def test_densenet_equals_torchvision_with_a_small_stem() -> None:
    model = build("densenet121", CIFAR, 10)
    reference = torchvision.models.DenseNet(12, (6, 12, 24, 16), 24, num_classes=10)
    reference.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    reference.features.norm0 = reference.features.relu0 = reference.features.pool0 = nn.Identity()
    copy_parameters(model, reference)
    x = images(CIFAR, 4)
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference(x), rtol=1e-4, atol=1e-5)


def test_resnet18_ap_halves_maps_by_average_pooling_only() -> None:
    model = build("resnet18_ap", CIFAR, 10)
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert {convolution.stride for convolution in convolutions} == {(1, 1)}
    assert [tuple(m.shape[1:]) for m in model.feature_maps(images(CIFAR, 1))] == [
        (64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)
    ]  # fmt: skip
    block, x = model.stages[2][0], images((64, 6, 6))
    first, norm1, second, norm2, short, norm3 = (
        module for module in block.modules() if isinstance(module, nn.Conv2d | nn.GroupNorm)
    )
    residual = norm2(second(functional.avg_pool2d(norm1(first(x)).relu(), 2)))
    expected = (residual + norm3(functional.avg_pool2d(short(x), 2))).relu()
    torch.testing.assert_close(block(x), expected)


def test_resnet10_convolutions_have_variance_two_over_fan_out() -> None:
    model = build("resnet10", CIFAR, 10, seed=1)
    weight = model.stages[4][0].branch[0].weight
    assert weight.shape == (256, 128, 3, 3)
    assert weight.var().item() == pytest.approx(2 / (256 * 9), rel=0.02)


@pytest.mark.parametrize("norm", ["instance", "batch", "group"])
@pytest.mark.parametrize("name", ["vgg11", "resnet10", "resnet18", "resnet18_ap"])
def test_norm_option_of_the_larger_networks_changes_the_layers_and_not_the_size(name: str, norm: str) -> None:
    model = build(name, CIFAR, 10, norm=norm)
    assert models.uses_batch_norm(model) == (norm == "batch")
    assert parameters(model) == parameters(build(name, CIFAR, 10))
    groups = {module.num_groups for module in model.modules() if isinstance(module, nn.GroupNorm)}
    assert (groups == {4}) == (norm == "group")


def test_batch_norm_is_found_where_the_table_has_it() -> None:
    with_batch_norm = {name for name in models.available() if models.uses_batch_norm(build(name, CIFAR, 2))}
    assert with_batch_norm == {"resnet10", "densenet121"}
