"""One matching network: new weights in place, losses with weights, compiled like eager."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ddkit.base.precision import Precision
from ddkit.models import ModelSpec
from ddkit.networks import Network

SHAPE, CLASSES = (1, 8, 8), 3


def network(precision: Precision | None = None, model: str = "convnet:width=4,depth=2") -> Network:
    return Network(ModelSpec.parse(model), SHAPE, CLASSES, precision=precision)


def batch(n: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *SHAPE, generator=generator), torch.randint(0, CLASSES, (n,), generator=generator)


def test_reset_gives_the_weights_of_a_new_build_in_place() -> None:
    net = network()
    pointers = [p.data_ptr() for p in net.module.parameters()]
    net.reset(17)
    fresh = net.spec.build(SHAPE, CLASSES, 17)
    assert all(torch.equal(a, b) for a, b in zip(net.module.parameters(), fresh.parameters(), strict=True))
    assert pointers == [p.data_ptr() for p in net.module.parameters()]


def test_features_are_the_input_of_the_classifier() -> None:
    net = network()
    images, _ = batch()
    features = net.features(images)
    assert features.shape == (6, 4 * 2 * 2) and features.dtype == torch.float32
    torch.testing.assert_close(net.module.classifier(features), net.module(images))


def test_loss_is_the_mean_cross_entropy() -> None:
    net = network()
    images, targets = batch()
    torch.testing.assert_close(net.loss(images, targets), F.cross_entropy(net.module(images), targets))
    soft = F.one_hot(targets, CLASSES).float() * 0.7 + 0.1
    torch.testing.assert_close(net.loss(images, soft), F.cross_entropy(net.module(images), soft))


def test_rows_of_weight_zero_do_not_count() -> None:
    net = network()
    net.module.double()
    images, targets = batch()
    weights = torch.tensor([0.25] * 4 + [0.0] * 2, dtype=torch.float64)
    torch.testing.assert_close(
        net.loss(images, targets, weights), net.loss(images[:4], targets[:4]), rtol=1e-12, atol=0
    )


def test_images_are_brought_to_the_weights_number_format() -> None:
    net = network()
    net.module.double()
    images, targets = batch()
    assert net.features(images).dtype == net.loss(images, targets).dtype == torch.float64


def test_batch_norm_is_recognised() -> None:
    assert not network().has_batch_norm
    assert network(model="convnet:width=4,depth=2,norm=batch").has_batch_norm


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.02)])
def test_compiled_passes_equal_the_eager_ones(dtype: torch.dtype, tolerance: float) -> None:
    torch._dynamo.reset()
    model = "convnet:width=4,depth=1"
    eager, compiled = network(model=model), network(Precision(dtype, compile=True), model)
    images, targets = batch()
    frames = []
    for seed in (1, 2):
        for net in (eager, compiled):
            net.reset(seed)
        features, expected = compiled.features(images), eager.features(images)
        assert features.dtype == torch.float32
        assert (features - expected).norm() <= tolerance * expected.norm()
        loss, reference = compiled.loss(images, targets), eager.loss(images, targets)
        assert (loss - reference).abs() <= tolerance * reference
        gradients, exact = (
            torch.cat([g.flatten() for g in torch.autograd.grad(value, list(net.module.parameters()))])
            for value, net in ((loss, compiled), (reference, eager))
        )
        assert (gradients - exact).norm() <= 2 * tolerance * exact.norm()
        frames.append(torch._dynamo.utils.counters["frames"]["ok"])
    assert frames[0] == frames[1], "new weights must not need a new compilation"
