"""Sources with a kernel: infinitely wide networks, and random bodies that are drawn anew in every step."""

from __future__ import annotations

import copy

import pytest
import torch

from ddkit.errors import ConfigError
from ddkit.models import kernels
from ddkit.networks import InfiniteNetworks, RandomFeatureNetworks
from ddkit.testing import toy_data
from tests.networks.bench import ready, same_after_resuming, walk, weights


def body_weights(source: RandomFeatureNetworks) -> list[torch.Tensor]:
    source.current()
    return [torch.cat([weight.flatten() for weight in body.weights]) for body in source.networks]


def test_infinite_networks_give_the_described_kernel() -> None:
    source, _ = ready(InfiniteNetworks(kernel="nngp", architecture="cpcf", sigma_b2=0.1))
    x = torch.rand(3, 1, 8, 8)
    expected = kernels.infinite_kernel("cpcf", (1, 8, 8), kernel="nngp", sigma_b2=0.1)
    grams = [kernel.gram(kernel.represent(x)) for kernel in (source.kernel(), expected)]
    assert torch.equal(*grams)
    assert source.kernel().describe() == expected.describe()


def test_infinite_networks_leave_the_network_as_it_is() -> None:
    source, pixels = ready(InfiniteNetworks())
    seen = walk(source, pixels, 3)
    assert torch.equal(seen[0], seen[2])
    assert source.state_dict() == {} and source.age() == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": "rbf"}, "must be ntk or nngp"),
        ({"sigma_w2": -1.0}, "sigma_w2=-1.0"),
        ({"architecture": "resnet"}, "unknown architecture 'resnet'"),
        ({"architecture": "myrtle99"}, "unknown architecture"),
        ({"architecture": "cpcpcpcpf"}, "8x8 images cannot take"),
    ],
)
def test_bad_infinite_networks_are_refused(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ready(InfiniteNetworks(**options))


def test_bodies_differ_and_are_new_in_every_step() -> None:
    source, _ = ready(RandomFeatureNetworks(bodies=3))
    first, second = body_weights(source), body_weights(source)
    assert len(first) == 3
    distinct = {tuple(w.tolist()) for w in first + second}
    assert len(distinct) == 6


def test_bodies_follow_the_seed() -> None:
    (first, _), (again, _), (other, _) = (ready(RandomFeatureNetworks(bodies=2), seed) for seed in (0, 0, 1))
    a, b, c = (body_weights(source) for source in (first, again, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])


def test_same_bodies_have_the_same_features_to_the_bit() -> None:
    x = torch.rand(4, 1, 8, 8)
    grams = []
    for _ in range(2):
        source, _ = ready(RandomFeatureNetworks(bodies=2))
        source.current()
        grams.append(source.kernel().gram(source.kernel().represent(x)))
    assert torch.equal(*grams)


def test_description_is_fixed_while_bodies_change() -> None:
    source, _ = ready(RandomFeatureNetworks(bodies=2, evaluation_bodies=3))
    state = source.streams.state_dict()
    described = source.kernel().describe()
    assert source.streams.state_dict().keys() == state.keys()
    source.current()
    assert source.kernel().describe() == described
    kernel = kernels.create(described, (1, 8, 8), 3)
    assert len(kernel.bodies) == 3
    x = torch.rand(4, 1, 8, 8)
    present = source.kernel()
    assert not torch.equal(kernel.gram(kernel.represent(x)), present.gram(present.represent(x)))


@pytest.mark.parametrize("before", [0, 2])
def test_resumed_source_goes_on_with_the_same_bodies(before: int) -> None:
    same_after_resuming(RandomFeatureNetworks, {"bodies": 2}, before, 3)


def test_bodies_are_never_differentiated() -> None:
    source, pixels = ready(RandomFeatureNetworks(bodies=2))
    source.current()
    images, _ = pixels()
    source.kernel().gram(source.kernel().represent(images)).sum().backward()
    assert pixels.images.grad is not None
    assert all(p.grad is None for p in source.network.module.parameters())


def test_gradient_of_bodies_that_share_a_network_is_that_of_separate_ones() -> None:
    source, pixels = ready(RandomFeatureNetworks(bodies=3))
    source.current()
    images, _ = pixels()
    mine = images.detach().double().requires_grad_()
    source.network.module.double()
    separate = []
    for body in source.networks:
        body.weights = [weight.double() for weight in body.weights]
        body.load()
        separate.append(copy.deepcopy(source.network.module))
    direction = torch.randn(len(mine), len(mine), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = source.kernel()
    (kernel.gram(kernel.represent(mine)) * direction).sum().backward()
    again = mine.detach().requires_grad_()
    apart = kernels.NetworkFeatures(separate, scale=2.0, bias=0.01)
    (apart.gram(apart.represent(again)) * direction).sum().backward()
    assert torch.allclose(mine.grad, again.grad, rtol=1e-12, atol=1e-14) and float(mine.grad.norm()) > 0


def test_the_network_of_the_run_holds_the_first_body() -> None:
    source, _ = ready(RandomFeatureNetworks(bodies=2))
    w = weights(source)
    assert torch.equal(w, torch.cat([weight.flatten() for weight in source.networks[0].weights]))
    assert source.at_once == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bodies": 0}, "networks.bodies=0"),
        ({"evaluation_bodies": 0}, "networks.evaluation_bodies=0"),
        ({"scale": 0.0}, "networks.scale=0.0"),
        ({"bias": -0.1}, "networks.bias=-0.1"),
    ],
)
def test_bad_bodies_are_refused(options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RandomFeatureNetworks(**options)


def test_batch_norm_is_refused() -> None:
    from ddkit import augment
    from ddkit.base.streams import Streams
    from ddkit.models import ModelSpec
    from ddkit.networks import Network, RealSignal
    from ddkit.objectives import Context

    data, source = toy_data(), RandomFeatureNetworks()
    network = Network(ModelSpec.parse("convnet:width=4,depth=1,norm=batch"), data.shape, data.num_classes)
    with pytest.raises(ConfigError, match="has batch norm"):
        source.setup(Context(3, RealSignal(), network, augment.create("none"), Streams(0), networks=source))
