"""Is the step of flat experts the one of the paper? Exact, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddkit.training.experts.flat import ascent, descent


def vectors(seed: int = 0, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 40, generator=generator, dtype=torch.float64) for _ in range(count)]


def test_perturbation_has_length_rho_where_not_adaptive() -> None:
    weights, gradient, _ = vectors()
    step = ascent(weights, gradient, 0.3, adaptive=False)
    torch.testing.assert_close(step.norm(dim=1), torch.full((2,), 0.3, dtype=torch.float64), rtol=0, atol=1e-10)
    torch.testing.assert_close(step / step.norm(dim=1, keepdim=True), gradient / gradient.norm(dim=1, keepdim=True))


def test_adaptive_perturbation_has_length_rho_in_units_of_the_weights_and_spares_zeros() -> None:
    weights, gradient, _ = vectors()
    weights[:, :5] = 0
    step = ascent(weights, gradient, 0.3, adaptive=True)
    assert torch.equal(step[:, :5], torch.zeros(2, 5, dtype=torch.float64))
    length = (step[:, 5:] / weights[:, 5:].abs()).norm(dim=1)
    torch.testing.assert_close(length, torch.full((2,), 0.3, dtype=torch.float64), rtol=0, atol=1e-10)


def test_adaptive_perturbation_is_the_published_formula() -> None:
    weights, gradient, _ = vectors()
    expected = torch.stack([0.7 * w**2 * g / (w.abs() * g).norm() for w, g in zip(weights, gradient, strict=True)])
    torch.testing.assert_close(ascent(weights, gradient, 0.7, adaptive=True), expected, rtol=1e-11, atol=0)


def test_perturbed_gradient_of_a_quadratic_is_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    matrix, weights = root @ root.T, torch.randn(1, 6, generator=generator, dtype=torch.float64)
    gradient = weights @ matrix
    perturbed = (weights + ascent(weights, gradient, 0.2, adaptive=False)) @ matrix
    expected = gradient + 0.2 * (gradient @ matrix) / gradient.norm()
    torch.testing.assert_close(perturbed, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_first_gradient_is_decomposed_along_the_second(alpha: float) -> None:
    _, gradient, perturbed = vectors()
    direction = descent(gradient, perturbed, alpha)
    if alpha == 0:
        assert torch.equal(direction, perturbed)
        return
    orthogonal = (perturbed - direction) / alpha
    assert float((orthogonal * perturbed).sum(1).abs().max()) < 1e-12
    along = (gradient * perturbed).sum(1, keepdim=True) / perturbed.square().sum(1, keepdim=True) * perturbed
    torch.testing.assert_close(orthogonal + along, gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close((direction * perturbed).sum(1), perturbed.square().sum(1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("adaptive", [True, False])
def test_radius_zero_is_the_plain_gradient(alpha: float, adaptive: bool) -> None:
    weights, gradient, _ = vectors()
    assert torch.equal(ascent(weights, gradient, 0.0, adaptive), torch.zeros_like(weights))
    torch.testing.assert_close(descent(gradient, gradient.clone(), alpha), gradient, rtol=0, atol=1e-12)
