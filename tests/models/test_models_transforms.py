"""Do the networks work under vmap, functional calls, second derivatives and torch.compile?"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional

from ddkit.models import ModelSpec

SHAPE = (1, 12, 12)
SPECS = [
    ModelSpec("convnet", {"depth": 2, "width": 4}),
    ModelSpec("convnet", {"depth": 1, "width": 4, "norm": "layer", "pooling": "max", "activation": "swish"}),
    ModelSpec("mlp", {"width": 8}),
    ModelSpec("lenet"),
]


def build(spec: ModelSpec, shape: tuple[int, int, int], num_classes: int, seed: int) -> Any:
    return spec.build(shape, num_classes, seed)


def ids(spec: ModelSpec) -> str:
    return spec.canonical()


@pytest.mark.parametrize("spec", SPECS, ids=ids)
def test_vmap_over_stacked_networks_equals_a_loop(spec: ModelSpec) -> None:
    networks = [build(spec, SHAPE, 3, seed).double() for seed in range(3)]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, *SHAPE, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 0])
    parameters, buffers = stack_module_state(networks)
    skeleton = copy.deepcopy(networks[0]).to("meta")

    def loss(weights: dict, state: dict, batch: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(functional_call(skeleton, (weights, state), (batch,)), labels)

    gradients = vmap(grad(loss))(parameters, buffers, x)
    for row, network in enumerate(networks):
        functional.cross_entropy(network(x[row]), labels).backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(gradients[name][row], parameter.grad, rtol=0, atol=1e-12)


def test_gradients_with_respect_to_images_through_weight_gradients_match_differences() -> None:
    spec = ModelSpec("convnet", {"depth": 1, "width": 2, "activation": "swish"})
    network = build(spec, (1, 4, 4), 2, seed=0).double()
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def weight_gradient(images: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(network(images), torch.tensor([0, 1]))
        return torch.autograd.grad(loss, network.classifier.weight, create_graph=True)[0]

    assert torch.autograd.gradcheck(weight_gradient, (x.requires_grad_(),))


@pytest.mark.parametrize("spec", [SPECS[0], ModelSpec("resnet10", {"norm": "instance"})], ids=ids)
def test_compiled_network_equals_eager_without_graph_breaks_and_survives_reset(spec: ModelSpec) -> None:
    torch._dynamo.reset()
    network = build(spec, SHAPE, 3, seed=0)
    compiled: Any = torch.compile(network, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(compiled(x), network(x))
    spec.reset_(compiled, seed=9)
    torch.testing.assert_close(compiled(x), build(spec, SHAPE, 3, seed=9)(x))


def test_compiled_features_equal_eager() -> None:
    torch._dynamo.reset()
    network = build(SPECS[0], SHAPE, 3, seed=0)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(network.features, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network.features(x))
