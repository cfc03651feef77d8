"""Momentum, intermediate losses, windows and checkpoints: exact checks in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddkit.errors import ConfigError
from ddkit.networks.flat import FlatLoss
from ddkit.objectives.unrolling import Adjoint, Checkpointed, FullUnroll, InnerProblem, MetaGradient, Tesla
from ddkit.objectives.unrolling.base import walk
from tests.objectives.unrolling.problems import (
    CLASSES,
    INPUTS,
    SAMPLES,
    WEIGHTS,
    Toy,
    central_difference,
    relative_error,
    tanh_mlp_loss,
)

ALL = list(range(SAMPLES))
EXACT = 1e-12
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "intermediate": {"every": 2},
    "momentum-intermediate": {"momentum": 0.9, "every": 1},
    "window": {"window": 3, "every": 2},
    "momentum-window": {"momentum": 0.9, "window": 4, "every": 1},
}


def variant(name: str, steps: int = 7, rates: bool = True, **options: Any) -> Toy:
    return Toy([ALL] * steps, rate=0.1, rates=rates, **{**VARIANTS[name], **options})


def total_loss(toy: Toy) -> float:
    """Return the loss from a walk without any meta-gradient, the distance's denominator constant."""
    problem = toy.problem()
    trail: list[Any] = []
    end, _ = walk(problem, trail)
    thetas = [point.theta for point in trail] + [end.theta]
    judged = sum(float(judge(thetas[number])[0]) for number, judge in problem.intermediate.items())
    return float(problem.terminal(end.theta)[0]) + judged


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("rates", [False, True], ids=["one-rate", "rate-per-step"])
@pytest.mark.parametrize("method", [Adjoint(), Checkpointed()], ids=["adjoint", "checkpointed"])
def test_a_sweep_equals_autograd_through_the_unroll(method: MetaGradient, rates: bool, name: str) -> None:
    toy = variant(name, rates=rates)
    expected, reference = toy.solve(FullUnroll())
    outcome, gradients = toy.solve(method)
    assert set(gradients) == set(toy.leaves())
    for leaf, gradient in gradients.items():
        assert relative_error(gradient, reference[leaf]) < EXACT, leaf
    for part in ("loss", "end", "start_gradient", "first_gradient"):
        assert relative_error(getattr(outcome, part), getattr(expected, part)) < EXACT, part


@pytest.mark.parametrize("name", ["plain", "momentum", "intermediate", "momentum-intermediate"])
def test_gradients_equal_central_differences(name: str) -> None:
    toy = variant(name, free=True)
    _, gradients = toy.solve(Adjoint())
    for leaf, tensor in toy.leaves().items():
        expected = [central_difference(lambda: total_loss(toy), tensor, p) for p in range(tensor.numel())]
        assert relative_error(gradients[leaf].flatten(), torch.tensor(expected, dtype=torch.float64)) < 1e-7, leaf


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("steps", [1, 2, 7, 10])
def test_checkpoints_give_the_same_bits(name: str, steps: int) -> None:
    toy = variant(name, steps)
    (first, one), (second, other) = toy.solve(Adjoint()), toy.solve(Checkpointed())
    assert torch.equal(first.loss, second.loss) and torch.equal(first.start_gradient, second.start_gradient)
    for leaf, gradient in one.items():
        assert torch.equal(gradient, other[leaf]), leaf


def test_checkpoints_take_every_step_at_most_twice() -> None:
    taken = 0

    class Counted(FlatLoss):
        def gradient(self, *inputs: Tensor) -> Tensor:
            nonlocal taken
            taken += 1
            return super().gradient(*inputs)

    problem = variant("plain", 100).problem()
    counted = InnerProblem(
        Counted(problem.loss.function), problem.start, problem.batches, problem.rate, problem.terminal
    )
    Checkpointed().backward(counted)
    assert taken == 100 + 100 - 10, "ten segments of ten steps, whose last one is differentiated at once"


def test_momentum_zero_is_plain_gradient_descent() -> None:
    plain, heavy = variant("plain"), variant("plain", momentum=0.0)
    (first, one), (second, other) = plain.solve(Adjoint()), heavy.solve(Adjoint())
    assert relative_error(second.end, first.end) < EXACT
    for leaf, gradient in one.items():
        assert relative_error(other[leaf], gradient) < EXACT, leaf


@pytest.mark.parametrize("method", [FullUnroll(), Adjoint(), Checkpointed()], ids=["full", "adjoint", "checkpointed"])
def test_the_first_momentum_has_no_gradient(method: MetaGradient) -> None:
    gradients = variant("momentum-intermediate").solve(method)[1]["momentum"]
    assert gradients[0] == 0 and bool((gradients[1:] != 0).all())


def test_velocities_are_needed_only_where_a_rate_or_momentum_is_learned() -> None:
    toy = variant("momentum")
    complete = toy.solve(Adjoint())[1]
    assert toy.learned_momentum is not None
    for leaf in (toy.learned_rate, toy.learned_momentum):
        leaf.requires_grad_(False)
        leaf.grad = None
    gradients = toy.solve(Adjoint())[1]
    assert set(gradients) == {"images", "targets"}
    for leaf, gradient in gradients.items():
        assert torch.equal(gradient, complete[leaf])


def test_a_window_cuts_the_graph_before_its_first_step() -> None:
    toy = Toy([[0, 1], [2, 3], [4, 5]], rates=True, window=2)
    _, gradients = toy.solve(Adjoint())
    assert not gradients["images"][:2].any() and gradients["images"][2:].all()
    assert gradients["rate"][0] == 0 and gradients["rate"][1:].all()
    whole = Toy([[0, 1], [2, 3], [4, 5]], rates=True, window=9)
    everything = Toy([[0, 1], [2, 3], [4, 5]], rates=True).solve(Adjoint())[1]
    assert torch.equal(whole.solve(Adjoint())[1]["images"], everything["images"])


def test_a_window_keeps_the_velocity_at_its_cut() -> None:
    problem = variant("momentum", window=3).problem()
    trail: list[Any] = []
    end, _ = walk(problem, trail)
    assert len(trail) == 3 and problem.momentum is not None
    from_rest = InnerProblem(
        problem.loss, trail[0].theta, problem.batches[4:], problem.rate[4:], problem.terminal, problem.momentum[4:]
    )
    outcome = Adjoint().backward(problem)
    assert torch.equal(outcome.end, end.theta)
    assert relative_error(Adjoint().backward(from_rest).end, outcome.end) > 1e-3


def test_terminals_are_called_last_first_by_every_meta_gradient() -> None:
    for method in (FullUnroll(), Adjoint(), Checkpointed()):
        called: list[int] = []

        def terminal(number: int, called: list[int] = called) -> Any:
            def judge(theta: Tensor) -> tuple[Tensor, Tensor]:
                called.append(number)
                return theta.sum(), torch.ones_like(theta)

            return judge

        problem = variant("plain").problem()
        judged = {number: terminal(number) for number in (5, 1, 3)}
        method.backward(
            InnerProblem(
                problem.loss, problem.start, problem.batches, problem.rate, terminal(7), intermediate=judged, window=5
            )
        )
        assert called == [7, 5, 3], "1 lies before the window"


def test_a_batch_of_several_sweeps_collects_the_contribution_of_each() -> None:
    toy = Toy([[0, 1, 2]] * 3, rates=True)
    gradient = toy.solve(Adjoint())[1]["images"]
    apart = Toy([[0, 1, 2], [3, 4, 5], [6, 7, 8]], rates=True)
    with torch.no_grad():
        apart.images.copy_(toy.images[:3].repeat(3, 1))
        apart.targets.copy_(toy.targets[:3].repeat(3, 1))
    apart.start, apart.target = toy.start, toy.target
    parts = apart.solve(Adjoint())[1]["images"].view(3, 3, -1)
    assert relative_error(parts.sum(0), gradient[:3]) < EXACT
    assert all(bool(part.any()) for part in parts)


def test_label_gradients_equal_the_formula_with_a_forward_derivative() -> None:
    toy = variant("plain", 1, free=True)
    outcome, gradients = toy.solve(Adjoint())
    problem = toy.problem()
    direction = problem.terminal(outcome.end)[1]

    def log_probabilities(theta: Tensor) -> Tensor:
        first, first_bias, second, second_bias = theta.split((35, 7, 21, 3))
        hidden = torch.tanh(toy.images.detach() @ first.view(5, 7) + first_bias)
        return F.log_softmax(hidden @ second.view(7, 3) + second_bias, dim=1)

    _, derivative = torch.func.jvp(log_probabilities, (toy.start,), (direction,))
    assert relative_error(gradients["targets"], 0.1 / SAMPLES * derivative) < EXACT


class Generated:
    """A curriculum of five batches from a generator with batch norm, judged after every step (GTN) on batches fixed."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(5)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.leaves = {
            "first": 0.5 * normal(4 + CLASSES, 6),
            "second": 0.5 * normal(6, INPUTS),
            "noise": normal(5, SAMPLES, 4),
            "log_rates": torch.full((5,), 0.1, dtype=torch.float64).log(),
            "log_momenta": torch.full((5,), 0.5, dtype=torch.float64).log(),
        }
        for leaf in self.leaves.values():
            leaf.requires_grad_()
        self.labels = F.one_hot(torch.arange(SAMPLES) % CLASSES, CLASSES).double()
        self.start = 0.5 * normal(WEIGHTS)
        self.real = [(normal(8, INPUTS), torch.arange(8) % CLASSES) for _ in range(5)]

    def images(self, step: int) -> Tensor:
        codes = torch.cat([self.leaves["noise"][step], self.labels], 1) @ self.leaves["first"]
        return 2 * torch.tanh(F.leaky_relu(F.batch_norm(codes, None, None, training=True), 0.1) @ self.leaves["second"])

    def problem(self) -> InnerProblem:
        loss = FlatLoss(tanh_mlp_loss)

        def judge(number: int) -> Any:
            def terminal(theta: Tensor) -> tuple[Tensor, Tensor]:
                with torch.no_grad():
                    value = loss(theta, *self.real[number - 1])
                return value, loss.gradient(theta, *self.real[number - 1])

            return terminal

        return InnerProblem(
            loss,
            self.start,
            [lambda step=step: (self.images(step), self.labels) for step in range(5)],  # type: ignore[misc]
            self.leaves["log_rates"].exp(),
            judge(5),
            self.leaves["log_momenta"].exp(),
            {number: judge(number) for number in range(1, 5)},
        )

    def gradients(self, method: MetaGradient) -> dict[str, Tensor]:
        for leaf in self.leaves.values():
            leaf.grad = None
        method.backward(self.problem())
        return {name: leaf.grad.clone() for name, leaf in self.leaves.items() if leaf.grad is not None}


def test_a_generated_curriculum_is_differentiated_down_to_its_noise() -> None:
    toy = Generated()
    adjoint, full = toy.gradients(Adjoint()), toy.gradients(FullUnroll())
    assert set(adjoint) == set(toy.leaves)
    assert adjoint["log_momenta"][0] == 0

    def loss() -> float:
        return float(Adjoint().backward(toy.problem()).loss)

    for name, leaf in toy.leaves.items():
        assert relative_error(adjoint[name], full[name]) < EXACT, name
        positions = range(0, leaf.numel(), max(1, leaf.numel() // 10))
        expected = torch.tensor([central_difference(loss, leaf, p) for p in positions], dtype=torch.float64)
        assert relative_error(adjoint[name].flatten()[list(positions)], expected) < 1e-6, name


def test_free_rows_enter_the_loss_unnormalised() -> None:
    toy = variant("plain", free=True)
    assert bool((toy.targets < 0).any())
    logits = torch.randn(SAMPLES, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    by_hand = -(toy.targets * F.log_softmax(logits, dim=1)).sum(1).mean()
    assert abs(float((F.cross_entropy(logits, toy.targets) - by_hand).detach())) < EXACT


def test_one_step_of_linear_regression_reaches_the_solution_from_anywhere() -> None:
    """Wang et al. 2018, Section 3.3: M images with X'X = (M / rate) I need one step, and nothing can be improved."""
    size, rate = 4, 0.2
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    real, values = normal(20, size), normal(20)
    solution = torch.linalg.lstsq(real, values[:, None]).solution[:, 0]

    def squared(theta: Tensor, images: Tensor, targets: Tensor) -> Tensor:
        return 0.5 * (images @ theta - targets).square().mean()

    def terminal(theta: Tensor) -> tuple[Tensor, Tensor]:
        residual = real @ theta - values
        return 0.5 * residual.square().mean(), real.T @ residual / len(values)

    images = (math.sqrt(size / rate) * torch.eye(size, dtype=torch.float64)).requires_grad_()
    targets = (math.sqrt(size / rate) * solution).requires_grad_()
    for _ in range(3):
        problem = InnerProblem(
            FlatLoss(squared),
            5 * normal(size),
            [lambda: (images, targets)],
            torch.tensor(rate, dtype=torch.float64, requires_grad=True),
            terminal,
        )
        outcome = Adjoint().backward(problem)
        assert float((outcome.end - solution).norm()) < EXACT
        assert problem.rate.grad is not None and images.grad is not None and targets.grad is not None
        assert max(float(leaf.grad.abs().max()) for leaf in (problem.rate, images, targets)) < 1e-11  # type: ignore[union-attr]


def test_tesla_refuses_what_its_formula_does_not_cover() -> None:
    for name, words in (("momentum", "momentum"), ("intermediate", "intermediate losses"), ("window", "a window")):
        with pytest.raises(ConfigError, match=f"'tesla' knows plain gradient descent only, not .*{words}"):
            Tesla().backward(variant(name).problem())


def test_problems_that_do_not_fit_are_refused() -> None:
    problem = variant("plain").problem()
    parts = (problem.loss, problem.start, problem.batches, problem.rate, problem.terminal)
    with pytest.raises(ConfigError, match=r"momentum has shape \(2,\) for 7 steps"):
        InnerProblem(*parts, momentum=torch.ones(2))
    for number in (0, 7):
        with pytest.raises(ConfigError, match=f"an intermediate loss after {number} of 7 steps"):
            InnerProblem(*parts, intermediate={number: problem.terminal})
    with pytest.raises(ConfigError, match="window=0 must be at least 1"):
        InnerProblem(*parts, window=0)
