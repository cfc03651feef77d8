"""Kernel regression against one graph over all targets, closed forms and finite differences, in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ddkit.errors import ConfigError
from ddkit.models.kernels import KernelClassifier, create, infinite_kernel
from ddkit.networks import FreshNetworks, InfiniteNetworks, RandomFeatureNetworks
from ddkit.objectives import KernelRegression
from ddkit.objectives.kernel_losses import label_margin, target_loss

from .conftest import central_difference, gradient_of

SMOOTH = "convnet:width=3,depth=2,norm=none,activation=swish"


def sources() -> dict[str, object]:
    return {
        "fc2": InfiniteNetworks(architecture="fc2"),
        "cpcf": InfiniteNetworks(architecture="cpcf", kernel="nngp"),
        "bodies": RandomFeatureNetworks(bodies=2),
    }


def targets(objective: KernelRegression, data) -> tuple[torch.Tensor, torch.Tensor]:
    """The real images of the step that follows fresh streams."""
    context = objective.context
    context.streams.load_state_dict({})
    images, labels = context.signal.balanced(objective.real_images // data.num_classes, "real")
    context.networks.current()
    return images.double(), labels


def plain(objective: KernelRegression, synthesizer, data, loss: str) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Loss and gradients of pixels and k by one graph over all targets, by a plain inverse."""
    images, labels = targets(objective, data)
    kernel = objective.source.kernel()
    pixels = synthesizer.images.detach().clone().requires_grad_()
    k = objective.log_scale.detach().clone().requires_grad_()
    support = kernel.represent(pixels)
    gram, cross = kernel.gram(support), kernel.cross(images, support)
    n, classes = len(pixels), data.num_classes
    rows = F.one_hot(synthesizer.classes, classes).double() - 1 / classes
    system = gram + objective.regulariser * gram.trace() / n * torch.eye(n, dtype=torch.float64)
    predicted = cross @ torch.linalg.inv(system) @ rows
    wanted = F.one_hot(labels, classes).double() - 1 / classes
    value = {
        "mse": 0.5 * (predicted - wanted).square().mean(),
        "sum": 0.5 * (predicted - wanted).square().sum(1).mean(),
        "platt": F.cross_entropy(predicted * k.exp(), labels),
    }[loss]
    gradients = torch.autograd.grad(value, (pixels, k), allow_unused=True)
    return value.item(), gradients[0], gradients[1]


@pytest.mark.parametrize("loss", ["mse", "sum", "platt"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("source", ["fc2", "cpcf", "bodies"])
def test_chunked_gradient_equals_one_graph(bench, source: str, chunk: int, loss: str) -> None:
    objective = KernelRegression(real_images=12, chunk=chunk, loss=loss, regulariser=1e-2)
    objective, synthesizer, data = bench(objective, source=sources()[source], model=SMOOTH)
    with torch.no_grad():
        objective.log_scale.fill_(0.7)
    value, gradient = gradient_of(objective, synthesizer)
    slope = objective.log_scale.grad
    expected, expected_gradient, expected_slope = plain(objective, synthesizer, data, loss)
    assert value == pytest.approx(expected, rel=1e-11)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-9, atol=1e-12)
    if loss == "platt":
        torch.testing.assert_close(slope, expected_slope, rtol=1e-9, atol=1e-12)
    else:
        assert slope is None


@pytest.mark.parametrize(
    "options",
    [{}, {"flip": True}, {"loss": "platt"}, {"loss": "sum", "margin": 1.0}],
    ids=["mse", "flip", "ce", "frepo"],
)
def test_gradient_equals_central_differences(bench, options: dict) -> None:
    objective = KernelRegression(real_images=9, regulariser=1e-2, **options)
    labels = {"labels": "centred"} if "margin" in options else {}
    objective, synthesizer, _ = bench(objective, source=RandomFeatureNetworks(bodies=2), model=SMOOTH, **labels)
    _, gradient = gradient_of(objective, synthesizer)
    for index in [(0, 0, 1, 2), (2, 0, 4, 4), (5, 0, 7, 0)]:
        expected = central_difference(objective, synthesizer, index, 1e-5)
        assert gradient[index].item() == pytest.approx(expected, rel=1e-5, abs=1e-10)


def test_label_gradient_has_its_closed_form(bench) -> None:
    objective = KernelRegression(real_images=12, loss="sum", regulariser=1e-2)
    objective, synthesizer, data = bench(objective, source=InfiniteNetworks(), labels="centred")
    gradient_of(objective, synthesizer)
    gradient = synthesizer.labels.rows.grad
    images, labels = targets(objective, data)
    x, kernel = synthesizer.images.detach(), infinite_kernel("fc1", data.shape)
    gram, cross = kernel.gram(x.flatten(1)), kernel.cross(images, x.flatten(1))
    inverse = torch.linalg.inv(gram + 1e-2 * gram.trace() / len(x) * torch.eye(len(x), dtype=torch.float64))
    rows = synthesizer.labels.rows.detach()
    residual = cross @ inverse @ rows - (F.one_hot(labels, 3).double() - 1 / 3)
    torch.testing.assert_close(gradient, inverse @ cross.T @ residual / len(images), rtol=1e-10, atol=1e-10)


def test_temperature_gradient_has_its_closed_form(bench) -> None:
    objective = KernelRegression(real_images=12, loss="platt", regulariser=1e-2)
    objective, synthesizer, data = bench(objective, source=InfiniteNetworks())
    gradient_of(objective, synthesizer)
    images, labels = targets(objective, data)
    x, classes = synthesizer.images.detach(), synthesizer.classes
    rows = F.one_hot(classes, 3).double() - 1 / 3
    predicted = KernelClassifier(infinite_kernel("fc1", data.shape), x, rows, 1e-2).predict(images)
    wrong = predicted.softmax(1) - F.one_hot(labels, 3)
    assert objective.log_scale.grad.item() == pytest.approx((wrong * predicted).sum(1).mean().item(), rel=1e-9)


@pytest.mark.parametrize("loss", ["mse", "sum", "platt"])
@pytest.mark.parametrize("source", ["fc2", "cpcf", "bodies"])
def test_whole_loss_passes_gradcheck_in_images_labels_and_temperature(bench, source: str, loss: str) -> None:
    objective, _, data = bench(KernelRegression(), source=sources()[source], model=SMOOTH)
    objective.context.networks.current()
    kernel, target = objective.source.kernel(), data.batch(torch.arange(4)).double()
    labels = torch.arange(4) % 3
    rows = F.one_hot(labels, 3).double() - 1 / 3
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 1, 8, 8, generator=generator, dtype=torch.float64)[:, :, :4, :4].contiguous()
    support_labels = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    k = torch.tensor(0.3, dtype=torch.float64)

    def value(images: torch.Tensor, ys: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        support = kernel.represent(F.pad(images, (2, 2, 2, 2), mode="reflect"))
        return target_loss(loss, kernel.predict(target, support, kernel.fit(support, ys, 1e-2)), rows, labels, k)

    assert torch.autograd.gradcheck(value, [t.requires_grad_() for t in (images, support_labels, k)])


def test_batch_of_a_step_is_balanced_or_uniform(bench) -> None:
    taken = {}
    for balanced in (True, False):
        objective, synthesizer, _ = bench(
            KernelRegression(real_images=13, balanced=balanced), source=InfiniteNetworks()
        )
        signal = objective.context.signal
        for name in ("balanced", "labelled"):
            ask = getattr(signal, name)
            setattr(signal, name, lambda *a, ask=ask, name=name: taken.setdefault(name, ask(*a)))
        gradient_of(objective, synthesizer)
    assert torch.bincount(taken["balanced"][1]).tolist() == [4, 4, 4]
    assert len(taken["labelled"][1]) == 13


def test_batch_is_augmented_only_if_the_run_is(bench) -> None:
    values = []
    for strategy in ("none", "color"):
        data_options = {"strategy": strategy, "source": InfiniteNetworks()}
        objective, synthesizer, _ = bench(KernelRegression(real_images=12), **data_options)
        values.append(gradient_of(objective, synthesizer)[0])
    assert values[0] != values[1]


def test_margin_is_capped_and_pulls_the_two_largest_entries_apart() -> None:
    rows = torch.tensor([[0.5, 0.4, 0.1], [0.9, 0.0, 0.1]], dtype=torch.float64, requires_grad=True)
    value = label_margin(rows)
    value.backward()
    assert value.item() == pytest.approx(-(0.1 + 1 / 3) / 2)
    assert rows.grad.tolist() == [[-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    one_hot = (torch.eye(4, dtype=torch.float64) - 0.25).requires_grad_()
    label_margin(one_hot).backward()
    assert label_margin(one_hot).item() == -0.25 and not one_hot.grad.any()


def test_margin_adds_to_the_loss_and_moves_labels(bench) -> None:
    seen = {}
    for margin in (0.0, 2.0):
        objective = KernelRegression(real_images=12, margin=margin)
        objective, synthesizer, _ = bench(objective, source=InfiniteNetworks(), labels="centred", label_scale=0.1)
        loss, _ = gradient_of(objective, synthesizer)
        seen[margin] = (loss, synthesizer.labels.rows.grad.clone())
    assert seen[2.0][0] - seen[0.0][0] == pytest.approx(-2 * 0.1)
    difference = seen[2.0][1] - seen[0.0][1]
    assert difference.abs().max().item() == pytest.approx(2 / 6)


def test_soft_labels_are_centred_and_free_rows_are_not(bench) -> None:
    values = []
    for kind in ("hard", "soft", "centred", "free"):
        options = {"labels": kind, **({"label_confidence": 1.0} if kind == "soft" else {})}
        objective, synthesizer, _ = bench(KernelRegression(real_images=12), source=InfiniteNetworks(), **options)
        values.append(gradient_of(objective, synthesizer)[0])
    assert values[0] == pytest.approx(values[1], rel=1e-6) == pytest.approx(values[2], rel=1e-6)
    assert abs(values[3] - values[0]) > 1e-3


def test_missing_classes_are_allowed(bench) -> None:
    objective = KernelRegression(real_images=12)
    objective, synthesizer, _ = bench(objective, source=InfiniteNetworks(), labels="centred", classes=[0, 2])
    assert synthesizer.labels.rows.shape == (4, 3)
    gradient_of(objective, synthesizer)
    assert synthesizer.labels.rows.grad.abs().sum(1).min() > 0


def test_image_that_equals_a_target_has_a_finite_gradient(bench) -> None:
    objective, synthesizer, data = bench(KernelRegression(real_images=12), source=InfiniteNetworks(), ipc=4)
    with torch.no_grad():
        synthesizer.images.copy_(torch.cat([data.batch(index[:4]) for index in data.class_index]))
    assert gradient_of(objective, synthesizer)[1].isfinite().all()


def test_accuracy_is_that_of_the_target_batch(bench) -> None:
    objective, synthesizer, data = bench(KernelRegression(real_images=12), source=InfiniteNetworks())
    scalars = objective.backward(synthesizer)
    images, labels = targets(objective, data)
    rows = F.one_hot(synthesizer.classes, 3).double() - 1 / 3
    classifier = KernelClassifier(infinite_kernel("fc1", data.shape), synthesizer.images.detach(), rows)
    assert scalars["accuracy"] == pytest.approx(classifier.accuracy(images, labels))
    assert "temperature" not in scalars


def test_card_names_kernel_regulariser_and_temperature(bench) -> None:
    objective = KernelRegression(real_images=12, loss="platt", regulariser=5e-3)
    objective, synthesizer, data = bench(objective, source=RandomFeatureNetworks(bodies=2, evaluation_bodies=3))
    scalars = objective.backward(synthesizer)
    with torch.no_grad():
        objective.log_scale.fill_(math.log(4))
    card = objective.metadata()
    assert scalars["temperature"] == 1.0 and card["learned"]["temperature"] == pytest.approx(0.25)
    assert card["kernel"]["regulariser"] == 5e-3 and card["kernel"]["flip"] is False
    assert len(create(card["kernel"]["describe"], data.shape, 3).bodies) == 3


def test_state_keeps_the_temperature(bench) -> None:
    objective, *_ = bench(KernelRegression(loss="platt"), source=InfiniteNetworks())
    with torch.no_grad():
        objective.log_scale.fill_(1.5)
    state = objective.state_dict()
    with torch.no_grad():
        objective.log_scale.fill_(9.0)
    other, *_ = bench(KernelRegression(loss="platt"), source=InfiniteNetworks())
    assert other.log_scale.item() == 0.0
    other.load_state_dict(state)
    assert other.log_scale.item() == 1.5


def test_solved_labels_belong_to_the_result_only(bench) -> None:
    objective = KernelRegression(real_images=12, label_solve=True)
    objective, synthesizer, _ = bench(objective, source=InfiniteNetworks(), labels="centred", ipc=1)
    before = synthesizer.labels.rows.detach().clone()
    held = []
    for _ in range(2):
        with objective.finishing(synthesizer):
            held.append(synthesizer.labels.rows.detach().clone())
        assert torch.equal(synthesizer.labels.rows, before)
    assert torch.equal(*held) and not torch.allclose(held[0], before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"real_images": 0}, "objective.real_images=0"),
        ({"chunk": 0}, "objective.chunk=0"),
        ({"regulariser": -1e-6}, "objective.regulariser=-1e-06"),
        ({"regulariser": float("nan")}, "objective.regulariser=nan"),
        ({"loss": "hinge"}, "objective.loss='hinge'"),
        ({"margin": -1.0}, "objective.margin=-1.0"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KernelRegression(**options)


@pytest.mark.parametrize(
    ("options", "pixels", "message"),
    [
        ({"margin": 1.0}, {}, "acts on learned labels"),
        ({"label_solve": True}, {}, "synthesis.labels=centred"),
        ({"label_solve": True, "flip": True}, {"labels": "free"}, "do not go together"),
        ({"label_solve": True, "real_images": 3}, {"labels": "free"}, "raise objective.real_images=3"),
    ],
)
def test_combinations_without_sense_are_refused(bench, options: dict, pixels: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench(KernelRegression(**options), source=InfiniteNetworks(), **pixels)


def test_source_without_a_kernel_is_refused_with_the_choices(bench) -> None:
    with pytest.raises(ConfigError, match="choose networks=infinite, online-pool, random-features"):
        bench(KernelRegression(), source=FreshNetworks())


def test_platt_scaling_has_its_closed_form_slope_and_is_convex_in_the_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (9,), generator=generator)
    rows = F.one_hot(labels, 4).double() - 0.25

    def loss(scale: float) -> torch.Tensor:
        return target_loss("platt", predicted, rows, labels, torch.tensor(scale, dtype=torch.float64).log())

    k = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(target_loss("platt", predicted, rows, labels, k), k)
    residual = (predicted * k.exp()).softmax(1) - F.one_hot(labels, 4)
    torch.testing.assert_close(slope, (residual * predicted * k.exp()).sum().detach())
    for low, high in ((0.1, 0.5), (0.2, 3.0), (1.0, 20.0)):
        assert loss((low + high) / 2) < (loss(low) + loss(high)) / 2
