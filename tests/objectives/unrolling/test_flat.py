"""Networks as functions of one weight vector, eager and compiled."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.base.precision import Precision
from ddkit.errors import ConfigError
from ddkit.models import ModelSpec
from ddkit.networks import Network
from ddkit.networks.flat import FlatLoss, FlatNetwork
from tests.objectives.unrolling.problems import Toy, relative_error, tanh_mlp_loss


def flat_network(model: str = "convnet:width=4,depth=1", **options: Precision) -> tuple[Network, FlatNetwork, Tensor]:
    network = Network(ModelSpec.parse(model), (1, 8, 8), 3, **options)
    theta = torch.cat([parameter.detach().flatten() for parameter in network.module.parameters()])
    return network, FlatNetwork(network), theta


def test_logits_and_gradients_equal_those_of_the_module() -> None:
    network, flat, theta = flat_network()
    images = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0, 1])
    assert len(flat) == len(theta)
    torch.testing.assert_close(flat.logits(theta, images), network.module(images).detach())
    loss = F.cross_entropy(network.module(images), targets)
    expected = torch.autograd.grad(loss, list(network.module.parameters()))
    torch.testing.assert_close(flat.loss.gradient(theta, images, targets), torch.cat([g.flatten() for g in expected]))


def test_the_template_keeps_its_own_weights() -> None:
    network, flat, theta = flat_network()
    before = network.snapshot()
    images = torch.randn(2, 1, 8, 8)
    flat.loss.product(theta + 1, images, torch.tensor([0, 1]), torch.ones_like(theta))
    assert all(torch.equal(value, before[name]) for name, value in network.snapshot().items())
    assert all(parameter.grad is None for parameter in network.module.parameters())


def test_one_hot_targets_equal_class_numbers() -> None:
    _, flat, theta = flat_network()
    images, classes = torch.randn(3, 1, 8, 8), torch.tensor([2, 0, 1])
    one_hot = F.one_hot(classes, 3).float()
    torch.testing.assert_close(flat.loss.gradient(theta, images, one_hot), flat.loss.gradient(theta, images, classes))


def test_running_statistics_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has batch norm.*use norm=instance"):
        flat_network("convnet:width=4,depth=1,norm=batch")


def test_other_buffers_are_refused() -> None:
    network = Network(ModelSpec.parse("convnet:width=4,depth=1"), (1, 8, 8), 3)
    network.module.register_buffer("counter", torch.zeros(1))
    with pytest.raises(ConfigError, match="has the buffer 'counter'"):
        FlatNetwork(network)


def test_product_differentiates_only_what_is_asked_for() -> None:
    toy = Toy([[0, 1, 2]])
    loss, direction = FlatLoss(tanh_mlp_loss), torch.ones_like(toy.start)
    everything = loss.product(toy.start, toy.images, toy.targets, direction)
    assert everything.curvature is not None and everything.images is not None and everything.targets is not None
    nothing = loss.product(toy.start, toy.images.detach(), toy.targets.detach(), direction, curvature=False)
    assert (nothing.curvature, nothing.images, nothing.targets) == (None, None, None)
    torch.testing.assert_close(nothing.value, everything.value)
    torch.testing.assert_close(nothing.gradient, everything.gradient)
    assert not any(part.requires_grad for part in (everything.gradient, everything.value, everything.images))


def test_compiled_derivatives_equal_eager_ones() -> None:
    _, eager, theta = flat_network()
    _, compiled, _ = flat_network(precision=Precision(compile=True))
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 1, 8, 8, generator=generator).requires_grad_()
    targets = torch.randn(3, 3, generator=generator).softmax(1).requires_grad_()
    direction = torch.randn(theta.shape, generator=generator)
    first = eager.loss.product(theta, images, targets, direction)
    second = compiled.loss.product(theta, images, targets, direction)
    for name in ("gradient", "value", "curvature", "images", "targets"):
        mine, theirs = getattr(second, name), getattr(first, name)
        assert relative_error(mine, theirs) < 1e-5, name
        assert not mine.requires_grad
    gradient = compiled.loss.gradient(theta, images, targets)
    assert relative_error(gradient, first.gradient) < 1e-5
