"""FRePo's loss: does kernel regression on the features of a pool network follow its equations in float64?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch import Tensor

from ddkit.models import ModelSpec
from ddkit.models.kernels import KernelClassifier, NetworkFeatures, regression_rows
from ddkit.networks import Network, OnlinePool
from ddkit.objectives.kernel_losses import label_margin, target_loss
from ddkit.objectives.kernel_regression import KernelRegression
from ddkit.synthesis import Pixels

#: Larger than the published 1e-6, so that a plain inverse is exact enough to compare with.
LAMBDA = 1e-3
FREPO: dict[str, Any] = {"real_images": 12, "balanced": False, "loss": "sum", "margin": 1.0, "regulariser": LAMBDA}


class Flat:
    """Pixels as features."""

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1)


class Linear:
    """A fixed linear map of the pixels."""

    def __init__(self, size: int, features: int) -> None:
        self.weight = normal(size, features, seed=9)

    def features(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def regress(phi_s: Tensor, phi_t: Tensor, rows: Tensor, regulariser: float = LAMBDA) -> Tensor:
    """Predict as the survey's Eq. 17 does, with a plain inverse."""
    gram = phi_s @ phi_s.T
    system = gram + regulariser * gram.trace() / len(gram) * torch.eye(len(gram), dtype=gram.dtype)
    return phi_t @ phi_s.T @ system.inverse() @ rows


def test_identity_features_give_the_predictions_of_kernel_ridge_regression() -> None:
    images, rows, targets = normal(7, 1, 3, 4), normal(7, 3, seed=1), normal(9, 1, 3, 4, seed=2)
    flat = images.flatten(1)
    reference = KernelRidge(alpha=1e-3 * float(flat.square().sum()) / 7, kernel="linear").fit(flat, rows)
    found = KernelClassifier(NetworkFeatures([Flat()]), images, rows, 1e-3).predict(targets, chunk=4)
    expected = torch.from_numpy(reference.predict(targets.flatten(1).numpy()))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("images", [6, 11, 12, 13, 40])
def test_regression_in_the_features_equals_that_in_the_images(images: int) -> None:
    """More images than features are solved for the weights; 12 features."""
    support, rows = normal(images, 1, 6, 6), normal(images, 3, seed=1)
    body, targets = Linear(36, 12), normal(9, 1, 6, 6, seed=2)
    found = KernelClassifier(NetworkFeatures([body]), support, rows, 1e-2).predict(targets)
    expected = regress(body.features(support), body.features(targets), rows, 1e-2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def frozen(model: str = "convnet:width=3,depth=2,norm=none") -> Network:
    network = Network(ModelSpec.parse(model), (1, 8, 8), 3)
    network.module.double().eval().requires_grad_(False)
    return network


def test_loss_is_differentiated_exactly_in_images_and_labels() -> None:
    kernel, targets, classes = NetworkFeatures([frozen()]), normal(5, 1, 8, 8, seed=3), torch.tensor([0, 1, 2, 0, 1])
    rows = regression_rows(classes, 3, "hard").double()

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        support = kernel.represent(images)
        predicted = kernel.predict(targets, support, kernel.fit(support, labels, 1e-3))
        scale = torch.zeros((), dtype=torch.float64)
        return target_loss("sum", predicted, rows, classes, scale) / 5 + label_margin(labels)

    labels = 0.1 * normal(4, 3, seed=4)
    assert torch.autograd.gradcheck(loss, (normal(4, 1, 8, 8).requires_grad_(), labels.requires_grad_()))


@pytest.fixture
def regression(bench: Callable[..., Any]) -> Callable[..., tuple[KernelRegression, Pixels, Network]]:
    """Return a function that sets kernel regression up on one network of a pool, with learned labels."""

    def build(labels: str = "centred", **options: Any) -> tuple[KernelRegression, Pixels, Network]:
        objective, synthesizer, _ = bench(
            KernelRegression(**{**FREPO, **options}),
            model="convnet:width=3,depth=2,norm=none",
            source=OnlinePool(size=1),
            labels=labels,
        )
        network = objective.context.networks.current()
        return objective, synthesizer, network

    return build


def drawn(objective: KernelRegression) -> tuple[Tensor, Tensor]:
    """Return the targets of the next backward pass, and put the streams back."""
    streams = objective.context.streams
    state = streams.state_dict()
    images, labels = objective.context.signal.labelled(12, "real")
    streams.load_state_dict(state)
    return images.double(), labels


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("chunk", [5, 12])
def test_gradients_are_those_of_the_published_loss(flip: bool, chunk: int, regression: Any) -> None:
    objective, synthesizer, network = regression(flip=flip, chunk=chunk)
    with torch.no_grad():  # some margins below 1/3
        synthesizer.labels.rows.mul_(torch.linspace(0.1, 1, 6).double()[:, None])
    targets, classes = drawn(objective)
    scalars = objective.backward(synthesizer)
    images, rows = (p.detach().clone().requires_grad_() for p in (synthesizer.images, synthesizer.labels.rows))
    both = (torch.cat([images, images.flip(-1)]), torch.cat([rows, rows])) if flip else (images, rows)
    predicted = regress(network.features(both[0]), network.features(targets).detach(), both[1])
    top = rows.topk(2).values
    error = predicted - regression_rows(classes, 3, "hard").double()
    loss = 0.5 * error.square().sum() / 12 - (top[:, 0] - top[:, 1]).clamp(max=1 / 3).mean()
    expected = torch.autograd.grad(loss, (images, rows))
    assert scalars["loss"] == pytest.approx(loss.item(), abs=1e-10)
    assert scalars["accuracy"] == (predicted.argmax(1) == classes).double().mean().item()
    torch.testing.assert_close(synthesizer.images.grad, expected[0], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(synthesizer.labels.rows.grad, expected[1], rtol=1e-7, atol=1e-9)


def test_gradient_of_the_labels_has_its_closed_form(regression: Any) -> None:
    objective, synthesizer, network = regression(margin=0.0)
    targets, classes = drawn(objective)
    objective.backward(synthesizer)
    with torch.no_grad():
        phi_s, phi_t = network.features(synthesizer.images), network.features(targets)
        gram = phi_s @ phi_s.T
        system = gram + LAMBDA * gram.trace() / 6 * torch.eye(6, dtype=torch.float64)
        error = regress(phi_s, phi_t, synthesizer.labels.rows) - regression_rows(classes, 3, "hard").double()
        expected = torch.linalg.solve(system, phi_s @ phi_t.T @ error) / 12
    torch.testing.assert_close(synthesizer.labels.rows.grad, expected, rtol=0, atol=1e-10)


def test_margin_holds_back_labels_that_are_about_to_lose_their_class() -> None:
    """Worth -1/K and silent at one-hot - 1/K, where the margin is 1; plus and minus 1/n below 1/K."""
    rows = (torch.eye(4, dtype=torch.float64) - 0.25).requires_grad_()
    value = label_margin(rows)
    value.backward()
    assert value.item() == pytest.approx(-0.25) and not rows.grad.any()
    near = torch.tensor([[0.3, 0.2, -0.5, 0.0], [1.0, 0.0, 0.0, -1.0]], dtype=torch.float64).requires_grad_()
    label_margin(near).backward()
    assert near.grad.tolist() == [[-0.5, 0.5, 0.0, 0.0], [0.0] * 4]


def test_weights_get_no_gradient_and_statistics_do_not_move(regression: Any) -> None:
    objective, synthesizer, network = regression()
    before = network.snapshot()
    objective.backward(synthesizer)
    assert all(parameter.grad is None for parameter in network.module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    assert synthesizer.images.grad is not None and bool(synthesizer.images.grad.any())
