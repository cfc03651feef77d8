"""Ridge regression: its gradients against the closed form and finite differences, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from ddkit.errors import ConfigError
from ddkit.models.kernels.last_layer import ridge_weights, with_constant
from ddkit.networks import OnlineNetwork
from ddkit.objectives import RidgeRegression
from ddkit.testing import toy_data

MODEL = "mlp:width=5"


@pytest.fixture(autouse=True)
def mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddkit.objectives.ridge._MIXING", 0.3)


def prepared(bench, source: OnlineNetwork | None = None, **options):
    objective = RidgeRegression(real_images=9, regulariser=0.7, **options)
    return bench(objective, model=MODEL, source=source or OnlineNetwork(), labels="free", label_confidence=0.9)


def loss_of(objective: RidgeRegression, synthesizer) -> float:
    """Return the loss from fresh streams, leaving the state as it was."""
    streams = objective.context.streams
    streams.load_state_dict({})
    networks = objective.context.networks
    networks.over, networks.drawn = False, 1
    return objective.backward(synthesizer)["loss"]


@pytest.fixture
def started(bench):
    """A network that is drawn and a last layer that is not zero."""
    objective, synthesizer, data = prepared(bench)
    objective.context.networks.current()
    objective.life = 0
    generator = torch.Generator().manual_seed(3)
    objective.w = torch.randn(6, 3, dtype=torch.float64, generator=generator)
    return objective, synthesizer, data


def test_kernel_form_solves_the_ridge_problem() -> None:
    generator = torch.Generator().manual_seed(0)
    phi, rows = (torch.randn(4, size, dtype=torch.float64, generator=generator) for size in (7, 3))
    primal = torch.linalg.solve(phi.T @ phi + 0.5 * torch.eye(7, dtype=torch.float64), phi.T @ rows)
    torch.testing.assert_close(ridge_weights(phi, rows, 0.5), primal, rtol=0, atol=1e-12)


def test_label_gradient_is_the_closed_form(started) -> None:
    objective, synthesizer, data = started
    synthesizer.images.requires_grad_(False)
    w = objective.w.clone()
    loss_of(objective, synthesizer)
    network, student = objective.context.network, objective.student
    phi = with_constant(network.features(student.images)).detach()
    inverse = torch.linalg.inv(phi @ phi.T + 0.7 * torch.eye(len(phi), dtype=torch.float64))
    solved = phi.T @ inverse @ synthesizer.labels.rows.detach()[student.index]
    images, labels = data.batch(torch.arange(16)), data.labels
    objective.context.streams.load_state_dict({})
    index = torch.randperm(16, generator=objective.context.streams("target"))[:9]
    target = with_constant(network.features(images[index])).detach()
    difference = (target @ (0.7 * w + 0.3 * solved)).softmax(1) - F.one_hot(labels[index], 3)
    expected = 0.3 * inverse @ phi @ (target.T @ difference / 9)
    found = synthesizer.labels.rows.grad[student.index]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_gradients_equal_central_differences(started, scale: float) -> None:
    objective, synthesizer, _ = started
    with torch.no_grad():
        objective.scale.fill_(scale)
    loss_of(objective, synthesizer)
    learnt = [(parameter, parameter.grad.clone()) for parameter in (synthesizer.labels.rows, synthesizer.images)]
    for parameter, gradient in learnt:
        gradient, flat = gradient.view(-1), parameter.data.view(-1)
        for position in (0, 7, len(flat) - 1):
            found = []
            for sign in (1, -1):
                flat[position] += sign * 1e-5
                found.append(loss_of(objective, synthesizer))
                flat[position] -= sign * 1e-5
            assert abs(float(gradient[position]) - (found[0] - found[1]) / 2e-5) < 1e-7


def test_rows_outside_the_batch_have_no_gradient(bench) -> None:
    objective, synthesizer, _ = prepared(bench, batch_syn=2)
    loss_of(objective, synthesizer)
    moved = synthesizer.labels.rows.grad.abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == sorted(objective.student.index.tolist()) and int(moved.sum()) == 2


def test_features_learn_through_the_regression_from_updated_labels(started) -> None:
    objective, synthesizer, _ = started
    seen = {}
    objective.context.networks.observe = lambda gradient, **rest: seen.update(gradient=gradient, **rest)
    w, old = objective.w.clone(), synthesizer.labels.rows.detach().clone()
    loss_of(objective, synthesizer)
    with torch.no_grad():
        synthesizer.labels.rows.add_(torch.arange(18.0).view(6, 3) / 10)
    objective.after_step(synthesizer)
    module = copy.deepcopy(objective.context.network.module)
    parameters, index = list(module.parameters()), objective.student.index
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    phi = with_constant(module.features(synthesizer.images.detach()[index]))
    mixed = 0.7 * w + 0.3 * phi.T @ torch.linalg.inv(phi @ phi.T + 0.7 * torch.eye(6, dtype=torch.float64)) @ old[index]
    loss = F.cross_entropy(scale * phi @ mixed, synthesizer.labels.rows.detach()[index])
    of_scale, *expected = torch.autograd.grad(loss, [scale, *parameters], allow_unused=True, materialize_grads=True)
    flat = torch.cat([part.flatten() for part in expected])
    torch.testing.assert_close(seen["gradient"], flat, rtol=0, atol=1e-12)
    assert seen["images"] == 6 and 0 <= seen["error"] <= 1
    torch.testing.assert_close(objective.w, mixed.detach(), rtol=0, atol=1e-12)
    assert abs(float(objective.scale.detach()) - (1 - 0.01 * float(of_scale.sign()))) < 1e-6


def test_last_layer_belongs_to_its_network(bench) -> None:
    objective, synthesizer, _ = prepared(bench)
    for _ in range(2):
        objective.backward(synthesizer)
        objective.after_step(synthesizer)
        objective.context.networks.after_step(synthesizer, last=False)
    assert float(objective.scale.detach()) != 1
    objective.context.networks.over = True
    scalars = objective.backward(synthesizer)
    assert scalars["scale"] == 1 and bool((objective.w == 0).all())


def test_saved_state_goes_on_as_if_nothing_had_happened(bench) -> None:
    def steps(objective, synthesizer, count):
        losses = []
        for _ in range(count):
            synthesizer.zero_grad()
            losses.append(objective.backward(synthesizer)["loss"])
            with torch.no_grad():
                synthesizer.labels.rows.sub_(synthesizer.labels.rows.grad)
            objective.after_step(synthesizer)
            objective.context.networks.after_step(synthesizer, last=False)
        return losses

    first, synthesizer, _ = prepared(bench, OnlineNetwork(gap=1))
    steps(first, synthesizer, 3)
    pieces = (first, first.context.networks, first.context.streams)
    state = copy.deepcopy([piece.state_dict() for piece in pieces]), copy.deepcopy(synthesizer.state_dict())
    expected = steps(first, synthesizer, 5)
    second, synthesizer, _ = prepared(bench, OnlineNetwork(gap=1))
    for piece, saved in zip((second, second.context.networks, second.context.streams), state[0], strict=True):
        piece.load_state_dict(saved)
    synthesizer.load_state_dict(state[1])
    assert steps(second, synthesizer, 5) == expected


def test_hard_labels_train_images(bench) -> None:
    objective = RidgeRegression(real_images=9)
    objective, synthesizer, _ = bench(objective, model="mlp:width=64", source=OnlineNetwork())
    objective.backward(synthesizer)
    assert bool((synthesizer.images.grad.flatten(1).abs().sum(1) > 0).all())
    objective.after_step(synthesizer)


def test_what_makes_no_sense_is_refused(bench) -> None:
    for name, value in (("regulariser", 0.0), ("batch_syn", 0)):
        with pytest.raises(ConfigError, match=rf"objective\.{name}={value}"):
            RidgeRegression(**{name: value})
    with pytest.raises(ConfigError, match="a batch of 7 synthetic images"):
        prepared(bench, batch_syn=7)
    with pytest.raises(ConfigError, match="has batch norm"):
        bench(RidgeRegression(), model="convnet:width=4,depth=2,norm=batch", data=toy_data())
