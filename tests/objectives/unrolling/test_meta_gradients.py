"""Exact checks of the meta-gradients in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ddkit.errors import ConfigError, DataError, UnknownNameError
from ddkit.networks.flat import FlatLoss
from ddkit.objectives.unrolling import (
    Adjoint,
    Checkpointed,
    FullUnroll,
    InnerProblem,
    MetaGradient,
    Tesla,
    distance_to,
    registry,
)
from tests.objectives.unrolling.problems import (
    SAMPLES,
    WEIGHTS,
    Toy,
    augmented_image_problem,
    central_difference,
    linear_loss,
    relative_error,
)

ALL = list(range(SAMPLES))
EXACT = 1e-12
METHODS = [FullUnroll(), Adjoint(), Checkpointed(), Tesla()]


def named(method: MetaGradient) -> str:
    return type(method).__name__


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 50])
@pytest.mark.parametrize("rates", [False, True], ids=["one-rate", "rate-per-step"])
def test_adjoint_equals_autograd_through_the_unroll(steps: int, rates: bool) -> None:
    toy = Toy([ALL] * steps, rates=rates)
    expected, reference = toy.solve(FullUnroll())
    outcome, gradients = toy.solve(Adjoint())
    assert set(gradients) == {"images", "targets", "rate"}
    for name, gradient in gradients.items():
        assert relative_error(gradient, reference[name]) < EXACT, name
    assert relative_error(outcome.start_gradient, expected.start_gradient) < EXACT
    assert relative_error(outcome.end, expected.end) < EXACT
    assert abs(float(outcome.loss - expected.loss)) < EXACT


@pytest.mark.parametrize("method", [FullUnroll(), Adjoint()], ids=named)
def test_exact_gradients_equal_central_differences(method: MetaGradient) -> None:
    toy = Toy([ALL] * 5, rate=0.3)
    outcome, gradients = toy.solve(method)
    gradients["start"] = outcome.start_gradient
    scale = (toy.start - toy.target).square().sum()  # a constant of the problem

    def loss() -> float:
        return float((method.backward(toy.problem()).end - toy.target).square().sum() / scale)

    for name, tensor in {**toy.leaves(), "start": toy.start}.items():
        for position in range(0, tensor.numel(), max(1, tensor.numel() // 5)):
            expected = central_difference(loss, tensor, position)
            assert abs(float(gradients[name].reshape(-1)[position]) - expected) < 1e-7, name


@pytest.mark.parametrize("steps", [1, 4, 20])
@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_tesla_is_the_gradient_with_detached_weights(steps: int, rate: float) -> None:
    toy = Toy([ALL] * steps, rate=rate)
    _, gradients = toy.solve(Tesla())
    theta, total = toy.start, torch.zeros(WEIGHTS, dtype=torch.float64)
    problem = toy.problem()
    for batch in problem.batches:
        fixed = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(problem.loss(fixed, *batch()), fixed, create_graph=True)
        total = total + gradient
        theta = (theta - toy.learned_rate * gradient).detach()
    end = toy.start - toy.learned_rate * total
    surrogate = (end - toy.target).square().sum() / (toy.start - toy.target).square().sum()
    leaves = toy.leaves()
    expected = dict(zip(leaves, torch.autograd.grad(surrogate, list(leaves.values())), strict=True))
    for name, gradient in gradients.items():
        assert relative_error(gradient, expected[name]) < EXACT, name


def test_tesla_is_exact_for_one_step() -> None:
    toy = Toy([ALL])
    exact, truncated = toy.solve(FullUnroll())[1], toy.solve(Tesla())[1]
    for name in exact:
        assert relative_error(truncated[name], exact[name]) < EXACT


def test_tesla_is_exact_where_the_loss_has_no_curvature() -> None:
    toy = Toy([ALL] * 20, loss=linear_loss)
    exact, truncated = toy.solve(FullUnroll())[1], toy.solve(Tesla())[1]
    for name in exact:
        assert relative_error(truncated[name], exact[name]) < EXACT


def test_tesla_is_exact_for_images_of_the_last_step_only() -> None:
    toy = Toy([[0, 1], [2, 3], [4, 5], [6, 7]], rate=0.4)
    exact, truncated = toy.solve(FullUnroll())[1]["images"], toy.solve(Tesla())[1]["images"]
    assert relative_error(truncated[6:], exact[6:]) < EXACT
    assert relative_error(truncated[:6], exact[:6]) > 1e-2


def test_tesla_differs_from_the_exact_gradient_in_proportion_to_the_rate() -> None:
    def error(rate: float) -> float:
        toy = Toy([ALL] * 5, rate=rate)
        return relative_error(toy.solve(Tesla())[1]["images"], toy.solve(FullUnroll())[1]["images"])

    assert error(0.3) > 1e-2
    errors = [error(rate) for rate in (0.2, 0.1, 0.05, 0.025)]
    for larger, smaller in itertools.pairwise(errors):
        assert 1.7 < larger / smaller < 3


def test_tesla_keeps_the_factor_of_the_squared_distance() -> None:
    toy = Toy([ALL])
    gradient = toy.solve(Tesla())[1]["images"]
    position = 2 * toy.images.shape[1] + 3
    difference = central_difference(lambda: float(Tesla().backward(toy.problem()).loss), toy.images, position)
    assert abs(float(gradient[2, 3]) - difference) < 1e-7
    assert abs(difference) > 1e-5  # half of it is something else


@pytest.mark.parametrize("strategy", ["color_crop_cutout_flip_scale_rotate", "none"])
@pytest.mark.parametrize("method", METHODS, ids=named)
def test_replayed_augmentation_gives_the_same_trajectory(method: MetaGradient, strategy: str) -> None:
    problem, images = augmented_image_problem(strategy)
    reference = FullUnroll().backward(problem)
    expected, images.grad = images.grad.clone(), None  # type: ignore[union-attr]
    outcome = method.backward(problem)
    assert relative_error(outcome.end, reference.end) < EXACT
    assert abs(float(outcome.loss - reference.loss)) < EXACT
    assert images.grad is not None
    if not isinstance(method, Tesla):
        assert relative_error(images.grad, expected) < EXACT


def test_tesla_repeats_the_trajectory_in_its_second_pass() -> None:
    problem, _ = augmented_image_problem("color_crop_cutout_flip_scale_rotate")
    seen: list[Tensor] = []

    class Watched(FlatLoss):
        def product(self, theta, *rest, **options):  # type: ignore[no-untyped-def]
            seen.append(theta)
            return super().product(theta, *rest, **options)

    watched = InnerProblem(
        Watched(problem.loss.function), problem.start, problem.batches, problem.rate, problem.terminal
    )
    outcome = Tesla().backward(watched)
    last = problem.batches[-1]()
    end = seen[-1] - problem.rate * problem.loss.gradient(seen[-1], *last)
    assert len(seen) == 4
    assert relative_error(end, outcome.end) < EXACT


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_a_student_without_steps_has_loss_one(method: MetaGradient) -> None:
    toy = Toy([])
    outcome, gradients = toy.solve(method)
    assert float(outcome.loss) == pytest.approx(1, abs=1e-15)
    assert torch.equal(outcome.end, toy.start)
    assert gradients == {}
    expected = 2 * (toy.start - toy.target) / (toy.start - toy.target).square().sum()
    torch.testing.assert_close(outcome.start_gradient, expected)


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_the_experts_own_batches_give_loss_zero(method: MetaGradient) -> None:
    toy = Toy([[0, 1], [2, 3], [4, 5]] * 3, rate=0.2, soft=False)
    problem = toy.problem()
    theta = toy.start
    for batch in problem.batches:
        theta = theta - 0.2 * problem.loss.gradient(theta, *batch())
    toy.target = theta
    outcome, gradients = toy.solve(method)
    assert float(outcome.loss) < 1e-28
    assert float(gradients["images"].norm()) < 1e-13


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_only_what_requires_a_gradient_gets_one(method: MetaGradient) -> None:
    toy = Toy([ALL] * 3)
    complete = toy.solve(method)[1]
    toy.images.requires_grad_(False)
    toy.images.grad = None
    _, gradients = toy.solve(method)
    assert set(gradients) == {"targets", "rate"}
    assert relative_error(gradients["targets"], complete["targets"]) < EXACT
    toy.targets.requires_grad_(False)
    assert relative_error(toy.solve(method)[1]["rate"], complete["rate"]) < EXACT


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_gradients_add_up_on_the_leaves(method: MetaGradient) -> None:
    toy = Toy([ALL] * 2)
    once = toy.solve(method)[1]
    method.backward(toy.problem())
    for name, leaf in toy.leaves().items():
        torch.testing.assert_close(leaf.grad, 2 * once[name])


@pytest.mark.parametrize("method", METHODS, ids=named)
def test_a_rate_that_is_computed_passes_its_gradient_on(method: MetaGradient) -> None:
    toy = Toy([ALL] * 3)
    expected = toy.solve(method)[1]["rate"]
    logarithm = toy.learned_rate.detach().log().requires_grad_()
    problem = toy.problem()
    method.backward(InnerProblem(problem.loss, problem.start, problem.batches, logarithm.exp(), problem.terminal))
    assert logarithm.grad is not None
    assert relative_error(logarithm.grad, expected * toy.learned_rate.detach()) < EXACT


def test_names_are_registered() -> None:
    named = {"full": FullUnroll, "adjoint": Adjoint, "checkpointed": Checkpointed, "tesla": Tesla}
    assert {name: registry.get(name) for name in named} == named
    with pytest.raises(UnknownNameError, match="did you mean 'adjoint'"):
        registry.get("adjiont")


def test_problems_that_do_not_fit_are_refused() -> None:
    problem = Toy([ALL] * 3).problem()
    with pytest.raises(ConfigError, match=r"rate has shape \(2,\) for 3 steps"):
        InnerProblem(problem.loss, problem.start, problem.batches, torch.ones(2), problem.terminal)
    with pytest.raises(ConfigError, match=r"start has shape \(1, 66\)"):
        InnerProblem(problem.loss, problem.start[None], problem.batches, problem.rate, problem.terminal)


@pytest.mark.parametrize("distance", [0.0, 1e-7, float("nan")])
def test_a_segment_that_goes_nowhere_is_refused(distance: float) -> None:
    start = torch.zeros(4, dtype=torch.float64)
    with pytest.raises(DataError, match="start and target of the segment are"):
        distance_to(start + distance / 2, start)
