"""The arc-cosine kernel: values against sampling and acos, gradients at every angle."""

from __future__ import annotations

import math

import pytest
import torch

from ddkit.models.kernels.relu import relu_covariance


def gram(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    sigma = x @ x.T
    q = sigma.diagonal()
    return sigma, q[:, None], q[None]


def test_values_are_the_moments_of_rectified_gaussians() -> None:
    covariance = torch.tensor([[1.5, -0.4], [-0.4, 0.7]], dtype=torch.float64)
    draws = torch.randn(400_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = (draws @ torch.linalg.cholesky(covariance).T).relu()
    t, phi = relu_covariance(covariance[0, 1], covariance[0, 0], covariance[1, 1])
    assert t.item() == pytest.approx((z[:, 0] * z[:, 1]).mean().item(), rel=0.02)
    assert phi.item() == pytest.approx((z > 0).all(1).double().mean().item(), rel=0.02)


def test_gradients_equal_finite_differences() -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: relu_covariance(*gram(x), torch.eye(4, dtype=torch.bool)), x)


def test_broadcast_variances_get_the_sum_of_their_gradients() -> None:
    generator = torch.Generator().manual_seed(2)
    sigma = 0.1 * torch.randn(3, 4, generator=generator, dtype=torch.float64)
    q, p = (torch.rand(*s, generator=generator, dtype=torch.float64) + 1 for s in ((3, 1), (1, 4)))
    inputs = [tensor.requires_grad_() for tensor in (sigma, q, p)]
    assert torch.autograd.gradcheck(relu_covariance, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("other", ["equal", "opposite", "zero"])
def test_gradients_are_finite_at_the_ends_of_the_range(other: str, dtype: torch.dtype) -> None:
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(3), dtype=dtype).requires_grad_()
    y = {"equal": x, "opposite": -x, "zero": 0 * x}[other].detach()
    sigma, q, p = (x * y).sum(1), x.square().sum(1), y.square().sum(1)
    t, phi = relu_covariance(sigma, q, p)
    (t.sum() + phi.sum()).backward()
    assert torch.isfinite(x.grad).all()
    expected = {"equal": 0.5 * sigma, "opposite": 0 * sigma, "zero": 0 * sigma}[other]
    torch.testing.assert_close(t, expected, rtol=1e-3, atol=3e-3)


def test_angle_zero_on_the_diagonal_is_exact() -> None:
    x = 100 * torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    sigma, q, p = gram(x)
    t, phi = relu_covariance(sigma, q, p, torch.eye(6, dtype=torch.bool))
    assert torch.equal(t.diagonal(), sigma.diagonal() / 2)
    assert torch.equal(phi.diagonal(), torch.full((6,), 0.5))


def test_right_angle_is_independence() -> None:
    t, phi = relu_covariance(*(torch.tensor(v, dtype=torch.float64) for v in (0.0, 4.0, 9.0)))
    assert t.item() == pytest.approx(6 / (2 * math.pi)) and phi.item() == pytest.approx(0.25)
