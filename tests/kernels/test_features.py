"""Kernels of network features: against exact limits, concatenated features, and the dual form."""

from __future__ import annotations

import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import nn

from ddkit.errors import ConfigError
from ddkit.models import ModelSpec, kernels
from ddkit.models.kernels import KernelClassifier, NetworkFeatures, RandomFeatures, infinite_kernel
from tests.kernels.oracles import random_images, relative

SHAPE = (1, 8, 8)


class Flatten(nn.Module):
    """The identity as a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


def bodies(count: int, width: int, seed: int = 0, depth: int = 2) -> list[nn.Module]:
    spec = ModelSpec.parse(f"convnet:norm=none,width={width},depth={depth},init=ntk")
    built = [spec.build(SHAPE, 3, seed=1000 * seed + number) for number in range(count)]
    return [body.double().requires_grad_(False) for body in built]


def test_random_features_converge_to_the_exact_nngp_kernel() -> None:
    """12 draws of 64 bodies of width 64; the error falls as 1 / sqrt(bodies * width)."""
    x = random_images(5, SHAPE)
    limit = infinite_kernel("cpcpf", SHAPE, kernel="nngp")
    exact = limit.gram(limit.represent(x))

    def mean_error(count: int) -> float:
        errors = []
        for draw in range(12):
            kernel = NetworkFeatures(bodies(count, 64, seed=draw), 2.0, 0.01)
            errors.append(relative(kernel.gram(kernel.represent(x)), exact))
        return sum(errors) / len(errors)

    many, few = mean_error(64), mean_error(4)
    assert many < 0.06
    assert few > 2 * many


def test_summed_grams_equal_concatenated_features() -> None:
    x, y, nets = random_images(4, SHAPE), random_images(6, SHAPE, 1), bodies(3, 5)
    kernel = NetworkFeatures(nets, 2.0, 0.01)
    phi = [torch.cat([net.features(images) for net in nets], 1) for images in (x, y)]
    size = phi[0].shape[1]
    support = kernel.represent(x)
    torch.testing.assert_close(kernel.gram(support), 2 / size * phi[0] @ phi[0].T + 0.01, rtol=1e-12, atol=0)
    torch.testing.assert_close(kernel.cross(y, support), 2 / size * phi[1] @ phi[0].T + 0.01, rtol=1e-12, atol=0)


def test_body_by_body_gradient_equals_the_plain_graph() -> None:
    y, nets = random_images(6, SHAPE, 1), bodies(3, 4)
    plain, chunked = (random_images(4, SHAPE).requires_grad_() for _ in range(2))
    phi, targets = (torch.cat([net.features(images) for net in nets], 1) for images in (plain, y))
    size = phi.shape[1]
    ((2 / size * phi @ phi.T + 0.01).sin().sum() + (2 / size * targets @ phi.T + 0.01).cos().sum()).backward()
    kernel = NetworkFeatures(nets, 2.0, 0.01)
    support = kernel.represent(chunked)
    (kernel.gram(support).sin().sum() + kernel.cross(y, support).cos().sum()).backward()
    torch.testing.assert_close(chunked.grad, plain.grad, rtol=1e-12, atol=1e-13)


def test_weights_get_no_gradient() -> None:
    net = bodies(1, 4)[0]
    x = random_images(3, SHAPE).requires_grad_()
    kernel = NetworkFeatures([net])
    kernel.gram(kernel.represent(x)).sum().backward()
    assert x.grad is not None and all(weight.grad is None for weight in net.parameters())


def test_identity_features_are_linear_kernel_ridge_regression() -> None:
    x, t = random_images(12, (1, 3, 5)), random_images(7, (1, 3, 5), 1)
    labels = torch.eye(4, dtype=torch.float64).repeat(3, 1) - 0.25
    classifier = KernelClassifier(NetworkFeatures([Flatten()]), x, labels, 0.1)
    gram = x.flatten(1) @ x.flatten(1).T
    oracle = KernelRidge(alpha=0.1 * float(gram.trace()) / 12, kernel="linear").fit(
        x.flatten(1).numpy(), labels.numpy()
    )
    expected = torch.from_numpy(oracle.predict(t.flatten(1).numpy()))
    torch.testing.assert_close(classifier.predict(t, chunk=3), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("count", [5, 40])
@pytest.mark.parametrize(("scale", "bias"), [(None, 0.0), (2.0, 0.0), (2.0, 0.3)])
def test_primal_form_equals_the_dual(count: int, scale: float | None, bias: float) -> None:
    x, t = random_images(count, (1, 3, 5)), random_images(6, (1, 3, 5), 1)
    labels = random_images(count, (1, 1, 3), 2).flatten(1)
    kernel = NetworkFeatures([Flatten()], scale, bias)
    support = kernel.represent(x)
    fitted = kernel.fit(support, labels, 1e-4)
    assert len(fitted) == (count if count <= 15 else 16)
    gram = kernel.gram(support)
    dual = kernel.cross(t, support) @ torch.linalg.solve(gram + 1e-4 * gram.trace() / count * torch.eye(count), labels)
    torch.testing.assert_close(kernel.predict(t, support, fitted), dual, rtol=1e-8, atol=1e-8)


def test_primal_form_has_the_gradient_of_the_dual() -> None:
    t, labels = random_images(4, (1, 2, 2), 1), random_images(9, (1, 1, 3), 2).flatten(1).requires_grad_()
    x = random_images(9, (1, 2, 2)).requires_grad_()
    kernel = NetworkFeatures([Flatten()], 2.0, 0.1)

    def predicted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        support = kernel.represent(x)
        return kernel.predict(t, support, kernel.fit(support, y, 1e-2))

    assert torch.autograd.gradcheck(predicted, (x, labels))


def test_float32_features_of_fewer_dimensions_than_images_can_be_solved() -> None:
    x = random_images(300, (1, 4, 4)).float()
    labels = torch.eye(3).repeat(100, 1)
    assert KernelClassifier(NetworkFeatures([Flatten()]), x, labels, 1e-6).predict(x).isfinite().all()


def test_description_draws_the_same_bodies_every_time() -> None:
    model = ModelSpec.parse("convnet:norm=none,width=4,depth=1").canonical()
    body = ModelSpec.parse(model).build(SHAPE, 3, seed=0)
    kernel = RandomFeatures([body], model=model, count=3, seed=5, scale=1.5, bias=0.2)
    first, again = (kernels.create(kernel.describe(), SHAPE, 3) for _ in range(2))
    other = kernels.create({**kernel.describe(), "seed": 6}, SHAPE, 3)
    x = random_images(4, SHAPE).float()
    grams = [k.gram(k.represent(x)) for k in (first, again, other)]
    assert first.describe() == kernel.describe() and len(first.bodies) == 3
    assert torch.equal(grams[0], grams[1]) and not torch.equal(grams[0], grams[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bodies": []}, "at least one network"),
        ({"scale": 0.0}, r"networks\.scale=0\.0 must be positive"),
        ({"scale": 2.0, "bias": -0.1}, r"networks\.bias=-0\.1 must be at least 0"),
        ({"bias": 0.1}, "0 without a scale"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkFeatures(**{"bodies": [Flatten()], **options})
